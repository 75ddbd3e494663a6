"""One step of training: a batch forwards, its gradient backwards, and the weights moved; nothing here waits for the device.

On one GPU the whole step is recorded once as a CUDA graph and replayed: a small network's step is a few dozen kernels of
microseconds each, and starting them one by one from Python takes longer than running them.
"""

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.errors import PlatformError
from kfp_foundry.components.common.learning.network.batches import Batches
from kfp_foundry.components.common.learning.network.job import NetworkJob
from kfp_foundry.components.common.learning.network.table import Batch, Table

log = logging.getLogger(__name__)

WARM_UPS = 3  # passes before a CUDA graph is recorded, so that libraries have set up their workspaces
BETAS = (0.9, 0.999)

Loss = Callable[[torch.Tensor, Batch], torch.Tensor]


def loss_of(task: Task) -> Loss:
    """The loss of each row [rows] for scores [rows, outputs], each times its weight; in float32 whatever the precision."""

    def binary(scores: torch.Tensor, batch: Batch) -> torch.Tensor:
        target = batch.target.to(torch.float32)
        return nn.functional.binary_cross_entropy_with_logits(scores.squeeze(1).float(), target, reduction="none") * batch.weights

    def multiclass(scores: torch.Tensor, batch: Batch) -> torch.Tensor:
        return nn.functional.cross_entropy(scores.float(), batch.target.long(), reduction="none") * batch.weights

    def regression(scores: torch.Tensor, batch: Batch) -> torch.Tensor:
        return (scores.squeeze(1).float() - batch.target).square() * batch.weights

    return {Task.BINARY: binary, Task.MULTICLASS: multiclass, Task.REGRESSION: regression}[task]


def rates(highest: float, warmup: float, steps: int) -> torch.Tensor:
    """The learning rate of each step [steps]: a line up to the highest, then half a cosine down to 0.

    Reference: Loshchilov, Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts (ICLR 2017), without restarts.
    """
    rising = max(1, round(warmup * steps))
    up = torch.arange(1, rising + 1, dtype=torch.float64) / rising
    down = torch.arange(1, steps - rising + 1, dtype=torch.float64) / max(1, steps - rising + 1)
    return (highest * torch.cat([up, (1.0 + torch.cos(math.pi * down)) / 2.0])[:steps]).float()


def make_optimizer(network: nn.Module, weight_decay: float, device: torch.device, graph: bool) -> torch.optim.AdamW:
    """AdamW in one kernel, its learning rate a tensor on the device; only matrices of linear layers decay.

    Reference: Loshchilov, Hutter, Decoupled Weight Decay Regularization (ICLR 2019).
    """
    named = list(network.named_parameters())
    matrices = [parameter for name, parameter in named if parameter.ndim > 1 and name != "embedding"]
    others = [parameter for name, parameter in named if parameter.ndim <= 1 or name == "embedding"]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    rate = torch.zeros((), device=device)
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=rate, betas=BETAS, fused=True, capturable=graph)


class Step:
    """Trains on one batch at a time.

    Args:
        job: Says loss, precision and limits.
        module: The network as the ranks share it.
        parameters: Its parameters.
        optimizer: Of these.
        device: Where all of it is.
        total: Steps of the whole training.
    """

    def __init__(self, job: NetworkJob, module: nn.Module, optimizer: torch.optim.AdamW, device: torch.device, total: int) -> None:
        settings = job.settings
        self.module, self.optimizer, self.device = module, optimizer, device
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.table: Table = job.train
        self.loss = loss_of(job.task)
        self.clip_norm = settings.clip_norm
        self.half = settings.precision == "bfloat16" or (settings.precision == "auto" and device.type == "cuda")
        self.rate: torch.Tensor = optimizer.param_groups[0]["lr"]
        for group in optimizer.param_groups:
            group["lr"] = self.rate
        self.rates = rates(settings.learning_rate, settings.warmup, total).to(device)
        self.done = torch.zeros(1, dtype=torch.int64, device=device)
        self.sum = torch.zeros((), dtype=torch.float64, device=device)  # of the losses of this epoch's steps

    def __call__(self, cells: torch.Tensor) -> None:
        """Moves the weights by one batch of cells [rows, columns]."""
        self.backward(cells)
        if self.clip_norm:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm, foreach=True)
        self.rate.copy_(self.rates.index_select(0, self.done).squeeze(0))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done.add_(1)

    def backward(self, cells: torch.Tensor) -> None:
        """The batch's gradient, and its loss added to the epoch's."""
        batch = Batch.of(cells, self.table)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half, cache_enabled=False):
            scores = self.module(batch.codes, batch.numbers)
        loss = self.loss(scores, batch).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        self.sum.add_(loss.detach())


