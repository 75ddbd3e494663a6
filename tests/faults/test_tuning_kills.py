"""A search is killed at random moments, in any of its processes: run again, it comes to what an undisturbed one does, and leaves no process.

KFP_FOUNDRY_FAULT_ROUNDS says how many searches are killed (2).
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import trials_for_tests as toy

from kfp_foundry.components.common import processes

ROUNDS = int(os.environ.get("KFP_FOUNDRY_FAULT_ROUNDS", "2"))
SEARCH = {"algorithm": "tpe", "settings": {"n_startup_trials": 3}, "max_trials": 9, "early_stopping": "median"}
TRIAL_SECONDS = 0.12
PATIENCE = 60.0


@pytest.fixture(scope="module")
def undisturbed_folder(tmp_path_factory):
    """Where nobody killed a search of one trial at a time."""
    return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture(scope="module")
def undisturbed(undisturbed_folder, tmp_path_factory):
    """What the search comes to when nobody kills it, by the number of trials at once."""
    folders = {1: undisturbed_folder, 2: tmp_path_factory.mktemp("undisturbed")}
    searches = [start(folder, parallel) for parallel, folder in folders.items()]
    assert [search.wait(PATIENCE) for search in searches] == [0, 0]
    return {parallel: json.loads((folder / "result.json").read_text())["trials"] for parallel, folder in folders.items()}


def start(folder, parallel):
    words = json.dumps({**SEARCH, "parallel_trials": parallel}), json.dumps({"seconds": TRIAL_SECONDS, "log": str(folder / "log.jsonl")})
    command = [sys.executable, toy.__file__, str(folder / "search"), str(folder / "result.json"), *words]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


def lines(folder):
    file = folder / "log.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def victims(folder, supervisor):
    """The processes of the search: number and token of its start."""
    _, worker, keeper, _ = lines(folder)[-1]
    return {"supervisor": supervisor.pid, "worker": worker, "keeper": keeper}


def wait_for(condition, seconds=PATIENCE):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.005)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_killed_search_goes_on_as_if_nothing_had_happened(tmp_path, undisturbed, number):
    chance = random.Random(number)
    parallel = chance.choice([1, 2])
    supervisor = start(tmp_path, parallel)
    spared = 0
    for _ in range(chance.randint(1, 4)):
        seen = len(lines(tmp_path))
        wait_for(lambda seen=seen, process=supervisor: len(lines(tmp_path)) > seen or process.poll() is not None)
        time.sleep(chance.uniform(0, 2.5 * TRIAL_SECONDS))
        if supervisor.poll() is not None:
            break
        known = victims(tmp_path, supervisor)
        tokens = {name: processes.started_at(pid) for name, pid in known.items()}
        # A trial whose process is killed for the third time has failed, so two such kills are all that a search must not notice.
        chosen = chance.choice(list(known)) if spared < 2 else "supervisor"
        spared += chosen != "supervisor"
        with suppress(ProcessLookupError):
            if tokens[chosen]:
                os.kill(known[chosen], signal.SIGKILL)
        if chosen == "supervisor":
            supervisor.wait()
            wait_for(lambda known=known, tokens=tokens: not any(processes.is_alive(known[name], tokens[name]) for name in known), 3.0)
            supervisor = start(tmp_path, parallel)
    assert supervisor.wait(PATIENCE) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["trials"] == undisturbed[parallel]
    assert [trial[0] for trial in result["trials"]] == list(range(9))
    assert not [pid for _, pid, _, _ in lines(tmp_path) if processes.started_at(pid)]


def test_finished_trials_are_not_run_again_and_the_interrupted_one_is(tmp_path, undisturbed):
    supervisor = start(tmp_path, 1)
    wait_for(lambda: sum(line[0] == "end" for line in lines(tmp_path)) >= 2 and lines(tmp_path)[-1][0] == "begin")
    supervisor.kill()
    supervisor.wait()
    interrupted = lines(tmp_path)[-1][3]
    assert start(tmp_path, 1).wait(PATIENCE) == 0
    begun = [line[3] for line in lines(tmp_path) if line[0] == "begin"]
    assert begun.count(interrupted) == 2
    assert len(begun) == len(undisturbed[1]) + 1


def test_a_finished_search_is_not_run_again(undisturbed, undisturbed_folder):
    log, result = undisturbed_folder / "log.jsonl", undisturbed_folder / "result.json"
    before = log.read_text(), json.loads(result.read_text())
    assert start(undisturbed_folder, 1).wait(PATIENCE) == 0
    assert (log.read_text(), json.loads(result.read_text())) == before


def test_a_search_that_runs_already_is_waited_for(tmp_path, undisturbed):
    first, second = start(tmp_path, 1), start(tmp_path, 1)
    assert [first.wait(PATIENCE), second.wait(PATIENCE)] == [0, 0]
    assert json.loads((tmp_path / "result.json").read_text())["trials"] == undisturbed[1]
    assert sum(line[0] == "begin" for line in lines(tmp_path)) == len(undisturbed[1])


def test_half_a_line_at_the_end_of_the_record_is_left_out(tmp_path, undisturbed):
    supervisor = start(tmp_path, 1)
    wait_for(lambda: sum(line[0] == "end" for line in lines(tmp_path)) >= 2)
    supervisor.kill()
    supervisor.wait()
    journal = tmp_path / "search" / "journal.log"
    with journal.open("a") as file:
        file.write('{"op_code":6,"study_id":0')
    assert start(tmp_path, 1).wait(PATIENCE) == 0
    assert json.loads((tmp_path / "result.json").read_text())["trials"] == undisturbed[1]


def test_an_interrupted_supervisor_leaves_no_process(tmp_path):
    supervisor = start(tmp_path, 2)
    wait_for(lambda: len(lines(tmp_path)) >= 2)
    known = victims(tmp_path, supervisor)
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(PATIENCE) != 0
    wait_for(lambda: not any(processes.started_at(pid) for pid in known.values()), 3.0)
    assert Path(tmp_path / "search" / "journal.log").exists()


def test_a_record_that_cannot_be_read_is_put_aside_and_the_search_begins_anew(tmp_path, undisturbed):
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "journal.log").write_bytes(b"\0" * 4096 + b"\n" + b'{"op_code":0}\n')
    assert start(tmp_path, 1).wait(PATIENCE) == 0
    assert json.loads((tmp_path / "result.json").read_text())["trials"] == undisturbed[1]
    assert (tmp_path / "search" / "journal.damaged").exists()
