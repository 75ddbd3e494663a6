"""What ingesting costs: `ingest_table` against one bare Polars scan into Parquet, for CSV and for Parquet.

    python benchmarks/ingest.py [--rows 10000000] [--rounds 3]

The table has ten columns (key, time, two texts, integers with gaps, numbers, a boolean). Every job is a process of its own; jobs
take turns, round by round, and the median counts. What they do:

- `ingest_table`: checks every byte of the CSV file, decides types over every row, turns texts into times, writes a Dataset with
  its fingerprint, and a report.
- `bare scan`: `polars.scan_csv(...)` or `scan_parquet(...)` and `.sink_parquet(...)`, with Polars' defaults: types from the first
  100 rows, times stay texts, short lines are filled up with nulls.
- `bare scan and fingerprint`: the same, and the SHA-256 over the content that names a Dataset.
- `duckdb`: `COPY (FROM read_csv(...)) TO ... (FORMAT parquet)`, types from a sample.

`seconds` is the work, imports left out; `cpu` is the processor time it took on all cores, which other work on the machine disturbs
less; `peak_mb` is the largest resident set, in which a mapped source file counts; `own_mb` is the largest part of it that belongs
to no file. Writes benchmarks/results/ingest.json.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl

RESULT = Path(__file__).parent / "results" / "ingest.json"
JOBS = ["ingest_table", "bare scan", "bare scan and fingerprint", "duckdb"]
PART = 1_000_000  # rows generated at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--job", default="", help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(measured(options.job, options.table)))
        return
    result = {"machine": machine(), "versions": {name: version(name) for name in ("kfp-foundry", "polars", "pyarrow", "duckdb", "numpy")}}
    result |= {"rows": options.rows, "rounds": options.rounds, "formats": {}}
    with tempfile.TemporaryDirectory() as folder:
        for table in make(Path(folder), options.rows):
            result["formats"][table.suffix[1:]] = compare(table, options.rounds)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def make(folder: Path, rows: int) -> list[Path]:
    """The table as CSV and as Parquet, made part by part."""
    csv, parquet = folder / "table.csv", folder / "table.parquet"
    random = np.random.default_rng(7)
    with csv.open("wb") as file:
        for start in range(0, rows, PART):
            made(random, start, min(PART, rows - start)).write_csv(file, include_header=start == 0, datetime_format="%Y-%m-%d %H:%M:%S")
    pl.scan_csv(csv, try_parse_dates=True).sink_parquet(parquet)
    return [csv, parquet]


def made(random: np.random.Generator, start: int, rows: int) -> pl.DataFrame:
    carriers, places = np.array(["UA", "AA", "B6", "DL", "EV", "MQ"]), np.array(["IAH", "MIA", "BQN", "ATL", "ORD", "FLL", "IAD", "MCO"])
    delay = pl.Series("delay", random.integers(-40, 600, rows))
    return pl.DataFrame(
        {
            "id": np.arange(start, start + rows),
            "time": pl.Series(1_356_998_400 + random.integers(0, 31_536_000, rows)).cast(pl.Int64) * 1_000_000,
            "carrier": carriers[random.integers(0, 6, rows)],
            "dest": places[random.integers(0, 8, rows)],
            "distance": random.integers(80, 4_983, rows),
            "temp": np.round(random.normal(55, 18, rows), 2),
            "humid": np.round(random.uniform(10, 100, rows), 2),
            "delay": delay.set(delay % 17 == 0, None),
            "price": random.normal(100, 30, rows),
            "late": random.random(rows) < 0.2,
        }
    ).with_columns(pl.col("time").cast(pl.Datetime("us")))


def compare(table: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Every job in turn, some rounds; medians, and ratios to the bare scan."""
    taken: dict[str, list[dict[str, float]]] = {job: [] for job in JOBS}
    for _ in range(rounds):
        for job in JOBS:
            command = [sys.executable, __file__, "--job", job, "--table", str(table)]
            taken[job].append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            print(table.suffix, job, taken[job][-1], file=sys.stderr)
    found = {job: {key: round(statistics.median(one[key] for one in runs), 3) for key in runs[0]} for job, runs in taken.items()}
    bare = found["bare scan"]
    for job in JOBS:
        found[job] |= {"times_bare": round(found[job]["seconds"] / bare["seconds"], 2), "cpu_times_bare": round(found[job]["cpu"] / bare["cpu"], 2)}
    return found


def measured(job: str, table: Path) -> dict[str, float]:
    """Runs one job in this process."""
    work = prepared(job, table)
    own = Watch()
    before, start = os.times(), time.perf_counter()
    work()
    seconds, after = time.perf_counter() - start, os.times()
    cpu = after.user + after.system - before.user - before.system
    return {"seconds": seconds, "cpu": cpu, "peak_mb": status("VmHWM"), "own_mb": own.stop()}


def prepared(job: str, table: Path) -> Callable[[], object]:
    folder = table.parent / "out"
    folder.mkdir(exist_ok=True)
    if job == "ingest_table":
        from kfp_foundry.components.ingestion.ingest_table import core

        outputs = [SimpleNamespace(name=name, path=str(folder / name), uri=name, metadata={}) for name in ("dataset", "bad", "report")]
        return lambda: core.run(*outputs, str(table))
    if job == "duckdb":
        import duckdb

        return lambda: duckdb.sql(f"COPY (FROM '{table}') TO '{folder / 'duckdb.parquet'}' (FORMAT parquet, COMPRESSION zstd)")
    from kfp_foundry.components.common.artifacts.dataset import describe

    place = folder / "bare"
    place.mkdir(exist_ok=True)
    scan = pl.scan_csv if table.suffix == ".csv" else pl.scan_parquet

    def bare() -> None:
        scan(table).sink_parquet(place / "part.parquet")
        if job != "bare scan":
            describe(place, "bare")

    return bare


class Watch(threading.Thread):
    """Looks every few milliseconds at how much memory belongs to no file."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0.0
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.wait(0.01):
            self.most = max(self.most, status("RssAnon"))

    def stop(self) -> float:
        self.ended.set()
        self.join()
        return self.most


def status(key: str) -> float:
    """A line of this process's status, in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def machine() -> dict[str, object]:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(pages * size / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    main()
