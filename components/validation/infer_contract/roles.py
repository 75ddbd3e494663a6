"""What each column is for, from what the user says, and else from what it holds."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kfp_foundry.components.common.contract import Role, Type
from kfp_foundry.components.common.errors import UserError, close_names
from kfp_foundry.components.common.report.format import human, percent
from kfp_foundry.components.validation.infer_contract.profile import Profile

EXACT = 2**53  # whole numbers beyond it lose digits in a model's float64 inputs
_LONG_TEXT = 60  # characters on average, from which unique texts are prose and not identifiers
_OWN_VALUE = 0.5  # different values per value, from which a text says nothing about other rows
_REPEATS = 0.25  # the same, from which a column named like an identifier is one that repeats, and no code such as a region's
_MANY = 50
_MEANT_NUMBER = 0.8  # share of numbers from which a text column was meant to be one
_ID_WORDS = {"id", "ids", "uuid", "guid", "key", "pk", "idx", "index", "rowid", "unnamed"}
_BIRTH_WORDS = {"birth", "birthday", "birthdate", "dob", "born", "geburt", "geburtsdatum", "naissance", "nacimiento"}
_WHEN_WORDS = {"date", "day", "time", "datetime", "timestamp", "ts", "ds", "week", "month", "quarter", "year", "datum", "fecha"}
_LIFETIME = 30 * 365.25  # days; dates that span more are dates of people or things, not of events


@dataclass(frozen=True)
class Wishes:
    """What the user says of the columns; empty where nothing was said."""

    target: str = ""
    time: str = ""
    group: str = ""
    weight: str = ""
    ids: Sequence[str] = ()
    ignore: Sequence[str] = ()
    sensitive: Sequence[str] = ()

    def roles(self) -> list[tuple[str, Role]]:
        """Every column named, with the role it is to have."""
        single = [(self.target, Role.TARGET), (self.time, Role.TIME), (self.group, Role.GROUP), (self.weight, Role.WEIGHT)]
        lists = [(self.ids, Role.ID), (self.ignore, Role.IGNORE), (self.sensitive, Role.SENSITIVE)]
        return [(name, role) for name, role in single if name] + [(name, role) for names, role in lists for name in names]


@dataclass(frozen=True)
class Assigned:
    """A column's role and the reason, for people; empty for a plain feature."""

    role: Role
    why: str = field(default="")


def check_wishes(wishes: Wishes, columns: Sequence[str]) -> None:
    """Refuses columns that are not there, and columns with two roles.

    Raises:
        UserError: With the close names.
    """
    parameter = {
        Role.TARGET: "target", Role.TIME: "time_column", Role.GROUP: "group_column", Role.WEIGHT: "weight_column",
        Role.ID: "id_columns", Role.IGNORE: "ignore_columns", Role.SENSITIVE: "sensitive_columns",
    }  # fmt: skip
    seen: dict[str, Role] = {}
    for name, role in wishes.roles():
        if name not in columns:
            raise UserError(f"{name!r} is not a column of the table", where=parameter[role], remedy=close_names(name, list(columns)))
        if seen.setdefault(name, role) is not role:
            remedy = f"name it in {parameter[seen[name]]} or in {parameter[role]} only"
            raise UserError(f"{name!r} is named in {parameter[seen[name]]} too", where=parameter[role], remedy=remedy)


def assign(columns: Mapping[str, Profile], wishes: Wishes) -> dict[str, Assigned]:
    """Gives every column its role.

    A wish is fulfilled. Otherwise: a column without information, or of no plain type, is ignored; one whose values are all
    different, and are texts, running numbers or named like an identifier, is an id; the only column of event dates is the
    time, unless a group is named; a text of which almost every value stands once is ignored; the rest are features.

    Args:
        columns: Their profiles.
        wishes: What the user says.

    Raises:
        UserError: A wish that the column cannot fulfil, such as a time that is no date.
    """
    wished = dict(wishes.roles())
    for name, role in wished.items():
        _check_possible(columns[name], role)
    roles = {name: Assigned(wished[name], "as asked for" if wished[name] is not Role.TARGET else "") for name in columns if name in wished}
    roles |= {name: _found(column) for name, column in columns.items() if name not in wished}
    if Role.TIME not in wished.values() and not wishes.group:  # who names a group wants to split by it
        _find_time(columns, roles)
    groups = [name for name, assigned in roles.items() if assigned.role is Role.GROUP]
    for name in groups:
        if name not in wished and (wishes.group or name != groups[0]):
            roles[name] = Assigned(Role.IGNORE, f"looks like an identifier that repeats, and the group is {wishes.group or groups[0]!r}")
    return {name: roles[name] for name in columns}


