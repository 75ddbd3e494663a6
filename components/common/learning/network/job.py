"""All that decides the training of a network on encoded rows."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.learning.network.settings import Settings
from kfp_foundry.components.common.learning.network.table import Layout, Table


@dataclass(frozen=True)
class Epoch:
    """What can be known when an epoch ends.

    Args:
        number: Epochs done, from 1.
        losses: Mean loss over all ranks by the name of the rows: `train`, and `validation` where there are such rows.
        values: Gives the predictions for this rank's validation rows by the weights of this moment: probabilities or values [rows], or
            probabilities [rows, classes].
    """

    number: int
    losses: Mapping[str, float]
    values: Callable[[], np.ndarray]


# Called after each epoch on rank 0; a true answer ends the training with what is best so far.
Report = Callable[[Epoch], bool | None]


@dataclass(frozen=True)
class NetworkJob:
    """What `train` is given on each rank.

    Args:
        task: What is predicted.
        classes: How many classes; 0 for a regression.
        layout: What the columns are; the same on every rank.
        train: This rank's rows; as many as on every other rank. Their weights have mean 1 over all ranks.
        validation: This rank's rows; as many as on every other rank. May be empty.
        centre: Mean of a regression's target over all training rows, else 0.
        unit: Its standard deviation, else 1.
        settings: The parameters.
        stops_early: Whether the validation loss decides when to stop and which epoch is kept.
        seed: Of every random choice.
        threads: CPUs to use on a machine without a GPU; 0 for what the process has set.
        strategy: How several ranks share the parameters, see `Ranks.wrap`.
        data: What else tells this training from another: such as the tables' fingerprints.
    """

    task: Task
    classes: int
    layout: Layout
    train: Table
    validation: Table
    settings: Settings
    centre: float = 0.0
    unit: float = 1.0
    stops_early: bool = True
    seed: int = 7
    threads: int = 0
    strategy: str = "auto"
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def outputs(self) -> int:
        """Scores per row."""
        return self.classes if self.task is Task.MULTICLASS else 1

    def identity(self) -> str:
        """Digest of what decides the trained network, but for how many ranks there are and how fast they run."""
        decides = {
            "settings": self.settings.identity(),
            "task": str(self.task),
            "classes": self.classes,
            "widths": self.layout.widths,
            "numbers": self.layout.numbers.model_dump(mode="json"),
            "target": [self.centre, self.unit],
            "stops_early": self.stops_early,
            "seed": self.seed,
            "data": self.data,
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
