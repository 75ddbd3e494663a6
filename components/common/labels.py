"""The two labels of a binary target: which one a person means, and which one is positive when nobody says."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

YES = frozenset({"1", "true", "t", "yes", "y", "positive", "pos", "si", "oui", "ja"})

L = TypeVar("L")


def named(labels: Iterable[L], wanted: object) -> L | None:
    """The label that is wanted, whichever way it is written; None when there is none.

    An equal label comes first, then one that is written so, then the only one that is written so but for case, blanks around it
    and the fraction of a whole number.

    Example:
        >>> named([0, 1], "1.0"), named([False, True], "true"), named(["Yes", "yes"], "YES")
        (1, True, None)
    """
    known = list(labels)
    for same in (
        [label for label in known if label == wanted],
        [label for label in known if str(label) == str(wanted)],
        [label for label in known if folded(label) == folded(wanted)],
    ):
        if len(same) == 1:
            return same[0]
    return None


def find_positive(counts: Mapping[L, int]) -> tuple[L, str]:
    """The positive one of two labels, and why.

    Args:
        counts: Label to how many rows have it; labels of one type.

    Example:
        >>> find_positive({"No": 90, "Yes": 10}), find_positive({"good": 70, "bad": 30})
        (('Yes', 'since it says yes'), ('bad', 'the rarer one'))
    """
    said = [label for label in counts if folded(label) in YES]
    if len(said) == 1:
        return said[0], "since it says yes"
    rarer = min(sorted(counts, key=_order, reverse=True), key=counts.__getitem__)
    return rarer, "the rarer one" if counts[rarer] * 2 != sum(counts.values()) else "the last of two equally frequent ones"


def folded(label: object) -> str:
    """A label as people write it: 1.0 as 1, True as true."""
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    return str(label).strip().casefold().removesuffix(".0")


def _order(label: object) -> tuple[float, str]:
    return float(label) if isinstance(label, (int, float)) else 0.0, str(label)
