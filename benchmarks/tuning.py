"""What a search costs beside its fits: 24 LightGBM trials on the flights train split against a bare loop of the same 24 fits.

    python benchmarks/tuning.py [--trials 24] [--rounds 3] [--iterations 100] [--threads 0]

The bare loop is what a person would write at best: the rows in memory, one `lgb.Dataset` for all fits, nothing measured but the
library's own validation loss. `tune` is the whole engine: it starts its processes, reads and encodes the rows, chooses parameters,
keeps its journal, fits, predicts the validation rows and measures all metrics. `step` is the component: that, the page, the table
and 24 runs in an embedded MLflow. `fresh` is the bare loop with a Dataset for each fit, as most searches are written.

All fit the same parameters on the same rows with the same number of threads, in turns. Seconds of the processors stand beside those
of the clock: on a machine that does other work only their ratio says something. The overhead of a trial is measured with
trials that do nothing: the slope between few and many. Writes benchmarks/results/tuning.json.
"""

import argparse
import json
import logging
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "tuning.json"
FEW, MANY = 10, 110  # trials that do nothing
CONTRACT = """
task: binary
positive: true
fields:
  - {name: time_hour, type: datetime, role: time}
  - {name: tailnum, type: string, role: ignore}
  - {name: sched_dep_minute, type: integer}
  - {name: sched_arr_minute, type: integer}
  - {name: carrier, type: string}
  - {name: origin, type: string}
  - {name: dest, type: string}
  - {name: distance, type: integer}
  - {name: temp, type: number}
  - {name: dewp, type: number}
  - {name: humid, type: number}
  - {name: wind_dir, type: integer}
  - {name: wind_speed, type: number}
  - {name: wind_gust, type: number}
  - {name: precip, type: number}
  - {name: pressure, type: number}
  - {name: visib, type: number}
  - {name: late, type: boolean, role: target}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=100, help="boosting rounds at most; early stopping after 50 without gain")
    parser.add_argument("--threads", type=int, default=0, help="0: all CPUs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["KFP_FOUNDRY_HOME"] = str(place / "home")
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if options.threads:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
        work = Work(place, options.trials, options.iterations)
        jobs = {"bare": work.bare, "tune": work.tune, "fresh": work.fresh, "step": work.step}
        times: dict[str, list[float]] = {name: [] for name in jobs}
        cpu: dict[str, list[float]] = {name: [] for name in jobs}
        for number in range(options.rounds):
            for name, job in jobs.items():
                seconds = timed(job, place / "cpu")
                times[name].append(seconds[0])
                cpu[name].append(seconds[1])
                print(number, name, *(round(each, 2) for each in seconds), flush=True)
        overhead = {algorithm: work.overhead(algorithm) for algorithm in ("random", "tpe", "multivariate-tpe", "sobol", "bayesianoptimization")}
    result = {
        "machine": machine(),
        "rows": work.rows,
        "trials": options.trials,
        "rounds": options.rounds,
        "iterations": options.iterations,
        "threads": len(os.sched_getaffinity(0)),
        "seconds": {name: [round(seconds, 2) for seconds in runs] for name, runs in times.items()},
        "cpu_seconds": {name: [round(seconds, 2) for seconds in runs] for name, runs in cpu.items() if name != "step"},
        "times_bare": ratios(times),
        "times_bare_cpu": ratios({name: runs for name, runs in cpu.items() if name != "step"}),  # whose processes note nothing
        "overhead_ms_per_trial": overhead,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


class Work:
    """The rows, the parameters that are fitted, and the ways to fit them."""

    def __init__(self, place: Path, trials: int, iterations: int) -> None:
        from kfp_foundry.components.common import samples
        from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
        from kfp_foundry.components.common.contract import Contract
        from kfp_foundry.components.common.learning.fit import Options, prepare
        from kfp_foundry.components.tuning.tune_model.search import Search, default_parameters

        self.place, self.iterations = place, iterations
        flights = samples.flights()
        cuts = int(flights.height * 0.7), int(flights.height * 0.8)
        (place / "contract").write_text(CONTRACT)
        for name, part in {"train": flights[: cuts[0]], "validation": flights[cuts[0] : cuts[1]]}.items():
            DatasetFolder.write(place / name, part.lazy(), source="flights")
        self.rows = {"train": cuts[0], "validation": cuts[1] - cuts[0]}
        self.words = {"parameters": default_parameters("lightgbm"), "metric": "log_loss", "algorithm": "random", "max_trials": trials}
        self.search = Search.read({**self.words, "parallel_trials": 1})
        tables = DatasetFolder.open(place / "train"), DatasetFolder.open(place / "validation")
        self.prepared = prepare(*tables, Contract.load(place / "contract"), Options(params={"num_iterations": iterations}))
        self.tune()
        self.params = [dict(trial.params) for trial in self.study.trials]

    def bare(self) -> None:
        """One Dataset, and nothing but fits."""
        train, held = self._datasets()
        for params in self.params:
            self._fit(params, train, held)

    def fresh(self) -> None:
        """A Dataset for each fit."""
        for params in self.params:
            train, held = self._datasets()
            self._fit(params, train, held)

    def tune(self) -> None:
        """The engine of this project."""
        from kfp_foundry.components.tuning.tune_model.local import engine as local
        from kfp_foundry.components.tuning.tune_model.local.crew import Recipe

        arguments = {name: str(self.place / name) for name in ("train", "validation", "contract")}
        arguments |= {"options": {"params": {"num_iterations": self.iterations}}, "metric": "log_loss"}
        library = "kfp_foundry.components.common.learning.fit_lightgbm"
        shutil.rmtree(self.place / "search", ignore_errors=True)
        recipe = Recipe("tuning:counted", {"file": str(self.place / "cpu"), **arguments}, [library])
        self.study = local.tune(self.search, recipe, self.place / "search")

    def step(self) -> None:
        """The whole component."""
        from kfp import dsl

        from kfp_foundry.components.tuning.tune_model import core

        logging.getLogger("alembic").setLevel(logging.ERROR)
        shutil.rmtree(self.place / "home" / "tuning", ignore_errors=True)
        kinds = {"train": dsl.Dataset, "validation": dsl.Dataset, "contract": dsl.Artifact}
        outputs = {"trials": dsl.Dataset, "report": dsl.HTML, "metrics": dsl.Metrics}
        artifacts = [kind(name=name, uri=str(self.place / name)) for name, kind in (kinds | outputs).items()]
        training = {"trainer": "lightgbm", "algorithm": "", "params": {"num_iterations": self.iterations}, "early_stopping_rounds": 50, "seed": 7}
        search = {**self.words, "parallel_trials": 1, "seed": 7}
        core.run(*artifacts, enabled=True, training=training, search=search, folds=0, target="local")

    def _datasets(self) -> tuple[Any, Any]:
        import lightgbm as lgb

        job = self.prepared.job
        words = {"categorical_feature": job.categorical, "free_raw_data": False}
        train = lgb.Dataset(job.train.matrix, job.train.target, **words)
        return train, lgb.Dataset(job.validation.matrix, job.validation.target, reference=train, **words)

    def _fit(self, params: dict[str, Any], train: Any, held: Any) -> None:
        import lightgbm as lgb

        words = {"objective": "binary", "metric": "binary_logloss", "verbosity": -1, "num_threads": self.prepared.job.threads}
        words |= {"deterministic": True, "force_row_wise": True, "feature_pre_filter": False, "seed": 7}
        stop = lgb.early_stopping(50, verbose=False, min_delta=1e-12)
        lgb.train({**words, **params}, train, self.iterations, valid_sets=[held], callbacks=[stop])

    def overhead(self, algorithm: str) -> float:
        """Milliseconds of a trial that does nothing."""
        return round(1000 * (self._nothing(algorithm, MANY) - self._nothing(algorithm, FEW)) / (MANY - FEW), 1)

    def _nothing(self, algorithm: str, trials: int) -> float:
        from kfp_foundry.components.tuning.tune_model.local import engine as local
        from kfp_foundry.components.tuning.tune_model.local.crew import Recipe
        from kfp_foundry.components.tuning.tune_model.search import Search

        search = Search.read({**self.words, "algorithm": algorithm, "max_trials": trials, "parallel_trials": 1})
        shutil.rmtree(self.place / "nothing", ignore_errors=True)
        started = time.perf_counter()
        local.tune(search, Recipe("tuning:idle"), self.place / "nothing")
        return time.perf_counter() - started


class Idle:
    """A trial that does nothing."""

    def value(self, params: dict[str, Any], report: Any) -> dict[str, float]:
        return {"log_loss": float(params["lambda_l2"])}


def idle() -> Idle:
    return Idle()


class Counted:
    """An objective that notes what its process has used of the processors."""

    def __init__(self, file: Path, objective: Any) -> None:
        self.file, self.objective = file, objective
        self._note()

    def value(self, params: dict[str, Any], report: Any) -> dict[str, float]:
        found: dict[str, float] = self.objective.value(params, report)
        self._note()
        return found

    def _note(self) -> None:
        with self.file.open("a") as file:
            file.write(f"{os.getpid()} {time.process_time()}\n")


def counted(file: str, **arguments: Any) -> Counted:
    from kfp_foundry.components.tuning.tune_model import objective

    return Counted(Path(file), objective.load(**arguments))


def timed(work: Callable[[], None], notes: Path) -> tuple[float, float]:
    """Seconds by the clock, and of the processors, with those that other processes noted."""
    notes.unlink(missing_ok=True)
    before, started = time.process_time(), time.perf_counter()
    work()
    seconds, own = time.perf_counter() - started, time.process_time() - before
    others = dict(line.split() for line in notes.read_text().splitlines()) if notes.exists() else {}
    return seconds, own + sum(float(used) for used in others.values())


def ratios(times: dict[str, list[float]]) -> dict[str, float]:
    bare = statistics.median(times["bare"])
    return {name: round(statistics.median(runs) / bare, 3) for name, runs in times.items()}


def machine() -> dict[str, str | int]:
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "cpu": model,
        "cpus": os.cpu_count() or 0,
        "python": platform.python_version(),
        "lightgbm": version("lightgbm"),
        "optuna": version("optuna"),
        "load_1_min": f"{os.getloadavg()[0]:.1f}",
    }


if __name__ == "__main__":
    main()
