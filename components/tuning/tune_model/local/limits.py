"""What ends a trial early, as the process that runs it is told; this module imports little, so that such a process starts fast."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kfp_foundry.components.tuning.tune_model.study import better, value_of


@dataclass(frozen=True)
class Limits:
    """What ends a trial early.

    Args:
        mean: The best report so far must not be worse than this; None for no such rule.
        start: From this report on, counted from 1.
        rungs: Report, counted from 1 and as text, to the value that this very report must reach.
    """

    mean: float | None = None
    start: int = 0
    rungs: Mapping[str, float] = field(default_factory=dict)

    def reached(self, reports: Sequence[float], direction: str) -> bool:
        """Whether a trial that has reported these is to end."""
        if self.mean is not None and len(reports) >= self.start:
            best = value_of(reports, direction)
            if best is not None and better(self.mean, best, direction):
                return True
        wanted = self.rungs.get(str(len(reports)))
        return wanted is not None and better(wanted, reports[-1], direction)
