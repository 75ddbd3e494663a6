"""The parity gate: the served graph against the model as its library computes it, on rows that are meant to break it.

Compared are held-out rows as they are, and copies of some of them: with a missing value in one column after the other and in
all, with an unseen category in one text column after the other, and with extreme numbers in one column after the other.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from kfp_foundry.components.common.artifacts.model import Parity, open_session
from kfp_foundry.components.common.errors import FoundryError
from kfp_foundry.components.common.onnx.heads import THRESHOLD

TOLERANCE = 1e-9
HELD_OUT = 50_000  # rows at most, evenly spread
COPIED = 20  # rows at most that are copied for each broken column
CELLS = 4_000_000  # values compared at once, so that a table of thousands of columns does not fill the memory
UNSEEN: tuple[str, ...] = ("\u2603 never seen", "None", "nan", "<NA>", " ")
EXTREME: tuple[float, ...] = (0.0, -0.0, -1.0, 1e-300, 1e16, -1e16, 1e308, -1e308, np.inf, -np.inf)

UNKNOWN = -1  # position of a label that the model does not have

Feed = Mapping[str, np.ndarray]
# Values [rows] or [rows, classes], and the position of the label [rows]; labels are None for a regression.
Answer = tuple[np.ndarray, np.ndarray | None]


def check(native: Callable[[Feed], Answer], served: Callable[[Feed], Answer], held_out: Feed, spread: float = 1.0) -> Parity:
    """Measures the difference between two forms of a model.

    Args:
        native: The model as its library computes it.
        served: The model as its graph computes it.
        held_out: Feed of rows that were not trained on.
        spread: Unit of the difference: 1 for probabilities, the target's standard deviation for a regression.

    Returns:
        What was compared, the largest difference (each row's is divided by the largest of 1, `spread` and its value), and how many
        labels differ.
    """
    kinds: dict[str, int] = {}
    worst, changed, wrong = 0.0, 0, 0
    for kind, rows in _challenges(held_out):
        expected, expected_labels = native(rows)
        found, found_labels = served(rows)
        same = (expected == found) | (np.isnan(expected) & np.isnan(found))  # equal infinities have no difference
        with np.errstate(invalid="ignore", over="ignore"):
            unit = np.maximum(np.maximum(1.0, spread), np.abs(expected))
            difference = np.where(same, 0.0, np.abs(expected - found) / unit)
        worst = max(worst, float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0)))
        if expected_labels is not None and found_labels is not None:
            differ = np.flatnonzero(expected_labels != found_labels)
            changed += len(differ)
            wrong += len(differ) - int(_undecided(expected[differ], found_labels[differ]).sum())
        kinds[kind] = kinds.get(kind, 0) + len(expected)
    return Parity(rows=sum(kinds.values()), max_difference=worst, changed_labels=changed, wrong_labels=wrong, tolerance=TOLERANCE, kinds=kinds)


def _undecided(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which rows may have another label [rows] than the library's values [rows] or [rows, classes] say: those within the tolerance of it."""
    if values.ndim == 1:
        return np.asarray(np.abs(values - THRESHOLD) <= TOLERANCE)
    own = np.take_along_axis(values, np.maximum(labels, 0)[:, np.newaxis], axis=1)[:, 0]
    return np.asarray((labels >= 0) & (values.max(axis=1) - own <= 2 * TOLERANCE))  # each of the two may be off by the tolerance


def refuse(parity: Parity) -> None:
    """Lets no model pass whose graph differs.

    Raises:
        FoundryError: The difference is above the tolerance, or a label differs where the values leave no doubt.
    """
    remedy = "the model is not published; please report this with the parameters used"
    if parity.wrong_labels:
        raise FoundryError(
            f"the ONNX graph gives {parity.wrong_labels:,} of {parity.rows:,} rows another label than the trained model",
            where="train_model, parity gate",
            remedy=remedy,
        )
    if not parity.max_difference <= parity.tolerance:
        raise FoundryError(
            f"the ONNX graph is up to {parity.max_difference:.3g} off the trained model (allowed: {parity.tolerance:.0e}, rows: {parity.rows:,})",
            where="train_model, parity gate",
            remedy=remedy,
        )


def session_answers(onnx: bytes, outputs: list[str], positions: Mapping[object, int]) -> Callable[[Feed], Answer]:
    """Answers of a serialized graph: its label output as positions, its other outputs side by side."""
    session = open_session(onnx, threads=1)  # more threads add in another order, and the record's last digits would depend on it
    label = next((name for name in outputs if name.startswith("prediction")), "") if positions else ""

    def answer(feed: Feed) -> Answer:
        found = dict(zip(outputs, session.run(outputs, dict(feed)), strict=True))
        labels = np.array([positions.get(value, UNKNOWN) for value in found.pop(label).tolist()]) if label else None
        values = list(found.values())
        return (values[0] if len(values) == 1 else np.column_stack(values)), labels

    return answer


def _challenges(held_out: Feed) -> Iterator[tuple[str, Feed]]:
    count, width = len(next(iter(held_out.values()))), len(held_out)
    yield "held out", _take(held_out, _spread(count, min(count, HELD_OUT)))
    few = _take(held_out, _spread(count, min(count, COPIED, max(1, CELLS // (width * width)))))
    waiting: dict[str, list[Feed]] = {}
    for kind, feed in _broken(few):
        waiting.setdefault(kind, []).append(feed)
        if width * len(waiting[kind]) * len(next(iter(few.values()))) >= CELLS:
            yield kind, _joined(waiting.pop(kind))
    for kind, feeds in waiting.items():
        yield kind, _joined(feeds)


def _broken(few: Feed) -> Iterator[tuple[str, Feed]]:
    yield "missing", {name: np.full_like(values, _gap(values)) for name, values in few.items()}
    for name, values in few.items():
        yield "missing", {**few, name: np.full_like(values, _gap(values))}
        kind, odds = ("unseen", UNSEEN) if values.dtype == object else ("extreme", EXTREME)
        for odd in odds:
            yield kind, {**few, name: np.full_like(values, odd)}


def _joined(feeds: list[Feed]) -> Feed:
    """One feed of many: one call of a library for thousands of rows costs little more than one for a few."""
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def _spread(count: int, wanted: int) -> np.ndarray:
    return np.linspace(0, count - 1, wanted).astype(np.int64)


def _take(feed: Feed, positions: np.ndarray) -> Feed:
    return {name: values[positions] for name, values in feed.items()}


def _gap(values: np.ndarray) -> str | float:
    return "" if values.dtype == object else np.nan