def _check_possible(column: Profile, role: Role) -> None:
    if role is Role.TIME and column.kind not in (Type.DATE, Type.DATETIME):
        example = f" such as {next(iter(column.counts))!r}" if column.counts else ""
        raise UserError(
            f"{column.name!r} holds {column.kind} values{example}, not dates",
            where="time_column",
            remedy="write the column as ISO dates (2024-05-31T14:05:00), or leave time_column empty",
        )
    if role is Role.WEIGHT and (not column.is_number or column.missing or column.least is None or column.least < 0):
        found = (
            f"holds {column.kind} values"
            if not column.is_number
            else f"has {column.missing:,} missing values and {human(column.least)} as its smallest"
        )
        raise UserError(f"{column.name!r} {found}", where="weight_column", remedy="give a column of numbers >= 0 without missing values")


def _found(column: Profile) -> Assigned:
    if column.kind is Type.ANY:
        return Assigned(Role.IGNORE, f"its type {column.dtype} is no plain value")
    if column.present == 0:
        return Assigned(Role.IGNORE, "all its values are missing")
    if column.distinct == 1 and not column.missing:
        return Assigned(Role.IGNORE, f"it holds one value only, {next(iter(column.counts), column.least)!r}")
    if column.is_number and column.least == column.most and not column.missing:
        return Assigned(Role.IGNORE, f"it holds one value only, {column.least!r}")
    if column.kind is Type.STRING:
        return _found_text(column)
    if column.is_number:
        return _found_number(column)
    return Assigned(Role.FEATURE)


def _found_text(column: Profile) -> Assigned:
    if column.distinct > _MANY and column.distinct_share > _OWN_VALUE and _MEANT_NUMBER * column.present <= column.numbers < column.present:
        return Assigned(Role.IGNORE, f"mixed: {column.numbers:,} of {column.present:,} texts are numbers, others are not, such as {column.other!r}")
    if column.is_unique:
        if (column.length or 0) > _LONG_TEXT:
            return Assigned(Role.IGNORE, "free text: long, and different in every row")
        return Assigned(Role.ID, "its text is different in every row")
    if _named_id(column.name) and column.distinct_share > _REPEATS and column.distinct > _MANY:
        return Assigned(Role.GROUP, f"named like an identifier, and {percent(1 - column.distinct_share)} of its values repeat another")
    if column.distinct_share > _OWN_VALUE and column.distinct > _MANY:
        return Assigned(Role.IGNORE, f"almost every row has a text of its own ({column.distinct:,} different ones)")
    return Assigned(Role.FEATURE)


def _found_number(column: Profile) -> Assigned:
    whole = column.kind is Type.INTEGER
    if whole and column.is_unique and (_named_id(column.name) or _is_running(column)):
        return Assigned(Role.ID, "it is a number of its own in every row")
    if whole and max(abs(column.least or 0), abs(column.most or 0)) > EXACT:
        if column.is_unique:
            return Assigned(Role.ID, "its numbers are different in every row and too long for a quantity")
        return Assigned(Role.IGNORE, "its numbers have more digits than a model can tell apart (beyond 2^53)")
    if _named_id(column.name) and column.distinct_share > _REPEATS and column.distinct > _MANY:
        if whole:
            return Assigned(Role.GROUP, f"named like an identifier, and {percent(1 - column.distinct_share)} of its values repeat another")
        return Assigned(Role.IGNORE, "named like an identifier, with almost a number of its own in every row")
    return Assigned(Role.FEATURE)


def _is_running(column: Profile) -> bool:
    if _says_when(column.name):
        return False  # years, months or days counted one by one say when, and not who
    return column.rows >= 20 and int(column.most) - int(column.least) + 1 <= 1.05 * column.rows


def _find_time(columns: Mapping[str, Profile], roles: dict[str, Assigned]) -> None:
    """The only feature of dates that could be those of events becomes the time."""
    candidates = [name for name, assigned in roles.items() if assigned.role is Role.FEATURE and _is_event(columns[name])]
    if len(candidates) == 1:
        alone = all(assigned.role is not Role.FEATURE for name, assigned in roles.items() if name not in candidates)
        roles[candidates[0]] = (
            Assigned(Role.FEATURE, "the only column to predict from, and so not the time")
            if alone
            else Assigned(Role.TIME, "the only column with dates of events")
        )
    for name in candidates if len(candidates) > 1 else []:
        roles[name] = Assigned(Role.FEATURE, f"one of {len(candidates)} columns with dates; time_column says which one orders the rows")


def _is_event(column: Profile) -> bool:
    if column.kind not in (Type.DATE, Type.DATETIME) or column.distinct < 3 or column.missing_share > 0.05:
        return False
    span = (column.most - column.least).total_seconds() / 86_400
    return not _BIRTH_WORDS & set(_words(column.name)) and (span <= _LIFETIME or _says_when(column.name))


def _named_id(name: str) -> bool:
    words = _words(name)
    return bool(words) and (words[-1] in _ID_WORDS or words[0] in _ID_WORDS)


def _says_when(name: str) -> bool:
    words = _words(name)
    return bool(words) and set(words) <= _WHEN_WORDS


def _words(name: str) -> list[str]:
    """The words of a column's name: `customerID`, `customer_id` and `Customer Id` have the same ones."""
    return [word.casefold() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\dA-Za-z_]+", name)]
