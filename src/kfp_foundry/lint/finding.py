"""What a rule says."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is."""

    ERROR = "error"  # a run fails on a cluster, or somewhere silently takes a wrong value
    WARNING = "warning"  # a run fails on some platform, or its result cannot be reproduced
    NOTE = "note"  # good to know


@dataclass(frozen=True)
class Finding:
    """One finding.

    Args:
        rule: The rule's name, such as `loop-outer-output`.
        level: How bad it is.
        place: Where in the pipeline: graph, task and input, or step.
        why: What happens, and where.
        remedy: What to do.
    """

    rule: str
    level: Level
    place: str
    why: str
    remedy: str
