"""Checkpoints: a training that was stopped goes on as if it had not been, and a damaged checkpoint is not taken."""

import dataclasses
import json
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.errors import PlatformError, UserError
from kfp_foundry.components.common.learning import fit_network
from kfp_foundry.components.common.learning.learner import Examples, Job
from kfp_foundry.components.common.learning.network.checkpoint import Checkpoints, State
from kfp_foundry.components.common.learning.network.loop import train
from kfp_foundry.components.common.learning.network.ranks import Ranks

SMALL = {"epochs": 6, "batch_size": 64, "width": 16, "blocks": 1, "bins": 8, "dropout": 0.2, "patience": 3}


class Interrupted(Exception):
    """What a test throws into a training."""


def network_job(rows=400, seed=7, **params):
    rng = np.random.default_rng(3)
    matrix = np.column_stack([rng.integers(0, 5, rows), rng.normal(size=rows), np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows))])
    target = ((matrix[:, 0] > 2) ^ (matrix[:, 1] > 0)).astype(np.int64)
    cut = rows * 3 // 4
    sides = [Examples(matrix[part], target[part], None) for part in (slice(cut), slice(cut, None))]
    job = Job(Task.BINARY, 2, *sides, categorical=[0], monotone=[], params=SMALL | params, early_stopping_rounds=9, seed=seed, threads=1)
    return fit_network.describe(job)


def run(job, folder=None, stop_after=0, every_steps=1000, mirror=None):
    """Trains, saving at each epoch's end; with `stop_after` until that many epochs have been reported."""

    def report(epoch):
        if epoch.number == stop_after:
            raise Interrupted

    checkpoints = None if folder is None else Checkpoints(folder, mirror=mirror, every_steps=every_steps, every_seconds=1e9)
    return train(job, Ranks.single("cpu"), checkpoints, report)


def interrupt(job, folder, monkeypatch, step):
    """Trains until after that many steps of all, as a process that is killed there would."""
    from kfp_foundry.components.common.learning.network.step import Step

    trained, done = Step.__call__, []

    def count(self, cells):
        if len(done) == step:
            raise Interrupted
        done.append(1)
        trained(self, cells)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", count)
        with pytest.raises(Interrupted):
            run(job, folder, every_steps=2)


@pytest.mark.parametrize("step", [1, 3, 5, 7, 11, 16, 29])
def test_a_training_that_is_stopped_anywhere_ends_with_the_same_bits(tmp_path, monkeypatch, step):
    job = network_job()
    undisturbed = run(job)
    interrupt(job, tmp_path, monkeypatch, step)
    resumed = run(job, tmp_path, every_steps=2)
    assert resumed.native == undisturbed.native
    assert resumed.curve == undisturbed.curve
    assert resumed.rounds == undisturbed.rounds


def test_a_training_that_has_ended_is_not_trained_again(tmp_path):
    job = network_job()
    first = run(job, tmp_path)
    again = run(job, tmp_path, stop_after=1)
    assert again.native == first.native


def test_keeping_checkpoints_changes_nothing(tmp_path):
    job = network_job()
    assert run(job, tmp_path, every_steps=1).native == run(job).native


def test_early_stopping_survives_an_interruption(tmp_path):
    job = network_job(epochs=30, patience=2, learning_rate=0.02)
    undisturbed = run(job)
    assert undisturbed.rounds < len(undisturbed.curve["validation"]) < 30
    with pytest.raises(Interrupted):
        run(job, tmp_path, stop_after=undisturbed.rounds + 1)
    resumed = run(job, tmp_path)
    assert (resumed.rounds, resumed.curve, resumed.native) == (undisturbed.rounds, undisturbed.curve, undisturbed.native)


