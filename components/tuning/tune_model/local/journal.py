"""The record of a search on disk: Optuna's journal, written so that a search goes on after `kill -9` at any moment.

Parameters are on disk before a trial is started, what it came to is as soon as it is known, so a trial is run again if and only if
it had not ended, with its own number and its own parameters. One process at a time writes, which the lock of `local.tune` sees to.
"""

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kfp_foundry.components.common.files import unwritable
from kfp_foundry.components.tuning.tune_model.local import sampling
from kfp_foundry.components.tuning.tune_model.search import Search
from kfp_foundry.components.tuning.tune_model.space import Scalar
from kfp_foundry.components.tuning.tune_model.study import STRATEGY, State, Trial, conclude, failed, value_of

if TYPE_CHECKING:
    from optuna.study import Study as OptunaStudy
    from optuna.trial import FrozenTrial
    from optuna.trial import Trial as OptunaTrial

FILE = "journal.log"
NAME = "search"
RECORD = "record"  # the user attribute that says what a trial came to

log = logging.getLogger(__name__)


class Journal:
    """A search's trials.

    Args:
        folder: Where the file is.
        search: The search.

    Raises:
        PlatformError: The place cannot be written.
    """

    def __init__(self, folder: Path, search: Search) -> None:
        self.path = folder / FILE
        self._search = search
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            _cut_half_line(self.path)
            self._study = _open_or_begin(self.path, search)
        self._told = sum(trial.state.is_finished() for trial in self._all())
        self._again_if_failed()

    def __len__(self) -> int:
        """How many trials have begun."""
        return len(self._all())

    def ended(self) -> dict[int, Trial]:
        """The trials that have ended, by number."""
        found = ((trial, trial.user_attrs.get(RECORD)) for trial in self._all())
        return {trial.number: _read(trial.number, trial.params, record, self._search) for trial, record in found if record is not None}

    def ask(self, number: int, before: Sequence[Trial]) -> dict[str, Scalar]:
        """The parameters of a trial, which are on disk when this returns.

        Args:
            number: The trial's: one that has begun, or the next.
            before: The trials whose results count, from number 0 on without a gap.
        """
        self._tell(before)
        with self._writing():
            self._study.sampler = self._sampler(number, before, "")
            trial = self._trial(number) if number < len(self) else self._study.ask()
            _ = trial.relative_params  # drawn now, with the sampler of this trial
            for name, words in sampling.searched(self._search).items():
                self._study.sampler = self._sampler(number, before, name)
                if not words.numeric:
                    trial.suggest_categorical(name, list(words.values))
                elif words.type == "int":
                    low, high = (int(end) for end in words.range)
                    trial.suggest_int(name, low, high, log=words.log, step=int(words.step or 1))
                else:
                    trial.suggest_float(name, *words.range, log=words.log, step=words.step)
        return sampling.typed(self._search, trial.params)

    def record(self, number: int, answer: Mapping[str, Any]) -> Trial:
        """Puts on disk what a trial came to: a worker's answer."""
        trial = self._trial(number)
        with self._writing():
            trial.set_user_attr(RECORD, dict(answer))
        return _read(number, trial.params, answer, self._search)

    def _tell(self, before: Sequence[Trial]) -> None:
        """Lets the sampler see results, in order of the trials' numbers."""
        from optuna.trial import TrialState

        for trial in before[self._told :]:
            with self._writing():
                if self._all()[trial.number].state.is_finished():
                    pass  # told by an attempt before, which ran on past one that is repeated now
                elif trial.state is State.EARLY_STOPPED:
                    self._trial(trial.number).report(trial.value or 0.0, step=len(trial.reports))
                    self._study.tell(trial.number, state=TrialState.PRUNED)
                elif trial.state is State.SUCCEEDED:
                    self._study.tell(trial.number, trial.value)
                else:
                    self._study.tell(trial.number, state=TrialState.FAIL)
            self._told += 1

    def _sampler(self, number: int, before: Sequence[Trial], name: str) -> Any:
        params = sampling.given(self._search, number, before)
        return sampling.sampler(self._search, number, name) if params is None else _fixed(params)

    def _all(self) -> "list[FrozenTrial]":
        return self._study.get_trials(deepcopy=False)

    def _trial(self, number: int) -> "OptunaTrial":
        from optuna.trial import Trial as OptunaTrial

        return OptunaTrial(self._study, self._all()[number]._trial_id)

    def _again_if_failed(self) -> None:
        """Run again, a search that failed keeps its good trials and repeats the others: their reason may be gone."""
        from optuna.trial import TrialState, create_trial

        ended = self.ended()
        whole = [ended[number] for number in range(len(ended)) if number in ended]
        if not failed(whole) or conclude(whole, self._search).state != "failed":
            return
        log.info("the search failed before: its %d failed trials are run again", len(failed(whole)))
        draft = self.path.with_name(f".{FILE}.tmp")
        with self._writing():
            draft.unlink(missing_ok=True)
            study = _open(draft, self._search)
            for trial in self._all():
                broken = trial.number in ended and ended[trial.number] in failed(whole)
                unfinished = broken or not trial.state.is_finished()
                kept = {} if broken else trial.user_attrs
                if unfinished:
                    begun = create_trial(state=TrialState.RUNNING, params=trial.params, distributions=trial.distributions, user_attrs=kept)
                    study.add_trial(begun)
                else:
                    study.add_trial(trial)
            draft.replace(self.path)
            self._study = _open(self.path, self._search)
        states = [trial.state.is_finished() for trial in self._all()]
        self._told = states.index(False) if False in states else len(states)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of samplers that Optuna calls experimental
                yield
        except OSError as error:
            raise unwritable(self.path, error) from error


