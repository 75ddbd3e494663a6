"""Whatever kills a run or a step, no process is left over, and the next run goes on from there."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kfp import dsl

from kfp_foundry.run import run_pipeline

component = dsl.component(base_image="example/python", install_kfp_package=False)


@component
def count(name: str) -> str:
    """Leaves one line per execution."""
    import os
    from pathlib import Path

    with (Path(os.environ["TALLY"]) / f"{name}.count").open("a") as file:
        file.write("x\n")
    return name


@component
def hang(name: str) -> str:
    """Hangs, with a child, until there is a file `go`; notes the process ids."""
    import os
    import subprocess
    import time
    from pathlib import Path

    place = Path(os.environ["TALLY"])
    with (place / f"{name}.count").open("a") as file:
        file.write("x\n")
    if not (place / "go").exists():
        child = subprocess.Popen(["sleep", "300"])
        (place / f"{name}.pids.draft").write_text(f"{os.getpid()} {child.pid}")
        (place / f"{name}.pids.draft").rename(place / f"{name}.pids")
        while True:
            time.sleep(1)
    return name


@dsl.pipeline
def hanging():
    first = count(name="first").set_caching_options(False)
    stuck = hang(name="stuck").after(first)
    count(name="last").after(stuck)


@dsl.pipeline
def hanging_loop():
    with dsl.ParallelFor(["a", "b", "c", "d"]) as item:
        hang(name=item)


@pytest.fixture(autouse=True)
def tally(tmp_path, monkeypatch):
    """Where steps leave their marks: in the environment, since a folder named by a parameter would be watched for changes."""
    monkeypatch.setenv("TALLY", str(tmp_path))


def start(pipeline: Path, folder: Path) -> subprocess.Popen:
    line = [sys.executable, "-m", "kfp_foundry", "run", str(pipeline), "--home", str(folder / "home")]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def until(what: Callable[[], object]) -> object:
    deadline = time.monotonic() + 60
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def pids(folder: Path, steps: int) -> list[int]:
    files = until(lambda: len(found := list(folder.glob("*.pids"))) >= steps and found)
    return [int(pid) for file in files for pid in file.read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def executions(folder: Path) -> dict[str, int]:
    return {file.stem: len(file.read_text().split()) for file in folder.glob("*.count")}


def record(folder: Path) -> dict:
    (run,) = (folder / "home/runs").iterdir()
    return json.loads((run / "run.json").read_text())


@pytest.mark.parametrize(
    ("number", "group", "code"),
    [
        (signal.SIGINT, True, 130),
        (signal.SIGINT, False, 130),
        (signal.SIGTERM, False, 143),
        (signal.SIGHUP, True, -signal.SIGHUP),
        (signal.SIGKILL, False, -signal.SIGKILL),
        (signal.SIGKILL, True, -signal.SIGKILL),
    ],
    ids=["ctrl-c", "int", "term", "hangup", "kill", "kill-group"],
)
@pytest.mark.parametrize(("pipeline", "steps"), [(hanging, 1), (hanging_loop, 2)], ids=["step", "loop"])
def test_no_process_is_left_over(compiled, tmp_path, pipeline, steps, number, group, code):
    process = start(compiled(pipeline), tmp_path)
    started = pids(tmp_path, steps)
    assert all(alive(pid) for pid in started)
    (os.killpg if group else os.kill)(process.pid, number)
    process.communicate(timeout=30)
    assert process.returncode == code
    until(lambda: not any(alive(pid) for pid in started))


def test_an_interrupted_run_says_so_and_cleans_its_temporary_folder(compiled, tmp_path):
    process = start(compiled(hanging), tmp_path)
    pids(tmp_path, 1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    found = record(tmp_path)
    assert errors.strip() == f"error: run {found['run']}: interrupted; run again to go on from here"
    assert (found["state"], found["exit_code"]) == ("interrupted", 143)
    assert {name: step["state"] for name, step in found["steps"].items()} == {"count": "done", "hang": "interrupted", "count-2": "skipped"}
    assert not (tmp_path / "home/runs" / found["run"] / "tmp").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_next_run_goes_on_where_a_killed_one_stopped(compiled, tmp_path, number):
    pipeline = compiled(hanging)
    process = start(pipeline, tmp_path)
    pids(tmp_path, 1)
    process.send_signal(number)
    process.communicate(timeout=30)
    (tmp_path / "go").touch()
    again = run_pipeline(pipeline, {}, tmp_path / "home")
    assert again.states() == {"count": "resumed", "hang": "done", "count-2": "done"}
    assert executions(tmp_path) == {"first": 1, "stuck": 2, "last": 1}
    assert record(tmp_path)["resumed"] == 1


@pytest.mark.parametrize("who", ["python", "shell"])
def test_a_step_that_is_killed_is_the_only_one_that_runs_again(compiled, tmp_path, who):
    pipeline = compiled(hanging)
    process = start(pipeline, tmp_path)
    python, _ = pids(tmp_path, 1)
    parent = int(Path(f"/proc/{python}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(python if who == "python" or parent == process.pid else parent, signal.SIGKILL)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors.strip() == "error: step hang: killed by SIGKILL; perhaps for lack of memory; run again to go on from here"
    until(lambda: not any(alive(pid) for pid in pids(tmp_path, 1)))
    (tmp_path / "go").touch()
    again = run_pipeline(pipeline, {}, tmp_path / "home")
    assert again.exit_code == 0
    assert executions(tmp_path) == {"first": 1, "stuck": 2, "last": 1}


def test_a_loop_that_was_killed_keeps_its_finished_rounds(compiled, tmp_path):
    @dsl.pipeline
    def rounds():
        with dsl.ParallelFor(["a", "b"]) as item:
            count(name=item).set_caching_options(False)
        hang(name="stuck").after(count(name="other").set_caching_options(False))

    pipeline = compiled(rounds)
    process = start(pipeline, tmp_path)
    pids(tmp_path, 1)
    until(lambda: [step["state"] for step in record(tmp_path)["steps"].values()].count("done") == 3)
    process.kill()
    process.communicate(timeout=30)
    (tmp_path / "go").touch()
    assert run_pipeline(pipeline, {}, tmp_path / "home").exit_code == 0
    assert executions(tmp_path) == {"a": 1, "b": 1, "other": 1, "stuck": 2}


@pytest.mark.parametrize("why", ["other parameter", "changed file", "fresh"])
def test_an_interrupted_run_is_left_alone_when_something_else_is_asked_for(compiled, tmp_path, why):
    @dsl.pipeline
    def reading(path: str):
        hang(name=path).after(count(name="first").set_caching_options(False))

    pipeline = compiled(reading)
    (tmp_path / "data.csv").write_text("a")
    process = subprocess.Popen(
        [sys.executable, "-m", "kfp_foundry", "run", str(pipeline), "--home", "home", "--set", "path=data.csv"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    pids(tmp_path, 1)
    process.kill()
    process.wait(timeout=30)
    (tmp_path / "go").touch()
    if why == "changed file":
        (tmp_path / "data.csv").write_text("other")
    path = "other" if why == "other parameter" else "data.csv"
    line = [sys.executable, "-m", "kfp_foundry", "run", str(pipeline), "--home", "home", "--set", f"path={path}"]
    subprocess.run(line + (["--fresh"] if why == "fresh" else []), cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert executions(tmp_path)["first"] == 2
    assert len(list((tmp_path / "home/runs").iterdir())) == 2


def test_a_run_that_is_alive_is_not_taken_over(compiled, tmp_path):
    pipeline = compiled(hanging)
    process = start(pipeline, tmp_path)
    started = pids(tmp_path, 1)
    (tmp_path / "go").touch()
    assert run_pipeline(pipeline, {}, tmp_path / "home").exit_code == 0
    assert all(alive(pid) for pid in started)
    assert len(list((tmp_path / "home/runs").iterdir())) == 2
    process.terminate()
    process.communicate(timeout=30)


@component
def deploy():
    """Starts a server that is to outlive the run, in a session of its own."""
    import os
    import subprocess
    from pathlib import Path

    server = subprocess.Popen(["sleep", "300"], start_new_session=True)
    (Path(os.environ["TALLY"]) / "server.pids").write_text(str(server.pid))


def test_a_server_that_was_deployed_outlives_the_run(compiled, tmp_path):
    @dsl.pipeline
    def deploying():
        deploy()

    assert run_pipeline(compiled(deploying), {}, tmp_path / "home").exit_code == 0
    (server,) = pids(tmp_path, 1)
    assert alive(server)
    os.kill(server, signal.SIGKILL)


def test_exit_tasks_do_not_start_when_the_run_is_interrupted(compiled, tmp_path):
    @dsl.pipeline
    def guarded():
        with dsl.ExitHandler(count(name="exit")):
            hang(name="stuck")

    process = start(compiled(guarded), tmp_path)
    pids(tmp_path, 1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert "exit" not in executions(tmp_path)
