"""What validation costs: a contract of 29 checks on 20 columns against one bare Polars scan, with peers beside us.

    python benchmarks/validation.py [--rows 1000000 10000000] [--rounds 3] [--peers PYTHON]

Every job is a process of its own that reads one Parquet file and answers the same 29 questions (types of all columns, row count,
uniqueness of a 64-bit key, 14 ranges, 4 sets, 4 shares of missing values, a pattern, 3 means). Jobs take turns, round by round.

`seconds` is the work, imports left out; `cpu` is the processor time it took on all cores, which other work on the machine
disturbs less; `whole` is the process from start to end; `peak_mb` is its largest resident set. The bare scan answers none of the
questions; `by hand in polars` answers all of them with as little as possible, and shows no row that fails.

PYTHON is an interpreter with great_expectations, pandera[polars] and pointblank; without it they are left out.
Writes benchmarks/results/validation.json.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "validation.json"

COUNTRIES = [f"C{i:02d}" for i in range(20)]
DEVICES = ["android", "ios", "other", "tv", "web"]
PLANS = ["basic", "biz", "ent", "free", "gov", "plus", "pro", "team"]
CODES = [f"{chr(65 + i // 26)}{chr(65 + i % 26)}-{100 + 7 * i:03d}" for i in range(50)]
SETS = {"country": COUNTRIES, "device": DEVICES, "plan": PLANS, "code": CODES}
RANGES = {
    "age": (18, 90), "count": (0, 60), "zip": (10000, 99999), "norm0": (-8, 8), "norm1": (-20, 40), "norm2": (-30, 20), "norm3": (0, 200),
    "log0": (0, 1000), "log1": (0, 1000), "log2": (0, 20000), "unit0": (0, 1), "unit1": (-1, 1), "unit2": (0, 1000), "target": (0, 1),
}  # fmt: skip
MISSING = {"norm1": 0.05, "log1": 0.05, "unit1": 0.05, "time": 0.05}
MEANS = {"norm0": (-0.1, 0.1), "log0": (1.5, 1.8), "unit0": (0.45, 0.55)}
PATTERN = "[A-Z]{2}-[0-9]{3}"
KEY = "id"
TYPES = (
    dict.fromkeys(["id", "age", "count", "zip", "target"], "integer")
    | {name: "number" for name in RANGES if name[:4] in ("norm", "unit") or name[:3] == "log"}
    | dict.fromkeys(SETS, "string")
    | {"time": "datetime"}
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default="", help="interpreter that has the peers")
    parser.add_argument("--job", default="", help=argparse.SUPPRESS)
    parser.add_argument("--table", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        answer(options.job, options.table)
        return
    interpreters = {
        "kfp-foundry": sys.executable,
        "kfp-foundry on duckdb": sys.executable,
        "bare scan": sys.executable,
        "by hand in polars": sys.executable,
    }
    if options.peers:
        interpreters |= dict.fromkeys(["pandera on polars", "pointblank", "great_expectations"], options.peers)
    result = {"machine": machine(), "rounds": options.rounds, "sizes": {}}
    with tempfile.TemporaryDirectory() as folder:
        for rows in options.rows:
            table = make(Path(folder), rows)
            result["sizes"][str(rows)] = compare(table, interpreters, options.rounds)
            table.unlink()
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def make(folder: Path, rows: int) -> Path:
    """Writes the table: integers, floats with and without gaps, texts, a time, a target; every check holds."""
    import numpy as np
    import polars as pl

    random, parts, step = np.random.default_rng(7), [], 1_000_000
    keys = random.permutation(rows) + 10_000_000

    def gaps(values):
        return pl.Series(values).set(pl.Series(random.random(len(values)) < 0.02), None)

    for start in range(0, rows, step):
        n = min(step, rows - start)
        columns = {
            "id": keys[start : start + n],
            "age": random.integers(18, 91, n),
            "count": random.poisson(5, n),
            "zip": random.integers(10000, 100000, n),
        }
        columns |= {"norm0": random.normal(0, 1, n), "norm1": gaps(random.normal(10, 3, n)), "norm2": random.normal(-5, 2, n)}
        columns |= {"norm3": random.normal(100, 15, n), "log0": random.lognormal(0, 1, n), "log1": gaps(random.lognormal(2, 0.5, n))}
        columns |= {
            "log2": random.lognormal(4, 0.8, n),
            "unit0": random.random(n),
            "unit1": gaps(random.uniform(-1, 1, n)),
            "unit2": 1000 * random.random(n),
        }
        columns |= {name: np.array(values)[random.integers(0, len(values), n)] for name, values in SETS.items()}
        columns["time"] = gaps((np.datetime64("2026-01-01", "us") + (start + np.arange(n)) * 250_000).astype("datetime64[us]"))
        columns["target"] = (random.random(n) < 0.12).astype(np.int64)
        parts.append(folder / f"part-{start:010}.parquet")
        pl.DataFrame(columns).write_parquet(parts[-1])
    whole = folder / f"table-{rows}.parquet"
    pl.scan_parquet(parts).sink_parquet(whole, compression="zstd", row_group_size=262_144)
    for part in parts:
        part.unlink()
    return whole


def compare(table: Path, interpreters: dict[str, str], rounds: int) -> dict[str, object]:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in interpreters}
    for number in range(rounds + 1):
        for name, python in interpreters.items():
            run = measure(python, name, table)
            if number:  # the first round fills the page cache
                found[name].append(run)
    jobs = {name: {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]} for name, runs in found.items()}
    ratios = {key: {name: ratio(runs, found["bare scan"], key) for name, runs in found.items()} for key in ("seconds", "cpu")}
    return {"jobs": jobs, "ratio_to_bare_scan": ratios, "file_mb": round(table.stat().st_size / 2**20), "load_1_min": round(os.getloadavg()[0], 1)}


def ratio(runs: list[dict[str, float]], scans: list[dict[str, float]], key: str) -> float:
    """The median over the rounds of a job's time against the bare scan's of the same round."""
    return round(statistics.median(run[key] / scan[key] for run, scan in zip(runs, scans, strict=True)), 2)


def measure(python: str, job: str, table: Path) -> dict[str, float]:
    environment = os.environ | {"GX_ANALYTICS_ENABLED": "false", "PANDERA_VALIDATION_DEPTH": "SCHEMA_AND_DATA", "PYTHONWARNINGS": "ignore"}
    started = time.perf_counter()
    command = [python, __file__, "--job", job, "--table", str(table)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=table.parent)
    whole = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{job} failed:\n{done.stderr[-2000:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    if said.pop("failed"):
        raise SystemExit(f"{job}: a check failed on a table without faults")
    return {"whole": whole} | said


def answer(job: str, table: str) -> None:
    """One job in this process; prints what it took."""
    work = JOBS[job](table)
    started, used = time.perf_counter(), time.process_time()
    failed = work()
    seconds, cpu = time.perf_counter() - started, time.process_time() - used
    # The kernel's high-water mark; ru_maxrss would start from that of the parent process.
    peak = next(int(line.split()[1]) / 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print("\n" + json.dumps({"seconds": seconds, "cpu": cpu, "peak_mb": peak, "failed": failed}))


# Each job imports what it needs and returns the work; the work returns whether a check failed.


def foundry(table: str, engine: str = "polars"):
    from kfp_foundry.components.common.contract import Contract
    from kfp_foundry.components.common.scan import open_scan
    from kfp_foundry.components.validation.validate_table.core import validate

    agreed = Contract.model_validate(contract())
    if engine == "duckdb":
        import duckdb  # noqa: F401

    def work() -> bool:
        return bool(validate(open_scan([Path(table)], engine), agreed).verdict.failed())

    return work


def contract() -> dict[str, object]:
    fields = []
    for name, kind in TYPES.items():
        constraints, limits = {}, {}
        if name == KEY:
            constraints["unique"] = True
        if name in RANGES:
            constraints["minimum"], constraints["maximum"] = RANGES[name]
        if name in SETS:
            constraints["enum"] = SETS[name]
        if name == "code":
            constraints["pattern"] = PATTERN
        if name in MISSING:
            limits["max_missing"] = MISSING[name]
        if name in MEANS:
            limits["mean"] = MEANS[name]
        fields.append({"name": name, "type": kind, "constraints": constraints, "limits": limits})
    return {"fields": fields, "dataset": {"min_rows": 1, "max_rows": 50_000_000, "allow_extra_columns": False}}


def bare_scan(table: str):
    """Reads every column once and says of each how many values are missing, the smallest and the largest."""
    import polars as pl

    every = pl.all()
    measures = [pl.len().alias("rows"), every.null_count().name.suffix("|missing"), every.min().name.suffix("|min"), every.max().name.suffix("|max")]

    def work() -> bool:
        return pl.scan_parquet(table).select(measures).collect(engine="streaming").height != 1

    return work


def by_hand(table: str):
    """The same questions as a person would write them in Polars: the least that they can cost."""
    import polars as pl

    def work() -> bool:
        rows = pl.scan_parquet(table)
        asked = [pl.len().alias("rows"), pl.col(KEY).n_unique().alias("distinct")]
        asked += [pl.col(name).null_count().alias(f"missing {name}") for name in MISSING]
        asked += [(~pl.col(name).is_between(*limits)).sum().alias(f"range {name}") for name, limits in RANGES.items()]
        asked += [(~pl.col(name).is_in(values)).sum().alias(f"set {name}") for name, values in SETS.items()]
        asked += [(~pl.col("code").str.contains(f"^{PATTERN}$")).sum().alias("pattern")]
        asked += [pl.col(name).mean().alias(f"mean {name}") for name in MEANS]
        found = rows.select(asked).collect(engine="streaming").row(0, named=True)
        failed = found["distinct"] != found["rows"] or found["pattern"] > 0
        failed |= any(found[f"missing {name}"] > share * found["rows"] for name, share in MISSING.items())
        failed |= any(found[f"range {name}"] for name in RANGES) or any(found[f"set {name}"] for name in SETS)
        return failed or any(not low <= found[f"mean {name}"] <= high for name, (low, high) in MEANS.items())

    return work


def pandera(table: str):
    import pandera.polars as pa
    import polars as pl

    dtypes = {"integer": pl.Int64, "number": pl.Float64, "string": pl.String, "datetime": pl.Datetime("us")}

    def column(name: str) -> pa.Column:
        checks = []
        if name in MISSING:
            most = MISSING[name]
            checks.append(pa.Check(lambda data: data.lazyframe.select(pl.col(data.key).null_count() / pl.len() <= most), ignore_na=False))
        if name in RANGES:
            checks.append(pa.Check.in_range(*RANGES[name]))
        if name in SETS:
            checks.append(pa.Check.isin(SETS[name]))
        if name == "code":
            checks.append(pa.Check.str_matches(f"^{PATTERN}$"))
        if name in MEANS:
            low, high = MEANS[name]
            checks.append(pa.Check(lambda data: data.lazyframe.select(pl.col(data.key).mean().is_between(low, high))))
        return pa.Column(dtypes[TYPES[name]], checks=checks, nullable=True, unique=name == KEY)

    schema = pa.DataFrameSchema({name: column(name) for name in TYPES}, strict=True)

    def work() -> bool:
        try:
            schema.validate(pl.scan_parquet(table), lazy=True)
        except pa.errors.SchemaErrors:
            return True
        return False

    return work


def pointblank(table: str):
    import pointblank as pb
    import polars as pl

    dtypes = {"integer": "Int64", "number": "Float64", "string": "String", "datetime": "Datetime(time_unit='us', time_zone=None)"}

    def work() -> bool:
        plan = pb.Validate(pl.read_parquet(table)).col_schema_match(
            pb.Schema(columns=[(name, dtypes[kind]) for name, kind in TYPES.items()]), in_order=False
        )
        for name, most in MISSING.items():
            plan = plan.col_vals_not_null(name, thresholds=pb.Thresholds(error=most))
        for name, limits in RANGES.items():
            plan = plan.col_vals_between(name, *limits, na_pass=True)
        for name, values in SETS.items():
            plan = plan.col_vals_in_set(name, values)
        plan = plan.rows_distinct(columns_subset=KEY).col_vals_regex("code", f"^{PATTERN}$")
        for name, (low, high) in MEANS.items():
            plan = plan.col_avg_ge(name, low).col_avg_le(name, high)
        done = plan.interrogate(collect_extracts=False)
        return any(step.error if step.assertion_type == "col_vals_not_null" else not step.all_passed for step in done.validation_info)

    return work


def great_expectations(table: str):
    import great_expectations as gx
    import great_expectations.expectations as gxe
    import pandas as pd

    dtypes = {"integer": "int64", "number": "float64", "datetime": "datetime64[us]"}
    expected = [gxe.ExpectTableRowCountToBeBetween(min_value=1, max_value=50_000_000)]
    expected.append(gxe.ExpectTableColumnsToMatchSet(column_set=list(TYPES), exact_match=True))
    expected += [gxe.ExpectColumnValuesToBeOfType(column=name, type_=dtypes[kind]) for name, kind in TYPES.items() if kind in dtypes]
    expected += [gxe.ExpectColumnValuesToNotBeNull(column=name, mostly=1 - most) for name, most in MISSING.items()]
    expected += [gxe.ExpectColumnValuesToBeBetween(column=name, min_value=low, max_value=high) for name, (low, high) in RANGES.items()]
    expected += [gxe.ExpectColumnValuesToBeInSet(column=name, value_set=values) for name, values in SETS.items()]
    expected += [gxe.ExpectColumnValuesToBeUnique(column=KEY), gxe.ExpectColumnValuesToMatchRegex(column="code", regex=f"^{PATTERN}$")]
    expected += [gxe.ExpectColumnMeanToBeBetween(column=name, min_value=low, max_value=high) for name, (low, high) in MEANS.items()]

    def work() -> bool:
        context = gx.get_context(mode="ephemeral")
        batch = context.data_sources.add_pandas("p").add_dataframe_asset("a").add_batch_definition_whole_dataframe("b")
        suite = gx.ExpectationSuite(name="suite", expectations=expected)
        done = batch.get_batch({"dataframe": pd.read_parquet(table)}).validate(suite, result_format="BOOLEAN_ONLY")
        return not done.success

    return work


JOBS = {
    "bare scan": bare_scan,
    "by hand in polars": by_hand,
    "kfp-foundry": foundry,
    "kfp-foundry on duckdb": lambda table: foundry(table, "duckdb"),
    "pandera on polars": pandera,
    "pointblank": pointblank,
    "great_expectations": great_expectations,
}


def machine() -> dict[str, object]:
    from importlib.metadata import version

    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "cpu": model,
        "cpus": os.cpu_count() or 0,
        "python": platform.python_version(),
        "polars": version("polars"),
        "narwhals": version("narwhals"),
        "duckdb": version("duckdb"),
        "load_1_min": round(os.getloadavg()[0], 1),
    }


if __name__ == "__main__":
    main()
