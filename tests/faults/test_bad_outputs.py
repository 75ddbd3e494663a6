"""Places that cannot be written, and outputs that no cluster would take: one line each, and nothing half-written."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from kfp import dsl

from kfp_foundry.components.common.errors import PlatformError
from kfp_foundry.run import run_pipeline

component = dsl.component(base_image="example/python", install_kfp_package=False)


@component
def nothing() -> int:
    return 1


@dsl.pipeline
def one_step():
    nothing()


@component
def returns_none() -> str:
    return None


@component
def returns_nan() -> float:
    return float("nan")


@component
def returns_infinity_inside() -> dict:
    return {"a": [1, float("inf")]}


@component
def logs_nan(metrics: dsl.Output[dsl.Metrics]):
    metrics.log_metric("auc", float("nan"))


@component
def logs_infinite_threshold(curve: dsl.Output[dsl.ClassificationMetrics]):
    curve.log_roc_curve([0.0, 1.0], [0.0, 1.0], [float("inf"), 0.0])


@component
def notes_none(data: dsl.Output[dsl.Dataset]):
    data.metadata["rows"] = None


@component
def logs_numpy(metrics: dsl.Output[dsl.Metrics]):
    import numpy as np

    metrics.log_metric("auc", np.float32(0.5))


@component
def writes_text(count: dsl.OutputPath(int)):
    from pathlib import Path

    Path(count).write_text("many")


@component
def leaves() -> NamedTuple("Outputs", [("a", str), ("b", str)]):
    import os

    os._exit(0)


@component
def crashes():
    import ctypes

    ctypes.string_at(0)


@component
def says_nothing():
    import os

    os._exit(7)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (returns_none, "step returns-none: declares the output parameter 'Output' and did not write it; return a value in every case"),
        (returns_nan, "step returns-nan: output parameter 'Output' is nan, which no cluster takes; write finite numbers only"),
        (returns_infinity_inside, "step returns-infinity-inside: output parameter 'Output' is inf, which no cluster takes"),
        (logs_nan, "step logs-nan: metadata 'auc' of output 'metrics' is nan, which no cluster takes"),
        (logs_infinite_threshold, "step logs-infinite-threshold: metadata 'confidenceMetrics' of output 'curve' is inf, which no cluster takes"),
        (notes_none, "step notes-none: metadata 'rows' of output 'data' is None, which no cluster takes; leave it out"),
        (logs_numpy, "step logs-numpy: TypeError: Object of type float32 is not JSON serializable; log: "),
        (writes_text, "step writes-text: output parameter 'count' is 'many', not NUMBER_INTEGER; write JSON"),
        (leaves, "step leaves: declares the output parameter 'a' and did not write it"),
        (crashes, "step crashes: killed by SIGSEGV; run again to go on from here"),
        (says_nothing, "step says-nothing: "),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else "",
)
def test_an_output_that_cannot_be_used_is_one_clear_line(execute, broken, message):
    @dsl.pipeline(name="broken")
    def pipeline():
        broken()

    result = execute(pipeline)
    assert result.exit_code == 1
    assert result.error.startswith(message)
    assert "\n" not in result.error


def test_an_input_that_was_never_written_is_named(execute):
    @component
    def forgets(data: dsl.Output[dsl.Dataset]):
        pass

    @component
    def reads(data: dsl.Input[dsl.Dataset]):
        from pathlib import Path

        Path(data.path).read_text()

    @dsl.pipeline
    def forgetful():
        reads(data=forgets().outputs["data"])

    assert "its input data was never written by the step before; log: " in execute(forgetful).error


def test_inputs_too_big_for_a_command_line_are_refused(execute):
    @component
    def takes(text: str):
        pass

    @dsl.pipeline
    def big(text: str):
        takes(text=text)

    error = execute(big, text="x" * 200_000).error
    assert error.startswith("step takes: its inputs take 200,")
    assert error.endswith("one argument of a process holds 131,071; pass big values as artifacts")


def test_a_home_that_cannot_be_made_is_named(execute, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(PlatformError, match=r"/file/home: cannot be written: Not a directory; choose a folder that you may write to"):
        execute(one_step, home=tmp_path / "file/home")


@pytest.fixture
def mounted(tmp_path):
    """A file system of two megabytes; skipped where mounting is not allowed."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_read_only_home_is_named(execute, mounted):
    subprocess.run(["mount", "-o", "remount,ro", mounted], check=True)
    with pytest.raises(PlatformError, match=rf"{mounted}/home: cannot be written: Read-only file system; choose a folder"):
        execute(one_step, home=mounted / "home")


@component
def fills(data: dsl.Output[dsl.Dataset]):
    from pathlib import Path

    Path(data.path).write_bytes(b"x" * 5_000_000)


def test_a_disk_that_a_step_fills_is_named(compiled, mounted):
    @dsl.pipeline
    def filling():
        fills()

    line = [sys.executable, "-m", "kfp_foundry", "run", str(compiled(filling)), "--home", str(mounted / "home")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr or "no space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_disk_that_is_full_before_the_run_is_named(compiled, mounted):
    (mounted / "ballast").write_bytes(b"x" * (os.statvfs(mounted).f_bavail * os.statvfs(mounted).f_frsize))
    line = [sys.executable, "-m", "kfp_foundry", "run", str(compiled(one_step)), "--home", str(mounted / "home")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {mounted}/home")
    assert "cannot be written: No space left on device; free some space or choose another disk" in done.stderr


def test_a_record_is_never_half_written(execute):
    result = execute(one_step)
    assert json.loads((result.folder / "run.json").read_text())["state"] == "succeeded"
    assert not list(Path(result.folder).rglob("*.tmp"))


def test_a_run_after_a_record_was_damaged_starts_anew(compiled, tmp_path):
    first = run_pipeline(compiled(one_step), {}, tmp_path / "home")
    (first.folder / "run.json").write_text('{"state": "runn')
    assert run_pipeline(compiled(one_step), {}, tmp_path / "home").exit_code == 0
