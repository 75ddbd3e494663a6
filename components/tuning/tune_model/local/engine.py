"""A search on this machine: Optuna chooses, processes do the trials, and a search that was interrupted goes on.

What is guaranteed: the trials, their order and their values follow from the search, the rows and `parallel_trials`, whatever the
machine, its speed, and however often the search was killed and run again. For that a trial sees the results of exactly those
trials that are `parallel_trials` or more before it, and results count in order of the trials' numbers. The price is that a worker
may wait for the slowest trial of its time. Algorithms that do not look at results (random, grid, sobol) wait for nothing.
Another `parallel_trials` is another search for those that do. A limit of seconds or a lack of memory can change results, of course.
"""

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kfp_foundry.components.common import platform
from kfp_foundry.components.common.report.format import human
from kfp_foundry.components.common.tracking import lock
from kfp_foundry.components.tuning.tune_model.local import sampling, stopping
from kfp_foundry.components.tuning.tune_model.local.crew import Crew, Recipe
from kfp_foundry.components.tuning.tune_model.local.journal import Journal
from kfp_foundry.components.tuning.tune_model.search import Search
from kfp_foundry.components.tuning.tune_model.space import Scalar
from kfp_foundry.components.tuning.tune_model.study import Reason, State, Study, Trial, conclude, reason_to_end

TRIES = 3  # of a trial whose process is killed from outside

log = logging.getLogger(__name__)


@dataclass
class Running:
    """A trial on a worker."""

    number: int
    params: dict[str, Scalar]
    deadline: float | None


def workers(search: Search) -> int:
    """How many trials run at once; `parallel_trials`, or one when it is 0 and results count, else one for each CPU."""
    if search.parallel_trials:
        return search.parallel_trials
    return min(platform.cpus(), search.max_trials) if window(search) is None else 1


def window(search: Search) -> int | None:
    """How many trials before its own a trial does not look at; None when it looks at none."""
    looks_back = search.algorithm not in sampling.INDEPENDENT or search.early_stopping or search.algorithm == "hyperband"
    return (search.parallel_trials or 1) if looks_back else None


def threads(search: Search) -> int:
    """CPUs for each trial."""
    return max(1, platform.cpus() // workers(search))


def tune(search: Search, recipe: Recipe, folder: Path) -> Study:
    """Runs a search, or the rest of it.

    Args:
        search: The search.
        recipe: How a process makes the objective.
        folder: Where the search's record is; the same for the same search, so that it is found again.

    Returns:
        All trials up to the one that ended the search, with how it ended. Nothing is run for a search that has succeeded before.

    Raises:
        FoundryError: The objective cannot be made; the error is the one that it gave.
        PlatformError: A library is missing, the folder cannot be written, or processes cannot be started.

    Example:
        >>> study = tune(search, Recipe("kfp_foundry.components.tuning.tune_model.objective:load", arguments), folder)
        >>> study.winner().params
    """
    sampling.require(search)
    with lock(folder / "lock"):
        return _Run(search, recipe, Journal(folder, search)).run()


class _Run:
    def __init__(self, search: Search, recipe: Recipe, journal: Journal) -> None:
        self.search, self.recipe, self.journal = search, recipe, journal
        self.ended = journal.ended()
        self.running: dict[int, Running] = {}
        self.kills: dict[int, int] = {}
        # The trials that count: those that have ended, from the first on without a gap, up to the one that ended the search.
        self.row: list[Trial] = []
        self.reason: Reason | None = None
        self._advance()

    def run(self) -> Study:
        if self.ended:
            log.info("%d trials of this search have been run before", len(self.ended))
        if self.reason is None:
            with Crew(self.recipe, workers(self.search)) as crew:
                while self.reason is None:
                    self._fill(crew)
                    for slot, answer in crew.wait(self._patience()):
                        self._take(slot, answer)
                    self._end_late(crew)
        return conclude(self.row, self.search)

    def _advance(self) -> None:
        while self.reason is None and len(self.row) in self.ended and len(self.row) < self.search.max_trials:
            self.row.append(self.ended[len(self.row)])
            self.reason = reason_to_end(self.row, self.search)

    def _fill(self, crew: Crew) -> None:
        """Gives every worker without a trial the next one that may start."""
        for slot in range(workers(self.search)):
            number = self._next()
            if slot in self.running or number is None:
                continue
            behind = window(self.search)
            before = self.row if behind is None else self.row[: max(0, number - behind + 1)]
            params = self.journal.ask(number, before)
            limits = stopping.limits(self.search, number, before)
            order = {"number": number, "params": params, "metric": self.search.metric, "direction": self.search.direction, "limits": asdict(limits)}
            crew.give(slot, order)
            seconds = self.search.trial_seconds
            self.running[slot] = Running(number, params, time.monotonic() + seconds if seconds else None)

    def _next(self) -> int | None:
        """The first trial that has neither ended nor is running, if it may start now."""
        busy = {trial.number for trial in self.running.values()}
        number = next(count for count in range(self.search.max_trials + 1) if count not in self.ended and count not in busy)
        behind = window(self.search)
        waits = behind is not None and number - behind + 1 > len(self.row)
        return None if number >= self.search.max_trials or waits else number

    def _take(self, slot: int, answer: dict[str, Any] | None) -> None:
        trial = self.running.pop(slot)
        if answer is None:
            self.kills[trial.number] = self.kills.get(trial.number, 0) + 1
            if self.kills[trial.number] < TRIES:
                log.warning("the process of trial %d was killed: the trial is run again", trial.number)
                return
            answer = _lost(f"its process was killed {TRIES} times, as by a lack of memory: run fewer trials at once, or give the step more memory")
        self._record(trial.number, answer)

    def _record(self, number: int, answer: dict[str, Any]) -> None:
        trial = self.ended[number] = self.journal.record(number, answer)
        self._advance()
        best = conclude(self.row, self.search).best
        leader = f"; best {human(best.value)} in trial {best.number}" if best is not None else ""
        said = trial.message or (f"{self.search.metric} {human(trial.value)}" if trial.value is not None else "")
        log.info("trial %d %s in %.1f s: %s%s", number, trial.state, trial.seconds, said, leader)

    def _patience(self) -> float | None:
        deadlines = [trial.deadline for trial in self.running.values() if trial.deadline is not None]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _end_late(self, crew: Crew) -> None:
        for slot, trial in list(self.running.items()):
            if trial.deadline is not None and time.monotonic() >= trial.deadline:
                crew.dismiss(slot)
                del self.running[slot]
                limit = self.search.trial_seconds
                lost = _lost(f"took longer than {limit} s: raise trial_seconds, or narrow the search", seconds=float(limit))
                self._record(trial.number, lost)


def _lost(message: str, seconds: float = 0.0) -> dict[str, Any]:
    started = time.time() - seconds
    return {"state": State.FAILED, "reports": [], "metrics": {}, "started": started, "seconds": seconds, "message": message}
