"""What a step costs beside its own work: no-op steps in a chain, run by `kfp-foundry run`, by bare kfp.local, and as bare processes.

    python benchmarks/step_overhead.py [--steps 30] [--rounds 5]

The three take turns, round by round, in one process tree on one machine. A round of ours and of kfp.local is a whole command,
interpreter start and imports included; `per step` is the slope between a short and a long chain, so it holds the steps only.
Writes benchmarks/results/step_overhead.json.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "step_overhead.json"
SHORT = 2

PIPELINE = """
from kfp import compiler, dsl

@dsl.component(base_image="example/python", install_kfp_package=False)
def nothing(text: str) -> str:
    return text

@dsl.pipeline(name="chain")
def chain(text: str = "x"):
    for _ in range({steps}):
        text = nothing(text=text).set_caching_options(False).output

compiler.Compiler().compile(chain, {path!r})
"""

KFP_LOCAL = """
import sys
from kfp import components, local
local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[2])
components.load_component_from_file(sys.argv[1])()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        chains = {steps: compile_chain(place, steps) for steps in (SHORT, options.steps)}
        times: dict[str, dict[int, list[float]]] = {name: {SHORT: [], options.steps: []} for name in RUNNERS}
        for _ in range(options.rounds + 1):
            for steps, chain in chains.items():
                for name, run in RUNNERS.items():
                    times[name][steps].append(measure(run, chain, steps, place))
    result = {"machine": machine(), "steps": options.steps, "rounds": options.rounds, "seconds": summary(times, options.steps)}
    rows = result["seconds"]
    result["ratio_to_kfp_local"] = round(rows["kfp-foundry run"]["per_step"] / rows["kfp.local"]["per_step"], 2)
    result["ratio_to_bare_process"] = round(rows["kfp-foundry run"]["per_step"] / rows["bare process"]["per_step"], 2)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def compile_chain(place: Path, steps: int) -> Path:
    path = place / f"chain-{steps}.yaml"
    source = path.with_suffix(".py")  # kfp reads a component's source from its file
    source.write_text(PIPELINE.format(steps=steps, path=str(path)))
    subprocess.run([sys.executable, str(source)], check=True, capture_output=True)
    return path


def foundry(chain: Path, steps: int, home: Path) -> None:
    subprocess.run([sys.executable, "-m", "kfp_foundry", "run", str(chain), "--home", str(home)], check=True, capture_output=True)


def kfp_local(chain: Path, steps: int, home: Path) -> None:
    subprocess.run([sys.executable, "-c", KFP_LOCAL, str(chain), str(home)], check=True, capture_output=True)


def bare(chain: Path, steps: int, home: Path) -> None:
    for _ in range(steps):
        subprocess.run([sys.executable, "-c", "pass"], check=True)


RUNNERS = {"kfp-foundry run": foundry, "kfp.local": kfp_local, "bare process": bare}


def measure(run, chain: Path, steps: int, place: Path) -> float:
    home = place / "home"
    started = time.perf_counter()
    run(chain, steps, home)
    seconds = time.perf_counter() - started
    shutil.rmtree(home, ignore_errors=True)
    return seconds


def summary(times: dict[str, dict[int, list[float]]], steps: int) -> dict[str, dict[str, float]]:
    """Medians over the rounds; the first one warms the caches up and does not count."""
    found = {}
    for name, rounds in times.items():
        slopes = [(long - short) / (steps - SHORT) for short, long in zip(rounds[SHORT][1:], rounds[steps][1:], strict=True)]
        found[name] = {
            "per_step": round(statistics.median(slopes), 4),
            "per_step_lowest": round(min(slopes), 4),
            "per_step_highest": round(max(slopes), 4),
            f"whole_command_of_{steps}": round(statistics.median(rounds[steps][1:]), 3),
            f"whole_command_of_{SHORT}": round(statistics.median(rounds[SHORT][1:]), 3),
        }
    return found


def machine() -> dict[str, str | int | bool]:
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "cpu": model,
        "cpus": os.cpu_count() or 0,
        "python": platform.python_version(),
        "kfp": version("kfp"),
        "PYTHONDONTWRITEBYTECODE": "PYTHONDONTWRITEBYTECODE" in os.environ,
        "load_1_min": f"{os.getloadavg()[0]:.1f}",
    }


if __name__ == "__main__":
    main()