def _open(path: Path, search: Search) -> "OptunaStudy":
    import optuna
    from optuna.storages import JournalStorage

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(_backend(path))
    pruner = optuna.pruners.NopPruner()
    return optuna.create_study(study_name=NAME, storage=storage, direction=search.direction, pruner=pruner, load_if_exists=True)


def _open_or_begin(path: Path, search: Search) -> "OptunaStudy":
    """The study of a file; one that cannot be read, as after a power cut, is put aside and the search begins anew."""
    try:
        return _open(path, search)
    except (ValueError, KeyError) as error:
        aside = path.with_suffix(".damaged")
        log.warning("%s cannot be read (%s): it is kept as %s, and the search begins anew", path, error, aside.name)
        path.replace(aside)
        return _open(path, search)


def _backend(path: Path) -> Any:
    """Optuna's file, written without its lock, which outlives `kill -9`, and without a wait for the disk at each line.

    What the kernel was given survives `kill -9`; a power cut may take the last lines, whose trials are run again.
    """
    from optuna.storages.journal import JournalFileBackend

    class Alone:
        def acquire(self) -> bool:
            return True

        def release(self) -> None:
            return None

    class File(JournalFileBackend):
        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            with path.open("ab") as file:
                file.write(b"".join(json.dumps(entry, separators=(",", ":")).encode() + b"\n" for entry in logs))

    return File(str(path), lock_obj=cast(Any, Alone()))


def _fixed(params: Mapping[str, Scalar]) -> Any:
    """A sampler that gives what was computed elsewhere."""
    from optuna.samplers import BaseSampler

    class Fixed(BaseSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            return {}

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            return params[param_name]

    return Fixed()


def _cut_half_line(path: Path) -> None:
    """Takes away the end of a file that a full disk or a power cut left without its last part."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        log.warning("%s ends in the middle of a line, which is left out", path)
        os.truncate(path, whole)


def _read(number: int, params: Mapping[str, Any], record: Mapping[str, Any], search: Search) -> Trial:
    """A trial from what a worker said of it."""
    words = json.loads(json.dumps(record))
    state = State(words["state"])
    usable = state in (State.SUCCEEDED, State.EARLY_STOPPED)
    return Trial(
        number=number,
        state=state,
        params=sampling.typed(search, params),
        value=value_of(words["reports"], search.direction, STRATEGY) if usable else None,
        metrics=words["metrics"],
        reports=tuple(words["reports"]),
        started=words["started"],
        seconds=words["seconds"],
        message=words["message"],
    )
