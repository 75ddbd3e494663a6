"""Real data for every test: a slice of the flights from New York in 2013, and its contract."""

from pathlib import Path

import polars as pl
import pytest

from kfp_foundry.components.common.contract import Contract
from kfp_foundry.demo import flights as demo_flights

CONTRACT = """
version: 1
name: flights
task: binary
positive: true
fields:
  - {name: time_hour, type: datetime, role: time}
  - {name: sched_dep_minute, type: integer}
  - {name: sched_arr_minute, type: integer}
  - {name: carrier, type: string}
  - {name: tailnum, type: string, role: ignore}
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


@pytest.fixture(scope="session")
def all_flights() -> pl.DataFrame:
    """All 327,346 flights of the year, in time order."""
    return demo_flights.table()


@pytest.fixture(scope="session")
def flights(all_flights: pl.DataFrame) -> pl.DataFrame:
    """6,547 flights: every fiftieth of the year, in time order."""
    return all_flights.gather_every(50)


@pytest.fixture(scope="session")
def flights_contract() -> Contract:
    """The contract of the flights, as a person would write it."""
    return Contract.parse(CONTRACT)


@pytest.fixture
def artifact(tmp_path: Path):
    """Makes real KFP artifacts in the test's folder: `artifact("train", dsl.Dataset)`."""
    from kfp import dsl

    def make(name: str, kind: type = dsl.Artifact, **metadata):
        return kind(name=name, uri=str(tmp_path / name), metadata=metadata)

    return make
