"""Looking at a block of CSV with NumPy: whether its records form a grid, and how its values begin and end."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NEWLINE, RETURN, QUOTE, ZERO, PLUS, MINUS, SPACE, TAB = b'\n\r"0+- \t'

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
Columns = npt.NDArray[np.bool_]


def _table(marks: list[int]) -> Columns:
    table = np.zeros(256, dtype=bool)
    table[marks] = True
    return table


_BLANK = _table([SPACE, TAB])
_OPENING = _table([ZERO, PLUS, MINUS, SPACE, TAB])  # a value that begins so needs a second look
_CLOSING = _table([RETURN, QUOTE, SPACE, TAB])  # and one that ends so


@dataclass(frozen=True)
class Grid:
    """A block whose records are all rows.

    Args:
        places: Its delimiters and line ends outside quotes.
        rows: Number of rows.
        zero_led: By column, an example of a value such as `01234`.
        plus_led: By column, whether a value starts with a plus sign.
        padded: By column, whether a value has a space or tab at an end.
    """

    places: Places
    rows: int
    zero_led: dict[int, str]
    plus_led: Columns
    padded: Columns


def separators(data: Bytes, quoted: bool, delimiter: int) -> Places | None:
    """Delimiters and line ends outside quotes; None if a quote stands where none may."""
    if not quoted:
        return np.flatnonzero((data == delimiter) | (data == NEWLINE))
    places = np.flatnonzero((data == delimiter) | (data == NEWLINE) | (data == QUOTE))
    quotes = data[places] == QUOTE
    inside = np.cumsum(quotes) & 1 == 1
    opening, closing = places[quotes & inside], places[quotes & ~inside]
    before = data[opening - 1]
    before[opening == 0] = NEWLINE
    after = data[np.minimum(closing + 1, len(data) - 1)]
    proper = (before == delimiter) | (before == NEWLINE) | (before == QUOTE)
    ended = (after == delimiter) | (after == NEWLINE) | (after == RETURN) | (after == QUOTE) | (closing == len(data) - 1)
    if not (proper.all() and ended.all()):
        return None
    outside: Places = places[~quotes & ~inside]
    return outside


def look(block: bytes, width: int, delimiter: int) -> Grid | None:
    """Looks at whole lines without a quote; None if some of them is not a row of that width, or not UTF-8."""
    data = np.frombuffer(block, np.uint8)
    places = separators(data, False, delimiter)
    assert places is not None
    ends = np.flatnonzero(data[places] == NEWLINE)
    if not is_regular(data, places, ends, width) or not is_text(block):
        return None
    return measure(data, places, False, width, delimiter)


def is_regular(data: Bytes, places: Places, ends: Places, width: int) -> bool:
    """Whether every record has `width` fields, and no line is blank.

    Args:
        data: The block.
        places: Its separators, up to the last line end.
        ends: Which of `places` are line ends.
        width: Number of columns.
    """
    if len(places) != len(ends) * width or not (ends == np.arange(1, len(ends) + 1) * width - 1).all():
        return False
    if width > 1:
        return True
    first = data[np.concatenate([[0], places[:-1] + 1])]  # a blank line is a grid of one column too
    return not (_BLANK[first] | (first == NEWLINE) | (first == RETURN)).any()


def is_text(block: bytes) -> bool:
    """Whether these bytes are UTF-8."""
    if block.isascii():
        return True
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


def measure(data: Bytes, places: Places, quoted: bool, width: int, delimiter: int) -> Grid:
    """Counts the rows of a regular block that ends with a line end, and looks at the first and last byte of every value."""
    starts = np.empty_like(places)
    starts[0] = 0
    starts[1:] = places[:-1] + 1
    if quoted:
        starts = starts + (data[starts] == QUOTE)
    grid = Grid(places, len(places) // width, {}, np.zeros(width, bool), np.zeros(width, bool))
    opening = np.flatnonzero(_OPENING[data[starts]])
    if len(opening):
        _openings(grid, data, starts[opening], opening % width, delimiter)
    closing = np.flatnonzero(_CLOSING[data[places - 1]])  # before an empty first value stands, by wrapping round, the last line end
    if len(closing):
        _closings(grid, data, places[closing] - 1, closing % width, delimiter)
    return grid


def _openings(grid: Grid, data: Bytes, starts: Places, columns: Places, delimiter: int) -> None:
    first = data[starts]
    grid.padded[columns[_BLANK[first] & (first != delimiter)]] = True
    grid.plus_led[columns[first == PLUS]] = True
    digits = starts + ((first == MINUS) | (first == PLUS))
    room = digits + 1 < len(data)
    starts, digits, columns = starts[room], digits[room], columns[room]
    following = data[digits + 1]
    led = (data[digits] == ZERO) & (following >= ZERO) & (following <= ZERO + 9)
    for column in np.flatnonzero(np.bincount(columns[led], minlength=len(grid.padded))):
        grid.zero_led[int(column)] = _value(data, int(starts[led & (columns == column)][0]), delimiter)


def _closings(grid: Grid, data: Bytes, ends: Places, columns: Places, delimiter: int) -> None:
    last = data[ends]
    for mark in (RETURN, QUOTE):  # the space of `"a "` and a carriage return stands before them
        ends = ends - (last == mark)
        last = data[ends]
    grid.padded[columns[_BLANK[last] & (last != delimiter)]] = True


def _value(data: Bytes, at: int, delimiter: int) -> str:
    text = data[at : at + 64].tobytes()
    for mark in (bytes([delimiter]), b"\n", b"\r", b'"'):
        text = text.split(mark)[0]
    return text.decode("utf-8", "replace")