def test_two_checkpoints_are_kept(tmp_path):
    run(network_job(), tmp_path, every_steps=1)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "flip", "no digests", "no facts", "empty digests", "no tensors"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, caplog, damage):
    job = network_job()
    undisturbed = run(job)
    with pytest.raises(Interrupted):
        run(job, tmp_path, stop_after=4)
    before, last = sorted(tmp_path.iterdir())
    tensors = last / "tensors.safetensors"
    if damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[: tensors.stat().st_size // 2])
    elif damage == "flip":
        content = bytearray(tensors.read_bytes())
        content[-9] ^= 1
        tensors.write_bytes(content)
    elif damage == "empty digests":
        (last / "digests.json").write_text("")
    else:
        (last / {"no digests": "digests.json", "no facts": "facts.json", "no tensors": "tensors.safetensors"}[damage]).unlink()
    assert Checkpoints(tmp_path).load(job.identity()).folder == before
    assert f"{last.name}: " in caplog.text
    assert "the one before it is taken" in caplog.text
    assert run(job, tmp_path).native == undisturbed.native


def test_when_all_are_damaged_the_training_begins_anew(tmp_path):
    job = network_job()
    undisturbed = run(job, tmp_path)
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(b"")
    assert run(job, tmp_path).native == undisturbed.native


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    draft = tmp_path / ".step-000000000009.tmp"
    draft.mkdir()
    run(network_job(), tmp_path)
    assert not draft.exists()


@pytest.mark.parametrize("other", [{"seed": 8}, {"width": 24}, {"bins": 5}, {"rows": 500}])
def test_checkpoints_of_another_training_are_refused(tmp_path, other):
    run(network_job(), tmp_path)
    with pytest.raises(UserError, match=r"checkpoints .*: step-\d+ is of another training: other parameters, columns, rows or seed; give this"):
        run(network_job(**other), tmp_path)


def test_how_fast_a_training_runs_makes_it_no_other_one(tmp_path):
    run(network_job(), tmp_path)
    assert run(network_job(precision="float32", compile="off"), tmp_path).rounds > 0


class Shelf:
    """A second place for checkpoints, as an object store would be one."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def push(self, folder):
        import shutil

        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(folder, self.place)

    def pull(self, folder):
        import shutil

        if self.place.exists():
            shutil.copytree(self.place, folder, dirs_exist_ok=True)


def test_a_machine_that_lost_its_disk_goes_on_from_the_mirror(tmp_path):
    job, shelf = network_job(), Shelf(tmp_path / "shelf")
    undisturbed = run(job)
    with pytest.raises(Interrupted):
        run(job, tmp_path / "here", stop_after=3, mirror=shelf)
    assert Checkpoints(tmp_path / "new", mirror=shelf).load(job.identity()).facts["progress"]["epoch"] == 2
    assert run(job, tmp_path / "there", mirror=shelf).native == undisturbed.native


def test_a_full_disk_is_told_in_words_and_the_earlier_checkpoint_stays_usable(tmp_path):
    state = State(1, "same", {"weights": torch.ones(1000)}, {"note": "kept"})
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state)
    checkpoints.close()
    script = f"""
        import resource, torch
        from pathlib import Path
        from kfp_foundry.components.common.learning.network.checkpoint import Checkpoints, State
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        checkpoints = Checkpoints(Path({str(tmp_path)!r}))
        try:
            checkpoints.save(State(2, "same", {{"weights": torch.ones(1_000_000)}}, {{}}))
            checkpoints.close()
        except Exception as error:
            print(type(error).__name__, error)
    """
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    told = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True).stdout
    assert told.startswith("PlatformError ")
    assert "step-000000000002: cannot be written: File too large; free some space or choose another disk" in told
    assert [place.name for place in tmp_path.iterdir()] == ["step-000000000001"]
    assert Checkpoints(tmp_path).load("same").facts == {"note": "kept"}


def test_a_training_that_went_astray_leaves_no_checkpoint_of_it(tmp_path):
    job = network_job(learning_rate=1e30, clip_norm=0.0)
    with pytest.raises(UserError, match="loss is nan in epoch 1"):
        run(job, tmp_path, every_steps=1)
    kept = Checkpoints(tmp_path).load(job.identity())
    assert kept is None or all(tensor.isfinite().all() for name, tensor in kept.tensors.items() if name.startswith("network."))


def test_a_folder_that_may_not_be_written_is_told_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    checkpoints = Checkpoints(tmp_path / "file" / "checkpoints")
    with pytest.raises(PlatformError, match="cannot be written: Not a directory"):
        run(network_job(), checkpoints.folder)


def test_a_state_on_more_ranks_goes_on_with_the_weights_and_the_share_of_the_epoch(tmp_path, monkeypatch):
    job = network_job()
    interrupt(job, tmp_path, monkeypatch, 12)
    last = sorted(tmp_path.iterdir())[-1]
    facts = json.loads((last / "facts.json").read_text())
    facts["facts"] |= {"world": 2, "sums": facts["facts"]["sums"] * 2}
    (last / "facts.json").write_text(json.dumps(facts))
    digests = json.loads((last / "digests.json").read_text())
    import hashlib

    digests["facts.json"] = hashlib.sha256((last / "facts.json").read_bytes()).hexdigest()
    (last / "digests.json").write_text(json.dumps(digests))
    resumed = run(job, tmp_path)
    undisturbed = run(job)
    assert len(resumed.curve["train"]) == len(undisturbed.curve["train"])
    assert resumed.curve["validation"][-1] == pytest.approx(undisturbed.curve["validation"][-1], rel=0.2)


def test_the_mean_of_a_loss_does_not_depend_on_where_the_epoch_was_left(tmp_path, monkeypatch):
    job = dataclasses.replace(network_job(), stops_early=False)
    interrupt(job, tmp_path, monkeypatch, 3)
    assert run(job, tmp_path).curve["train"] == run(job).curve["train"]
