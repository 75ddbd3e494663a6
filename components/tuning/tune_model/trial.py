"""One trial as a process of its own, as Katib starts it: `python -m ... --num_leaves=31 --learning_rate=0.1`.

The values to try are arguments; all else is in the environment (see `given`). Every report is a line `time name=value`, the form
that Katib's metrics collector reads from standard output. A trial that fails ends with one line `error: ...`, which is also the
pod's termination message: the log of a finished trial is gone at once.
"""

import logging
import math
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from kfp_foundry.components.common.errors import FoundryError, UserError
from kfp_foundry.components.tuning.tune_model.katib import ranked
from kfp_foundry.components.tuning.tune_model.katib.given import MODULE, SAMPLE, Given
from kfp_foundry.components.tuning.tune_model.space import Scalar

if TYPE_CHECKING:
    from kfp_foundry.components.tuning.tune_model.objective import Objective

SAMPLE_TRAIN_SHARE = 0.8  # of a sample's rows, which are in the order of time
TERMINATION_LOG = Path("/dev/termination-log")  # Kubernetes makes it in every container, and puts its content into the pod's status
TERMINATION_BYTES = 4096  # what Kubernetes keeps of it

METRICS_FOLDER = Path("/var/log/katib")  # mounted by Katib's webhook
COLLECTOR = "metricscollector"  # in the name of the collector's program
COLLECTOR_SECONDS = 180.0  # its image may still have to be pulled
SETTLE_SECONDS = 2.0  # what it needs to look for us once it runs

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one trial.

    Returns:
        The exit code: 0 when the metrics were reported.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments(words)
        if ranked.is_node():
            return ranked.start(MODULE, words)
        run(words)
    except FoundryError as error:
        return _end(f"error: {error}")
    except Exception as error:
        traceback.print_exc()
        return _end(f"error: trial: unexpected {type(error).__name__}: {error}; the traceback is above, please report it")
    wait_for_collector(METRICS_FOLDER, COLLECTOR_SECONDS)
    return 0


def run(argv: list[str]) -> None:
    """Reads, prepares, trains and reports.

    Raises:
        UserError: An argument or a variable is wrong.
        DataError: The rows cannot be learned from.
        FoundryError: The objective metric is not finite, or the training does not measure it.
    """
    given = Given.read(os.environ)
    search = given.search
    params = search.typed(arguments(argv))
    metrics = _measured(given, params)
    if metrics is None:
        return
    for name in (search.metric, *search.additional_metrics):
        if name not in metrics:
            known = ", ".join(sorted(metrics)) or "nothing"
            raise FoundryError(f"metric {name!r} was not measured; the trial gave {known}", where="trial", remedy="choose one of these")
        report(name, metrics[name])


def _measured(given: Given, params: dict[str, Scalar]) -> dict[str, float] | None:
    if ranked.is_rank():
        return ranked.value(given, params)
    with tempfile.TemporaryDirectory(prefix="trial-") as folder:
        return _objective(given, Path(folder)).value(params, report)


def arguments(argv: Sequence[str]) -> dict[str, str]:
    """The values of words like `--name=value`.

    Raises:
        UserError: A word of another form, or a name given twice.

    Example:
        >>> arguments(["--num_leaves=31", "--boosting=gbdt"])
        {'num_leaves': '31', 'boosting': 'gbdt'}
    """
    found: dict[str, str] = {}
    for word in argv:
        name, mark, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not mark or not name:
            raise UserError(f"{word!r} is not --name=value", where="trial", remedy="write it like --num_leaves=31")
        if name in found:
            raise UserError(f"--{name} is given twice", where="trial", remedy="give it once")
        found[name] = value
    return found


def report(name: str, value: float) -> None:
    """Writes a metric as Katib's collector reads it.

    Args:
        name: The metric.
        value: Its value.

    Raises:
        FoundryError: The value is not finite. Katib would take `loss=nan` for a loss without a value, and the trial for a good one.
    """
    if not math.isfinite(value):
        raise FoundryError(f"metric {name} is {float(value)}", where="trial", remedy="narrow the ranges: with these values the training diverges")
    # Early stopping looks at the first reports, which Katib's database can order by their time only.
    print(f"{datetime.now(UTC).strftime('%Y-%m-%dT%H:%M:%S.%fZ')} {name}={float(value)!r}", flush=True)


def wait_for_collector(folder: Path, seconds: float) -> None:
    """Lets Katib's metrics collector see this process before it ends.

    The collector is a container of the same pod that may start much later than ours, such as after its image has been pulled. If we
    have ended by then, it finds no process to wait for, fails, and with it the trial (seen with Katib 0.19.0 and short trials).
    """
    if not folder.is_dir():
        return
    limit = time.monotonic() + seconds
    late = False
    while not _collector_runs() and time.monotonic() < limit:
        late = True
        time.sleep(0.25)
    if late:
        time.sleep(SETTLE_SECONDS)


def _collector_runs() -> bool:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            program = file.read_bytes().split(b"\0", 1)[0]
        except OSError:  # it has just ended
            continue
        if COLLECTOR.encode() in program.rpartition(b"/")[2]:
            return True
    return False


def _objective(given: Given, folder: Path) -> "Objective":
    # Imported here: an argument that is wrong is told before seconds have gone by.
    from kfp_foundry.components.common import store
    from kfp_foundry.components.tuning.tune_model import objective

    contract = folder / "contract.yaml"
    contract.write_text(given.contract_text(store.read), encoding="utf-8")
    train, validation = _tables(given, folder)
    search = given.search
    return objective.load(
        train=str(train),
        validation=str(validation),
        contract=str(contract),
        options=given.options,
        metric=search.metric,
        folds=given.folds,
        method=given.method,
        watched=search.early_stopping == "median",
    )


def _tables(given: Given, folder: Path) -> tuple[Path, Path]:
    if given.train.startswith(SAMPLE):
        return _sample(given.train.removeprefix(SAMPLE), folder)
    return _dataset(given.train, folder / "train"), _dataset(given.validation, folder / "validation")


def _dataset(uri: str, target: Path) -> Path:
    from kfp_foundry.components.common import store

    address = store.address_of(uri)
    return Path(address.path) if address.is_local else store.fetch(uri, target)


def _sample(name: str, folder: Path) -> tuple[Path, Path]:
    """The earlier rows of a sample to fit on, the later ones to measure on."""
    import polars as pl

    from kfp_foundry.components.common import samples
    from kfp_foundry.components.common.artifacts.dataset import DatasetFolder

    rows = pl.read_parquet(samples.fetch(name, folder))
    cut = int(rows.height * SAMPLE_TRAIN_SHARE)
    train = DatasetFolder.write(folder / "train", rows[:cut].lazy(), source=SAMPLE + name)
    validation = DatasetFolder.write(folder / "validation", rows[cut:].lazy(), source=SAMPLE + name)
    return train.path, validation.path


def _end(line: str) -> int:
    sys.stdout.flush()
    words = " ".join(line.split())
    print(words, file=sys.stderr, flush=True)
    if TERMINATION_LOG.exists() and not TERMINATION_LOG.stat().st_size:  # of several ranks the first to fail has the cause
        try:
            TERMINATION_LOG.write_bytes(words.encode()[:TERMINATION_BYTES])
        except OSError as error:
            log.warning("cannot write %s: %s", TERMINATION_LOG, error)
    return 1


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if ranked.is_rank():
        os._exit(code)  # what torch would still do at the end of a rank can hang, and the work is done
    raise SystemExit(code)
