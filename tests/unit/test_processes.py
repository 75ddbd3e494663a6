"""Ending processes: only those that were meant, and one that is ending by itself is no error."""

import os
import subprocess
import sys

import pytest

from kfp_foundry.components.common import processes


@pytest.fixture
def sleeper():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True) as process:
        yield process
        process.kill()


def test_a_process_is_ended(sleeper):
    processes.end(sleeper.pid, processes.started_at(sleeper.pid), 5.0)
    assert processes.started_at(sleeper.pid) == ""


def test_a_process_of_the_same_number_that_started_at_another_time_is_left_alone(sleeper):
    processes.end(sleeper.pid, "another-1", 5.0)
    assert sleeper.poll() is None


@pytest.mark.parametrize("call", ["getpgid", "kill"])
def test_a_process_that_ends_after_it_was_looked_at_is_no_error(sleeper, monkeypatch, call):
    token, real = processes.started_at(sleeper.pid), getattr(os, call)

    def late(*words):
        monkeypatch.undo()
        sleeper.kill()
        sleeper.wait()
        return real(*words)

    monkeypatch.setattr(processes.os, call, late)
    processes.end(sleeper.pid, token, 5.0)
    assert processes.started_at(sleeper.pid) == ""