class Recorded:
    """A step on one GPU, recorded as a CUDA graph that gathers its own rows.

    Args:
        step: What is recorded.
        batches: Where the rows come from.

    Raises:
        RuntimeError: The device cannot record it.
    """

    def __init__(self, step: Step, batches: Batches) -> None:
        self._batches, self._step = batches, step
        self._index = torch.zeros(batches.size, dtype=torch.int64, device=step.device)
        self._rows = None if batches.resident else torch.zeros((batches.size, batches.cells.shape[1]), dtype=torch.int32, device=step.device)
        random = torch.cuda.get_rng_state(step.device)
        kept = step.sum.clone()
        _prepare(step.optimizer)
        cuda: Any = torch.cuda  # its streams have no types
        aside = cuda.Stream(step.device)
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                step.backward(self._gathered())
                step.optimizer.zero_grad(set_to_none=True)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            step(self._gathered())
        step.sum.copy_(kept)  # the passes before the recording counted theirs
        torch.cuda.set_rng_state(random, step.device)

    def __call__(self, number: int) -> None:
        """Trains on the epoch's batch of that number."""
        if self._rows is None:
            self._index.copy_(self._batches.index(number))
        else:
            self._rows.copy_(self._batches.take(number))
        self._graph.replay()

    def _gathered(self) -> torch.Tensor:
        return self._batches.cells.index_select(0, self._index) if self._rows is None else self._rows


def _prepare(optimizer: torch.optim.AdamW) -> None:
    """Makes the moments that a first step would make, which must not happen inside a recording."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter not in optimizer.state:
                optimizer.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }


def runner(step: Step, batches: Batches, world: int, compile_word: str) -> Callable[[int], None]:
    """What trains on the batch of a number: a recorded step where that is possible and wanted, else one kernel after the other.

    Raises:
        PlatformError: `graph` is asked for, and the GPU cannot record it.
    """
    plain = _plain(step, batches)
    if compile_word == "inductor":
        compiled: Any = torch.compile(step.module, dynamic=False)
        step.module = compiled
        return _told(plain)
    possible = step.device.type == "cuda" and world == 1
    if compile_word == "off" or not possible:
        return plain
    try:
        return Recorded(step, batches)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        if compile_word == "graph":
            raise PlatformError(f"a step cannot be recorded as a CUDA graph: {reason}", where="residual_mlp", remedy="give compile off") from error
        log.warning("steps are not recorded as a CUDA graph: %s", reason)
        return plain


def _told(train: Callable[[int], None]) -> Callable[[int], None]:
    """The same, with what the compiler lacks told in words."""
    from torch._dynamo.exc import TorchDynamoException

    def checked(number: int) -> None:
        try:
            train(number)
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise PlatformError(
                f"torch.compile fails: {reason}", where="residual_mlp", remedy="give compile off, or use an image with a C++ compiler"
            ) from error

    return checked


def _plain(step: Step, batches: Batches) -> Callable[[int], None]:
    def train(number: int) -> None:
        step(batches.take(number))

    return train
