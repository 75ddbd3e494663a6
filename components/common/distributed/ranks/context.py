"""What the user's `train(context)` is given: rows, ranks, checkpoints and metrics."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn

from kfp_foundry.components.common import store
from kfp_foundry.components.common.artifacts.model import Label
from kfp_foundry.components.common.contract import Contract, Task
from kfp_foundry.components.common.distributed import outcome
from kfp_foundry.components.common.distributed.ranks.mirror import checkpoints_at
from kfp_foundry.components.common.distributed.request import Request
from kfp_foundry.components.common.learning import data
from kfp_foundry.components.common.learning.data import Part
from kfp_foundry.components.common.learning.network.ranks import Ranks
from kfp_foundry.components.common.learning.network.snapshots import Snapshots
from kfp_foundry.components.common.onnx.encoding import Plan


@dataclass(frozen=True)
class Rows:
    """Encoded rows on the rank's device.

    Args:
        features: [rows, columns] float32: categories as columns of 0 and 1, numbers in standard deviations, nothing missing.
        target: [rows] positions of the class (int64; float32 for a binary task), or values (float32) for a regression.
        weights: [rows] float32; 1 without weights.
    """

    features: torch.Tensor
    target: torch.Tensor
    weights: torch.Tensor

    def __len__(self) -> int:
        return len(self.target)


class Context:
    """One rank's view of the training; the same on a laptop and on a cluster.

    Attributes:
        args: The component's `module_args`.
        contract: The data contract.
        task: Binary, multiclass or regression.
        labels: The classes; binary: the negative and the positive one.
        rank: Number of this rank, 0 to `world` - 1.
        world: How many ranks train.
        device: Where to compute.
        seed: The component's; PyTorch, NumPy and `random` are seeded with it already.
        train: This rank's raw training rows, lazily; every rank has as many.
        validation: All raw validation rows, lazily.
        columns: Names of the encoded columns.

    Example:
        >>> def train(context):
        ...     net = context.wrap(torch.nn.Linear(len(context.columns), 1))
        ...     ...
        ...     return net
    """

    def __init__(
        self, request: Request, contract: Contract, ranks: Ranks, labels: list[Label], plan: Plan, factors: list[float], train: pl.LazyFrame
    ) -> None:
        self.args: Mapping[str, Any] = request.module_args
        self.contract = contract
        self.task = contract.task or Task.REGRESSION
        self.labels = labels
        self.rank, self.world, self.device = ranks.rank, ranks.world, ranks.device
        self.seed = request.options.seed
        self.train = train
        self.validation = store.scan(request.validation)
        self.plan = plan
        self.columns = plan.columns
        self.curve: dict[str, list[float]] = {}
        self._factors = np.array(factors)
        self._ranks, self._strategy = ranks, request.strategy
        self._step = 0
        said = [request.module, dict(request.module_args), asdict(request.options), store.facts(request.train)["fingerprint"]]
        identity = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        self._snapshots = Snapshots(checkpoints_at(request.checkpoints), ranks, identity)
        self.copies: dict[int, nn.Module] = {}  # by the id of the sharded module

    @cached_property
    def train_rows(self) -> Rows:
        """The training rows of this rank, encoded; every rank has as many."""
        return self._rows("train")

    @cached_property
    def validation_rows(self) -> Rows:
        """All validation rows, encoded; there may be none."""
        return self._rows("validation")

    @property
    def outputs(self) -> int:
        """Scores that the network gives for a row: one per class of a multiclass task, else one."""
        return len(self.labels) if self.task is Task.MULTICLASS else 1

    def wrap(self, module: nn.Module) -> nn.Module:
        """Moves a module to the device and has all ranks train it together (DDP, or FSDP by `strategy`)."""
        import copy

        if self._ranks.chosen(module, self._strategy) == "fsdp":
            self.copies[id(module)] = copy.deepcopy(module).cpu()  # sharding changes the module itself; its form without it is needed in the end
        return self._ranks.wrap(module, self._strategy)

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over the ranks; every rank calls it."""
        return self._ranks.mean(tensor.detach().clone())

    def report(self, name: str, value: float) -> None:
        """Writes a metric as a line `name=value`, from rank 0; call it once per epoch. It is drawn on the report, too."""
        self.curve.setdefault(name, []).append(float(value))
        if self._ranks.first:
            outcome.say(name, value)

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, **facts: Any) -> None:
        """Writes a checkpoint in the background: weights, moments, random numbers, and the facts given (as JSON holds them).

        Every rank calls it at the same place.

        Example:
            >>> context.save(net, optimizer, epoch=epoch + 1)
        """
        self._step += 1
        self._snapshots.save(module, optimizer, self._step, {"step": self._step, "curve": self.curve, "facts": facts})

    def resume(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Puts the last checkpoint back, also one of another number of ranks; gives its facts, none at the first start.

        Every rank calls it at the same place, after `wrap`.

        Example:
            >>> first = context.resume(net, optimizer).get("epoch", 0)
        """
        found = self._snapshots.load(module, optimizer)
        if found is None:
            return {}
        self._step, self.curve = found["step"], found["curve"]
        return dict(found["facts"])

    def part(self, which: str) -> Part:
        """The rows as our own trainers have them."""
        table, where = (self.train, "train rows") if which == "train" else (self.validation, "validation rows")
        return data.part(*data.read(table, self.contract, where), self.contract, self.labels, where)

    def close(self) -> None:
        """Waits for the checkpoint under way; ours to call."""
        self._snapshots.close()

    def _rows(self, which: str) -> Rows:
        part = self.part(which)
        weights = np.ones(len(part)) if part.weights is None else part.weights
        if len(self._factors):
            weights = weights * self._factors[part.target]
        kind = torch.int64 if self.task is Task.MULTICLASS else torch.float32
        return Rows(
            torch.tensor(self.plan.matrix(part.feed), dtype=torch.float32, device=self.device),
            torch.tensor(part.target, dtype=kind, device=self.device),
            torch.tensor(weights, dtype=torch.float32, device=self.device),
        )
