"""The one error hierarchy: every message names what was wrong, where, and what to do about it."""

from typing import ClassVar


class FoundryError(Exception):
    """An error that a person can act on.

    Args:
        what: What was wrong, with the value.
        where: The file, column, row, step or remote object.
        remedy: What to do, as a short imperative.

    Example:
        >>> print(UserError("target 'Chrun' is not a column", where="customers.csv", remedy="did you mean 'Churn'?"))
        customers.csv: target 'Chrun' is not a column; did you mean 'Churn'?
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.remedy}"


class UserError(FoundryError):
    """A parameter, option or file that the user gave is wrong."""


class DataError(FoundryError):
    """The data cannot be read or used as they are."""


class IntegrityError(FoundryError):
    """An artifact is not what its digests say."""


class PlatformError(FoundryError):
    """A service or facility that the step needs is absent or refuses."""


class GateRefused(FoundryError):
    """A gate said no. Not a fault: the pipeline did its work."""

    exit_code: ClassVar[int] = 3


def close_names(name: str, known: list[str]) -> str:
    """The remedy for a name that is not there: the closest known names, longer forms of it first, or all of them when none is close.

    Example:
        >>> close_names("Chrun", ["Churn", "Age"])
        "did you mean 'Churn'?"
    """
    from difflib import get_close_matches

    folded, given = {k.casefold(): k for k in known}, name.casefold()
    longer = [k for k in folded if k.startswith(given)] if len(given) >= 3 else []
    near = get_close_matches(given, list(folded), n=3, cutoff=0.6)
    # A name that is there but for its case is nearer than a longer one.
    ordered = dict.fromkeys([*(k for k in near if k == given), *longer, *near])
    close = [folded[k] for k in ordered][:3]
    if close:
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    return f"choose one of: {shown}"
