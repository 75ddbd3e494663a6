"""The network: embedded categories and encoded numbers, residual blocks, one linear layer on top.

References: Gorishniy, Rubachev, Khrulkov, Babenko, Revisiting Deep Learning Models for Tabular Data (NeurIPS 2021,
https://arxiv.org/abs/2106.11959), section 3.2, "ResNet"; the numbers as in `numbers.py`.

Other than there, rows are normalised each by itself (LayerNorm without own weights, which the next linear layer has anyway), not by
batch: ranks need not agree on statistics, and a row's prediction depends on nothing but the row.
"""

import numpy as np
import torch
from torch import nn

from kfp_foundry.components.common.learning.network.settings import Settings
from kfp_foundry.components.common.learning.network.table import Layout

EPSILON = 1e-5  # of the normalisation, as in LayerNorm


class Network(nn.Module):
    """Scores [rows, outputs] of encoded rows.

    Args:
        layout: What the columns are.
        settings: Width, depth and dropout.
        outputs: 1 for a binary task or a regression, else the number of classes.
    """

    def __init__(self, layout: Layout, settings: Settings, outputs: int) -> None:
        super().__init__()
        numbers, self.widths = layout.numbers, layout.widths
        size = settings.embedding_size or embedding_size(max(layout.widths, default=0))
        self.embedding = nn.Parameter(torch.randn(sum(layout.widths), size) * size**-0.5) if layout.widths else None
        inner = max(1, round(settings.width * settings.expansion))
        self.first = nn.Linear(max(1, len(layout.widths) * size + numbers.width), settings.width)
        self.blocks = nn.ModuleList(Block(settings.width, inner, settings.dropout) for _ in range(settings.blocks))
        self.last = nn.Linear(settings.width, outputs)
        nn.init.zeros_(self.last.weight)  # the first predictions are the bias: no class is favoured by chance
        nn.init.zeros_(self.last.bias)
        self.input_dropout = settings.input_dropout
        column = np.repeat(np.arange(len(numbers.edges)), numbers.intervals)
        start = np.concatenate([np.arange(count, dtype=np.float64) for count in numbers.intervals] or [np.zeros(0)])
        for name, values, kind in (
            ("column", column, torch.int64),
            ("start", start, torch.float32),
            ("fill", numbers.filled(), torch.float32),
            ("flags", numbers.flags, torch.int64),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=kind), persistent=False)

    column: torch.Tensor
    start: torch.Tensor
    fill: torch.Tensor
    flags: torch.Tensor

    def forward(self, codes: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Scores [rows, outputs].

        Args:
            codes: Rows of the embedding table [rows, categories].
            numbers: Positions [rows, numbers], NaN where missing.
        """
        hidden = self.first(nn.functional.dropout(self.inputs(codes, numbers), self.input_dropout, self.training))
        for block in self.blocks:
            hidden = block(hidden)
        scores: torch.Tensor = self.last(torch.relu(normalised(hidden)))
        return scores

    def inputs(self, codes: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """What the first layer sees [rows, inputs]: the categories' vectors, the shares of the intervals, the gaps."""
        parts = []
        if self.embedding is not None:
            parts.append(nn.functional.embedding(codes, self.vectors()).flatten(1))
        if len(self.column):
            filled = torch.where(numbers.isnan(), self.fill, numbers)
            parts.append((filled.index_select(1, self.column) - self.start).clamp(0.0, 1.0))
        if len(self.flags):
            parts.append(numbers.index_select(1, self.flags).isnan().to(numbers.dtype))
        if not parts:
            return numbers.new_zeros((max(len(codes), len(numbers)), 1))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def vectors(self) -> torch.Tensor:
        """The embedding table; beside training with the rows for unknown texts, each the mean of its column's vectors."""
        assert self.embedding is not None
        if self.training:  # every text of a training row is known
            return self.embedding
        means = [vectors.mean(0, keepdim=True) for vectors in torch.split(self.embedding, list(self.widths))]
        return torch.cat([self.embedding, *means])


class Block(nn.Module):
    """What a residual block adds to its input [rows, width].

    Args:
        width: Numbers in and out.
        inner: Numbers in between.
        dropout: Share of them that a step leaves out.
    """

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.enter = nn.Linear(width, inner)
        self.leave = nn.Linear(inner, width)
        self.dropout = dropout

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """The input and what the block adds."""
        inner = nn.functional.dropout(torch.relu(self.enter(normalised(hidden))), self.dropout, self.training)
        result: torch.Tensor = hidden + self.leave(inner)
        return result


def normalised(hidden: torch.Tensor) -> torch.Tensor:
    """Each row with mean 0 and variance 1."""
    return nn.functional.layer_norm(hidden, hidden.shape[-1:], eps=EPSILON)


def embedding_size(width: int) -> int:
    """Numbers per category for the largest vocabulary: `1.6 width^0.56`, from 1 to 64, as fastai's rule has it.

    Example:
        >>> embedding_size(10), embedding_size(4000)
        (6, 64)
    """
    size: float = 1.6 * float(width) ** 0.56
    return max(1, min(64, round(size)))
