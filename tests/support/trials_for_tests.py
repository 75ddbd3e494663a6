"""Objectives that cost nothing, for searches whose course is what is tested; and a search as a process of its own, to be killed."""

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

METRIC = "loss"
PARAMETERS = {"x": {"type": "float", "min": -5.0, "max": 5.0}, "kind": ["a", "b"], "n": {"type": "int", "min": 1, "max": 64, "log": True}}


class Curve:
    """A loss that falls while it is trained, to (x - 1)² + 0.1.

    Args:
        seconds: How long a trial takes.
        reports: How many it makes on its way.
        breaks: What goes wrong: `error`, `silence` (no metric), `nan`, `exit` or `hang`; empty for nothing.
        when: The `kind` with which it goes wrong; empty for every one.
        log: File that gets a line when a trial begins and one when it ends; empty for none.
    """

    def __init__(self, seconds=0.0, reports=6, breaks="", when="", log=""):
        self.seconds, self.reports, self.breaks, self.when, self.log = seconds, reports, breaks, when, log

    def value(self, params, report):
        self._write("begin", params)
        if self.breaks and self.when in ("", params["kind"]):
            if self.breaks == "error":
                raise ValueError(f"kind {params['kind']!r} does not work")
            if self.breaks == "exit":
                os._exit(3)
            if self.breaks == "hang":
                time.sleep(60)
            return {METRIC: float("nan")} if self.breaks == "nan" else {}
        for number in range(1, self.reports + 1):
            time.sleep(self.seconds / self.reports)
            report(METRIC, (params["x"] - 1) ** 2 + 1 / number)
        self._write("end", params)
        return {METRIC: (params["x"] - 1) ** 2 + 0.1, "size": float(params["n"])}

    def _write(self, word, params):
        if self.log:
            with Path(self.log).open("a") as file:
                file.write(json.dumps([word, os.getpid(), os.getppid(), params["x"]]) + "\n")


def make(**words):
    """What a recipe names."""
    return Curve(**words)


def refuse(**_):
    """A recipe whose rows cannot be learned from."""
    from kfp_foundry.components.common.errors import DataError

    raise DataError("target 'late' is constant", where="train rows", remedy="choose another target")


def break_down(**_):
    """A recipe with a mistake in it."""
    raise KeyError("rows")


def search(**words):
    """A search over `PARAMETERS`."""
    from kfp_foundry.components.tuning.tune_model.search import Search

    return Search.read({"parameters": PARAMETERS, "metric": METRIC, "direction": "minimize", "algorithm": "random", **words})


def recipe(function="make", **words):
    """A recipe of this module."""
    from kfp_foundry.components.tuning.tune_model.local.crew import Recipe

    return Recipe(f"trials_for_tests:{function}", words)


def plain(study):
    """A study without its times."""
    return [(trial.number, str(trial.state), dict(trial.params), trial.value, list(trial.reports), trial.message) for trial in study.trials]


def main(folder, result, search_words, curve_words):
    """Runs a search and writes what it came to."""
    from kfp_foundry.components.tuning.tune_model.local import engine as local

    study = local.tune(search(**json.loads(search_words)), recipe(**json.loads(curve_words)), Path(folder))
    times = [asdict(trial)["started"] for trial in study.trials]
    Path(result).write_text(json.dumps({"state": study.state, "reason": study.reason, "trials": plain(study), "started": times}))


if __name__ == "__main__":
    main(*sys.argv[1:])
