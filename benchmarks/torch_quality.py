"""How good a network is beside boosted trees, and how long each takes: flights from New York in 2013, late or not.

    python benchmarks/torch_quality.py [--rows 0] [--seeds 3] [--epochs 0] [--threads N]

The split is the pipeline's: by time, 70 % to train on, 10 % to stop by, the last 20 % to judge. Each learner has this project's
defaults and the same rows; nothing is tuned. Seconds are of the fit alone, processor seconds beside them.
Beside the defaults LightGBM with a tenth of the usual learning rate, as who has time would train it. Metrics are means over seeds, with
the spread of the network's (trees without sampling have none). Writes benchmarks/results/torch_quality.json.
"""

import argparse
import json
import os
import platform
import statistics
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from kfp_foundry.components.common import samples
from kfp_foundry.components.common.contract import Contract, Task
from kfp_foundry.components.common.learning import data, parameters
from kfp_foundry.components.common.learning.fit import Options, Rows, assemble, learn, measure
from kfp_foundry.components.common.onnx import heads
from kfp_foundry.components.common.platform import cpus

RESULT = Path(__file__).parent / "results" / "torch_quality.json"
TEXTS = ("carrier", "origin", "dest")
NUMBERS = ("sched_dep_minute", "sched_arr_minute", "distance", *samples.WEATHER)
LEARNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "LightGBM": ("lightgbm", {}),
    "LightGBM, slowly": ("lightgbm", {"learning_rate": 0.01, "num_iterations": 3000}),
    "HistGradientBoosting": ("hist_gradient_boosting", {}),
    "residual_mlp": ("residual_mlp", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=0, help="of the year, evenly spread; 0 for all")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of the network")
    parser.add_argument("--epochs", type=int, default=0, help="of the network; 0 for the default")
    parser.add_argument("--threads", type=int, default=cpus(), help="of each fit")
    options = parser.parse_args()
    sides, contract = tables(options.rows)
    LEARNERS["residual_mlp"][1].update({"epochs": options.epochs} if options.epochs else {})
    learners = {}
    for name, (algorithm, params) in LEARNERS.items():
        seeds = range(7, 7 + (options.seeds if algorithm == "residual_mlp" else 1))
        learners[name] = summary([judged(sides, contract, Options(algorithm=algorithm, params=params, seed=seed), options.threads) for seed in seeds])
        print(name, json.dumps(learners[name], indent=1), flush=True)
    counts = {name: frame.height for name, (frame, _) in sides.items()}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"machine": machine(), "threads": options.threads, "rows": counts, "learners": learners}, indent=2) + "\n")


def tables(rows: int) -> tuple[dict[str, Rows], Contract]:
    """The three parts, as `data.read` gives them, and their contract."""
    flights = samples.flights()
    flights = flights.gather_every(max(1, flights.height // rows)) if rows else flights
    fields = [f"{{name: {name}, type: string}}" for name in TEXTS] + [f"{{name: {name}, type: number}}" for name in NUMBERS]
    contract = Contract.parse(f"task: binary\npositive: true\nfields: [{', '.join(fields)}, {{name: late, type: boolean, role: target}}]")
    first, second = flights.height * 7 // 10, flights.height * 8 // 10
    parts = {"train": flights[:first], "validation": flights[first:second], "test": flights[second:]}
    return {name: data.read(part.lazy(), contract, name) for name, part in parts.items()}, contract


def judged(sides: dict[str, Rows], contract: Contract, options: Options, threads: int) -> dict[str, float]:
    """Fits once; seconds, rounds and the test rows' metrics."""
    labels = data.find_labels(sides["train"][1], contract)
    params = parameters.complete(options.algorithm, options.params, Task.BINARY)
    prepared = assemble(sides["train"], sides["validation"], labels, contract, replace(options, params=params))
    wall, processor = time.perf_counter(), time.process_time()
    with threadpool_limits(threads):
        fitted = learn(options.algorithm, replace(prepared.job, threads=threads))
    seconds = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor, "rounds": float(fitted.rounds)}
    test = data.part(*sides["test"], contract, labels, "test")
    values = heads.apply_link(fitted.scores(prepared.plan.matrix(test.feed)), fitted.link)
    return seconds | {name: score for name, score in measure(Task.BINARY, test.target, values, None).items() if name in ("log_loss", "auc")}


def summary(trainings: list[dict[str, float]]) -> dict[str, Any]:
    """Means, and the smallest and largest of what differs from seed to seed."""
    found: dict[str, Any] = {}
    for name in trainings[0]:
        values = [training[name] for training in trainings]
        found[name] = round(statistics.mean(values), 5)
        if len(values) > 1:
            found[f"{name}_range"] = [round(min(values), 5), round(max(values), 5)]
    return found


def machine() -> dict[str, object]:
    libraries = {name: version(name) for name in ("torch", "lightgbm", "scikit-learn", "numpy")}
    return {
        "cpus": os.cpu_count(),
        "cpu": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "load": os.getloadavg(),
        **libraries,
    }


if __name__ == "__main__":
    main()
