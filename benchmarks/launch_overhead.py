"""What starting two ranks on this machine costs, and how often they fail to part.

    python benchmarks/launch_overhead.py [--rounds 7] [--launches 300] [--naive 100]

A launch: two ranks start, meet, train a small network with DDP and AdamW for 20 steps, part and end. Ours and torchrun take turns,
round by round. Then our launches follow one another, and launches that part as most scripts do (the process group is destroyed while
the DDP module is still there); one that takes more than 10 s has hung. Writes benchmarks/results/launch_overhead.json.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from kfp_foundry.components.common.distributed.local import supervise
from kfp_foundry.components.common.errors import FoundryError

RESULT = Path(__file__).parent / "results" / "launch_overhead.json"
HANGS = 10.0  # seconds
RANKS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--launches", type=int, default=300)
    parser.add_argument("--naive", type=int, default=100)
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        first = launch("forkserver", "ours", folder)
        times: dict[str, list[float]] = {"ours": [], "torchrun": []}
        for _ in range(options.rounds):
            times["ours"].append(launch("forkserver", "ours", folder))
            times["torchrun"].append(launch("torchrun", "ours", folder))
        parting = {"ours": stress("ours", options.launches, folder), "as most scripts do": stress("torch", options.naive, folder)}
    medians = {name: round(statistics.median(seconds), 3) for name, seconds in times.items()}
    result = {
        "machine": machine(),
        "seconds": {"ours, the first of a process": round(first, 3), **{name: spread(seconds) for name, seconds in times.items()}},
        "torchrun_times_ours": round(medians["torchrun"] / medians["ours"], 1),
        "parting": parting,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def launch(engine: str, order: str, folder: Path, seconds: float = 300.0) -> float:
    started = time.perf_counter()
    supervise.launch("launch_rank", [order], RANKS, engine, folder=folder, seconds=seconds, on_line=lambda name, line: None)
    return time.perf_counter() - started


def stress(order: str, launches: int, folder: Path) -> dict[str, float | int]:
    hung = failed = 0
    times = []
    for _ in range(launches):
        started = time.perf_counter()
        try:
            launch("forkserver", order, folder, HANGS)
        except FoundryError as error:
            failed += "not finished after" not in str(error)
        times.append(time.perf_counter() - started)
        hung += times[-1] > HANGS
    return {"launches": launches, "hung": hung, "failed": failed, **spread(times)}


def spread(seconds: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(seconds), 3), "lowest": round(min(seconds), 3), "highest": round(max(seconds), 3)}


def machine() -> dict[str, str | int]:
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "cpu": model,
        "cpus": os.cpu_count() or 0,
        "python": platform.python_version(),
        "torch": version("torch"),
        "load_1_min": f"{os.getloadavg()[0]:.1f}",
    }


if __name__ == "__main__":
    main()
