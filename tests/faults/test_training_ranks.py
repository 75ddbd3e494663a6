"""Whatever ends a rank or its supervisor: no process is left over, one line says why, and the next run comes to the same model."""

import os
import random
import signal
import subprocess
from pathlib import Path

import pytest
from rank_training import Supervisor, faulty, result, train, until, write_tables

from kfp_foundry.components.common.distributed.local import supervise
from kfp_foundry.components.common.errors import FoundryError, PlatformError, UserError

ROUNDS = int(os.environ.get("KFP_FOUNDRY_FAULT_ROUNDS", "1"))


@pytest.fixture
def place(tmp_path, flights, flights_contract) -> Path:
    write_tables(tmp_path, flights, flights_contract)
    return tmp_path


@pytest.fixture(autouse=True)
def frequent(monkeypatch):
    """Checkpoints within an epoch, and no waiting of minutes for a rank that hangs."""
    monkeypatch.setenv("KFP_FOUNDRY_CHECKPOINT_STEPS", "3")
    monkeypatch.setenv("KFP_FOUNDRY_COLLECTIVE_SECONDS", "30")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, flights, flights_contract) -> dict:
    """What a training on two ranks comes to when nobody disturbs it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_tables(folder, flights, flights_contract)
    return train(folder, 2)


def same(found: dict, expected: dict) -> bool:
    return (found["digest"], found["metrics"]) == (expected["digest"], expected["metrics"])


def steps(place: Path) -> list[Path]:
    return sorted((place / "work/checkpoints").glob("step-*"))


@pytest.mark.parametrize("attempt", range(ROUNDS))
def test_a_supervisor_killed_at_any_moment_leaves_no_process_and_the_next_run_comes_to_the_same_model(place, undisturbed, attempt):
    supervisor = Supervisor(place, 2)
    moment = random.Random(attempt).random()
    if moment < 0.25:  # while PyTorch is imported; later ones while ranks train and finish
        until(lambda: len(supervisor.family()) > 1)
    else:
        until(lambda: len(supervisor.ranks()) == 2 or supervisor.process.poll() is not None)
    try:
        supervisor.process.wait(timeout=moment * 3)
    except subprocess.TimeoutExpired:
        supervisor.kill()
    until(lambda: not supervisor.family(), seconds=30)
    assert same(train(place, 2), undisturbed)


@pytest.mark.parametrize("attempt", range(ROUNDS))
def test_a_rank_killed_at_any_moment_ends_the_others_and_the_next_run_comes_to_the_same_model(place, undisturbed, attempt):
    chance = random.Random(1000 + attempt)
    supervisor = Supervisor(place, 2)
    ranks = until(lambda: len(found := supervisor.ranks()) == 2 and found)
    try:
        supervisor.process.wait(timeout=chance.random() * 2)
    except subprocess.TimeoutExpired:
        victim = chance.choice(ranks)
        os.kill(victim, signal.SIGKILL)
        supervisor.process.wait(timeout=60)
        said = supervisor.log.read_text().splitlines()[-1]
        ended = f"rank {ranks.index(victim)} was ended by SIGKILL, perhaps for lack of memory; run again: it goes on from the last checkpoint"
        assert said == f"error: training: {ended}" or supervisor.process.returncode == 0  # rank 1 may have had nothing left to do
    until(lambda: not supervisor.family(), seconds=30)
    assert same(train(place, 2), undisturbed)


def test_a_training_goes_on_from_its_last_checkpoint(place):
    args = faulty(place, epochs=5, epoch=3, fault="die")
    with pytest.raises(PlatformError, match=r"rank 0 was ended by SIGKILL"):
        train(place, 2, "user_training", args)
    again = train(place, 2, "user_training", args)
    assert {"[rank 0] starts at epoch 2", "[rank 0] starts at epoch 3"} & {*again["lines"]}  # the last save may not have been done
    assert same(again, train(place, 2, "user_training", args, work="undisturbed"))


def test_a_truncated_checkpoint_is_noticed_and_the_one_before_it_taken(place, undisturbed):
    supervisor = Supervisor(place, 2)
    until(lambda: len(steps(place)) == 2)
    supervisor.kill()
    newest = steps(place)[-1]
    largest = max(newest.iterdir(), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-100])
    again = train(place, 2)
    assert any(f"checkpoint {newest}: {largest.name} is damaged" in line for line in again["lines"])
    assert same(again, undisturbed)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_training_goes_on_with_fewer_ranks_and_with_more(place, strategy):
    for ranks, epoch in ((2, 2), (1, 4)):
        with pytest.raises(FoundryError, match="the learning rate has no name"):
            train(place, ranks, "user_training", faulty(place, epochs=6, epoch=epoch, fault="raise"), strategy=strategy)
    found = train(place, 2, "user_training", faulty(place, epochs=6, epoch=-2), strategy=strategy)
    assert {"[rank 0] starts at epoch 3", "[rank 0] starts at epoch 4"} & {*found["lines"]}
    assert found["metrics"]["auc"] > 0.6


def test_a_fork_server_that_is_killed_takes_its_ranks_along(place):
    supervisor = Supervisor(place, 2, "user_training", faulty(place, epoch=1, fault="hang"))
    ranks = until(lambda: len(found := supervisor.ranks()) == 2 and found)
    (server,) = {*supervisor.family()} - {*ranks, supervisor.process.pid}
    os.kill(server, signal.SIGKILL)
    until(lambda: not supervisor.family(), seconds=30)
    said = "error: training: the process that starts ranks was ended, perhaps for lack of memory; run again: it goes on from the last checkpoint"
    assert supervisor.log.read_text().splitlines()[-1] == said


def test_the_failing_rank_s_error_is_the_message_and_its_traceback_a_note(place):
    with pytest.raises(FoundryError) as caught:
        train(place, 2, "user_training", faulty(place, rank=1, epoch=1, fault="raise"))
    file = place / "work/ranks/rank-1.log"
    assert str(caught.value).startswith("training, rank 1, user_training.py:")
    assert str(caught.value).endswith(f"in break_down: ValueError: the learning rate has no name; read {file}")
    assert "Traceback (most recent call last)" in caught.value.__notes__[0]


def test_a_rank_that_hangs_is_named_with_its_stack(place, monkeypatch):
    monkeypatch.setenv("KFP_FOUNDRY_COLLECTIVE_SECONDS", "2")
    with pytest.raises(FoundryError, match=r"rank 1 hangs, rank 0 waited for it in vain; rank 1 is at user_training\.py:\d+ in stay, called from"):
        train(place, 2, "user_training", faulty(place, rank=1, epoch=1, fault="hang"))


def test_a_training_that_takes_too_long_ends_with_the_stacks_of_its_ranks(place):
    with pytest.raises(FoundryError, match=r"not finished after 4 s; rank 0 is at user_training\.py:\d+ in stay"):
        train(place, 1, "user_training", faulty(place, epoch=1, fault="hang"), how={"seconds": 4})


def test_a_rank_that_does_not_heed_sigterm_is_killed(place, monkeypatch):
    monkeypatch.setattr(supervise, "GRACE_SECONDS", 0.5)
    with pytest.raises(FoundryError, match="not finished after 4 s"):
        train(place, 1, "user_training", faulty(place, epoch=1, fault="ignore"), how={"seconds": 4})


def test_a_rank_that_does_not_leave_after_the_end_does_not_spoil_it(place, monkeypatch):
    monkeypatch.setattr(supervise, "AFTER_SUCCESS_SECONDS", 0.5)
    found = train(place, 2, "user_training", faulty(place, rank=1, epoch=-1, fault="hang"))
    assert found["metrics"]["auc"] > 0.6


def test_torchrun_starts_the_ranks_anew_when_restarts_are_asked_for(place):
    args = faulty(place, rank=1, epoch=2, fault="die")
    found = train(place, 2, "user_training", args, how={"restarts": 1})
    assert found["engine"] == "torchrun"
    assert {f"[torchrun] [rank {rank}]:starts at epoch {epoch}" for rank in (0, 1) for epoch in (0, 2)} <= {*found["lines"]}
    assert same(found, train(place, 2, "user_training", args, work="undisturbed"))


def test_a_loss_that_is_no_number_says_what_to_lower(place):
    with pytest.raises(UserError, match=r"loss is nan in epoch 1 \(learning_rate is 1e\+30.*lower learning_rate"):
        train(place, 2, params={"epochs": 2, "width": 16, "learning_rate": 1e30, "warmup": 0.0, "clip_norm": 0.0})


def test_a_full_disk_is_told_and_the_training_goes_on_when_there_is_space(place, undisturbed):
    tiny = place / "work/checkpoints"
    tiny.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", tiny], capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        with pytest.raises(PlatformError, match=r"cannot be written: No space left on device; free some space"):
            train(place, 2)
    finally:
        subprocess.run(["umount", tiny], check=True)
    assert same(train(place, 2), undisturbed)
    assert result(place)["digest"] == undisturbed["digest"]
