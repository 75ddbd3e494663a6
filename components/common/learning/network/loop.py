"""The training loop, the same on one process and on many ranks, on a CPU and on GPUs.

Within an epoch nothing waits for the device: losses are added up there and read once, when the epoch ends. What an epoch of
training does not decide (how many batches, which rows, which learning rate) is settled before it begins.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.errors import UserError
from kfp_foundry.components.common.learning.learner import Fitted
from kfp_foundry.components.common.learning.network import emit, standing
from kfp_foundry.components.common.learning.network.batches import Batches, fits, plan_batches
from kfp_foundry.components.common.learning.network.checkpoint import Checkpoints, State
from kfp_foundry.components.common.learning.network.job import Epoch, NetworkJob, Report
from kfp_foundry.components.common.learning.network.model import Network
from kfp_foundry.components.common.learning.network.ranks import Ranks
from kfp_foundry.components.common.learning.network.step import Step, loss_of, make_optimizer, runner
from kfp_foundry.components.common.learning.network.table import Batch
from kfp_foundry.components.common.onnx.heads import apply_link

log = logging.getLogger(__name__)

LOSSES = {Task.BINARY: "log_loss", Task.MULTICLASS: "log_loss", Task.REGRESSION: "squared error, in units of the target's variance"}
LOOK_EVERY = 200  # steps between two looks at the clock, on which the ranks must agree
LARGE = 20_000_000  # parameters times rows of a step, from which two threads are faster than one
MEASURED = 32_768  # validation rows at once; up to here torch adds up in one order whatever the threads


@dataclass
class Progress:
    """Where a training stands, on the host.

    Args:
        epoch: Epochs done.
        step: Steps done within the next one.
        best: Smallest validation loss.
        best_epoch: After which epoch, from 1; 0 for none yet.
        curve: Losses after each epoch, by the name of the rows.
        finished: Whether it ended.
    """

    epoch: int = 0
    step: int = 0
    best: float = math.inf
    best_epoch: int = 0
    curve: dict[str, list[float]] = field(default_factory=dict)
    finished: bool = False


def train(job: NetworkJob, ranks: Ranks | None = None, checkpoints: Checkpoints | None = None, report: Report | None = None) -> Fitted:
    """Trains a network; every rank calls this with its rows.

    Args:
        job: All that decides the training. Everything but the rows is the same on every rank.
        ranks: The processes that train together; None for this one alone.
        checkpoints: Where its state is kept, and taken up again when there is one. Rank 0's are read and written.
        report: Called on rank 0 after each epoch; a true answer ends the training, and what it raises passes through.

    Returns:
        The network of the best epoch, on every rank; the importance of the columns is measured on rank 0 alone.

    Raises:
        UserError: The loss is no longer a number; or the checkpoints are of another training.
        PlatformError: A checkpoint cannot be written.

    Example:
        >>> fitted = train(job, Ranks.single(), Checkpoints(Path("checkpoints")))
        >>> fitted.scores(matrix)
    """
    here = ranks or Ranks.single("auto")
    with _own_random(job, here):
        loop = _Loop(job, here, checkpoints)
        try:
            loop.run(report)
            weights, importance = loop.result()
        finally:
            loop.close()
        progress = loop.progress
        return emit.fitted(job, weights, importance, progress.curve, LOSSES[job.task], progress.best_epoch or progress.epoch)


@contextmanager
def _own_random(job: NetworkJob, ranks: Ranks) -> Iterator[None]:
    """Random numbers of the training's own, and its number of threads; the process's own go on afterwards as if nothing had been."""
    devices = [ranks.device] if ranks.device.type == "cuda" else []
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=devices):
        if job.threads and ranks.device.type == "cpu":
            torch.set_num_threads(job.threads if _is_large(job) else 1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _is_large(job: NetworkJob) -> bool:
    """Whether a step is work enough for several threads; the result is the same either way."""
    network = Network(job.layout, job.settings, job.outputs)
    return sum(parameter.numel() for parameter in network.parameters()) * min(job.settings.batch_size, len(job.train)) > LARGE


class _Loop:
    def __init__(self, job: NetworkJob, ranks: Ranks, checkpoints: Checkpoints | None) -> None:
        self.job, self.ranks, self.checkpoints = job, ranks, checkpoints
        self.progress = Progress()
        settings, device = job.settings, ranks.device
        torch.manual_seed(job.seed)  # the same first weights on every rank
        network = Network(job.layout, settings, job.outputs)
        self.module = ranks.wrap(network, job.strategy, static=True)
        self.network = network
        share = -(-settings.batch_size // ranks.world)
        _, self.steps = plan_batches(len(job.train), share)
        graph = device.type == "cuda" and ranks.world == 1
        optimizer = make_optimizer(network, settings.weight_decay, device, graph)
        self.step = Step(job, self.module, optimizer, device, settings.epochs * self.steps)
        torch.manual_seed(job.seed + 1 + ranks.rank)  # what is left out differs from rank to rank
        self.batches = Batches(job.train.cells, device, share, job.seed, ranks.rank)
        held = torch.from_numpy(job.validation.cells)
        self.held = (held.to(device) if fits(held, device) else held) if len(held) else None
        self.best = [parameter.detach().clone() for parameter in network.parameters()]
        self.every_steps = int(ranks.broadcast(-1 if checkpoints is None else checkpoints.every_steps))  # -1: nothing is kept
        self.resume()
        self.train_on = runner(self.step, self.batches, ranks.world, settings.compile)

    def run(self, report: Report | None) -> None:
        """Trains from where it stands to the end."""
        progress, job = self.progress, self.job
        while progress.epoch < job.settings.epochs and not progress.finished:
            self.epoch()
            losses = self.losses()
            self.refuse_nonsense(losses)
            for name, loss in losses.items():
                progress.curve.setdefault(name, []).append(loss)
            progress.epoch, progress.step = progress.epoch + 1, 0
            self.keep_the_best(losses)
            stop = bool(report and self.ranks.first and report(Epoch(progress.epoch, losses, self.values)))
            stale = progress.epoch - progress.best_epoch
            progress.finished = self.agreed(stop) or (self.stops_early and stale >= job.settings.patience)
            progress.finished |= progress.epoch >= job.settings.epochs
            log.info("epoch %d of %d: %s", progress.epoch, job.settings.epochs, losses)
            self.step.sum.zero_()
            if self.every_steps >= 0 and (progress.finished or self.agreed(self.due(epoch_ends=True))):
                self.save()

    def epoch(self) -> None:
        """Trains on every row of this rank, or on those that are left of an epoch begun earlier."""
        progress = self.progress
        self.module.train()
        self.batches.shuffle(progress.epoch, progress.step)
        for number in range(progress.step, self.steps):
            self.train_on(number)
            progress.step = number + 1
            if progress.step < self.steps and self.looks(progress.step) and self.agreed(self.due()):
                self.save()

    @property
    def stops_early(self) -> bool:
        return self.job.stops_early and self.held is not None

    def losses(self) -> dict[str, float]:
        """The mean losses of the epoch, the same on every rank; here alone the host waits for the device."""
        sums = [self.step.sum / (self.steps * self.ranks.world), *self.held_sums()]
        read = self.ranks.sum(torch.stack(sums)).tolist()
        return {"train": read[0]} | ({"validation": read[1] / read[2]} if self.held is not None else {})

    @torch.no_grad()
    def held_sums(self) -> list[torch.Tensor]:
        """Sum of the weighted losses of the validation rows of this rank, and of their weights."""
        if self.held is None:
            return []
        self.network.eval()
        total, weight = torch.zeros((2,), dtype=torch.float64, device=self.ranks.device).unbind()
        loss = loss_of(self.job.task)
        for part in torch.split(self.held, MEASURED):
            batch = Batch.of(part.to(self.ranks.device), self.job.validation)
            with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.step.half):
                scores = self.network(batch.codes, batch.numbers)
            total = total + loss(scores, batch).sum(dtype=torch.float64)
            weight = weight + batch.weights.sum(dtype=torch.float64)
        return [total, weight]

    @torch.no_grad()
    def values(self) -> np.ndarray:
        """Predictions for this rank's validation rows by the weights of this moment."""
        self.network.eval()
        parts = [np.empty((0, self.job.outputs))]
        for part in torch.split(self.held, MEASURED) if self.held is not None else ():
            batch = Batch.of(part.to(self.ranks.device), self.job.validation)
            parts.append(self.network(batch.codes, batch.numbers).double().cpu().numpy())
        scores = np.concatenate(parts) * self.job.unit + self.job.centre
        return apply_link(scores[:, 0] if self.job.outputs == 1 else scores, emit.LINKS[self.job.task])

    def refuse_nonsense(self, losses: dict[str, float]) -> None:
        """Raises UserError if a loss is no number."""
        for name, loss in losses.items():
            if not math.isfinite(loss):
                settings = self.job.settings
                tried = f"learning_rate is {settings.learning_rate:g}, clip_norm {settings.clip_norm:g}, precision {settings.precision}"
                remedy = "lower learning_rate, give clip_norm 1, or precision float32"
                raise UserError(f"the {name} loss is {loss} in epoch {self.progress.epoch + 1} ({tried})", where="residual_mlp", remedy=remedy)

    def keep_the_best(self, losses: dict[str, float]) -> None:
        """Copies the weights when the validation loss is the smallest so far; without early stopping the last ones are kept."""
        progress = self.progress
        if self.stops_early and not losses["validation"] < progress.best:
            return
        progress.best, progress.best_epoch = losses.get("validation", losses["train"]), progress.epoch
        for kept, parameter in zip(self.best, self.network.parameters(), strict=True):
            kept.copy_(parameter.detach())

    def looks(self, step: int) -> bool:
        """Whether the clock is looked at after this step of the epoch."""
        return self.every_steps >= 0 and (step % LOOK_EVERY == 0 or bool(self.every_steps and step % self.every_steps == 0))

    def due(self, epoch_ends: bool = False) -> bool:
        """Whether rank 0 wants to save."""
        return self.checkpoints is not None and self.ranks.first and self.checkpoints.due(self.progress.step, epoch_ends)

    def agreed(self, wish: bool) -> bool:
        """Rank 0's wish, on every rank."""
        return bool(self.ranks.broadcast(wish))

    def save(self) -> None:
        """Keeps where the training stands; every rank takes part, rank 0 writes."""
        tensors, facts = standing.capture(self.network, self.best, self.step, self.ranks, self.progress, self.steps)
        if not all(map(math.isfinite, facts["sums"])):
            return  # the epoch's end says so; until then the checkpoint before is the good one
        if self.checkpoints is not None and self.ranks.first:
            done = self.progress.epoch * self.steps + self.progress.step
            self.checkpoints.save(State(done, self.job.identity(), tensors, facts))

    def resume(self) -> None:
        """Goes on where a checkpoint left off."""
        if self.every_steps < 0:
            return
        state = self.checkpoints.load(self.job.identity()) if self.checkpoints and self.ranks.first else None
        shared = standing.share(state, self.ranks)
        if shared is None:
            return
        tensors, facts = shared
        self.progress = standing.restore(tensors, facts, self.network, self.best, self.step, self.ranks, self.steps)
        log.info("taken up after epoch %d, step %d", self.progress.epoch, self.progress.step)

    def result(self) -> tuple[dict[str, torch.Tensor], list[float]]:
        """The kept weights on the CPU, and each column's importance."""
        if self.checkpoints is not None and self.ranks.first:
            self.checkpoints.wait()
        names = [name for name, _ in self.network.named_parameters()]
        weights = {name: standing.whole(tensor).cpu() for name, tensor in zip(names, self.best, strict=True)}
        importance = emit.importance(self.job, weights) if self.ranks.first else []
        return weights, importance

    def close(self) -> None:
        """Drops what the ranks share, which must be gone before they part, and ends the threads."""
        self.batches.close()
        if self.checkpoints is not None:
            self.checkpoints.close()
        for name in ("module", "network", "step", "best", "train_on"):
            setattr(self, name, None)
