"""A trained network in float64: as PyTorch computes it, as an ONNX graph that equals it, and as files.

Trained is in float32 or bfloat16; served is the same weights in float64, where the graph and PyTorch agree to the last digits. What
float32 would have said of a row differs by about 1e-7 from that.
"""

import json
from collections.abc import Mapping

import numpy as np
import torch

from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.learning.learner import Fitted
from kfp_foundry.components.common.learning.network.job import NetworkJob
from kfp_foundry.components.common.learning.network.model import EPSILON, Network
from kfp_foundry.components.common.learning.network.step import loss_of
from kfp_foundry.components.common.learning.network.table import Batch
from kfp_foundry.components.common.onnx.graph import DOUBLE, INT64, Graph
from kfp_foundry.components.common.onnx.heads import Link

LINKS: dict[Task, Link] = {Task.BINARY: "sigmoid", Task.MULTICLASS: "softmax", Task.REGRESSION: "identity"}
SCORED = 16_384  # rows at once
JUDGED = 100_000  # rows times columns that the importance is measured on, about
FEWEST, MOST = 256, 8_192  # rows, whatever the number of columns

Weights = Mapping[str, torch.Tensor]


def fitted(job: NetworkJob, weights: Weights, importance: list[float], curve: Mapping[str, list[float]], loss: str, rounds: int) -> Fitted:
    """What every learner gives back.

    Args:
        job: The training.
        weights: Parameters of the network by name, float32, on the CPU.
        importance: Of each column of the matrix; empty for a rank that did not measure it.
        curve: Losses after each epoch.
        loss: What they are.
        rounds: Epochs kept.
    """
    network = Network(job.layout, job.settings, job.outputs).requires_grad_(False)
    network.load_state_dict(dict(weights))
    network = network.double().eval()
    columns = len(job.layout.widths) + len(job.layout.numbers.edges)
    return Fitted(
        scores=lambda matrix: _scores(job, network, matrix),
        emit=lambda graph, matrix: _emit(job, network, graph, matrix),
        link=LINKS[job.task],
        native=_native(job, weights),
        importance=np.array(importance) if importance else np.zeros(columns),
        curve=curve,
        loss=loss,
        rounds=rounds,
    )


@torch.no_grad()
def importance(job: NetworkJob, weights: Weights) -> list[float]:
    """How much the mean loss rises when a column's values change rows, per column of the matrix; 0 where it does not.

    Reference: Breiman, Random Forests (Machine Learning 45, 2001), section 10; on evenly spread rows, each column moved by the same
    number of rows instead of shuffled, so that nothing here is random.
    """
    network = Network(job.layout, job.settings, job.outputs)
    network.load_state_dict(dict(weights))
    network.eval()
    table = job.validation if len(job.validation) else job.train
    columns = table.cells.shape[1] - 2
    wanted = min(len(table), max(FEWEST, min(MOST, JUDGED // max(1, columns))))
    cells = torch.from_numpy(table.cells[np.linspace(0, len(table) - 1, wanted).astype(np.int64)])
    order = torch.randperm(wanted, generator=torch.Generator().manual_seed(job.seed))
    cells = cells[order]  # rows stand in order of time or group: a neighbour's value is often one's own

    def mean(changed: torch.Tensor) -> float:
        batch = Batch.of(changed, table)
        return float(loss_of(job.task)(network(batch.codes, batch.numbers), batch).double().mean())

    base = mean(cells)
    rises = []
    for column in range(columns):
        changed = cells.clone()
        changed[:, column] = cells[:, column].roll(1)
        rises.append(max(0.0, mean(changed) - base))
    return rises


@torch.no_grad()
def _scores(job: NetworkJob, network: Network, matrix: np.ndarray) -> np.ndarray:
    parts = [np.empty((0, job.outputs))]
    for start in range(0, len(matrix), SCORED):
        rows = matrix[start : start + SCORED]
        codes, numbers = torch.from_numpy(job.layout.codes(rows)), torch.from_numpy(job.layout.positions(rows))
        parts.append(network(codes, numbers).numpy())
    scores = np.concatenate(parts) * job.unit + job.centre
    return scores[:, 0] if job.outputs == 1 else scores


def _emit(job: NetworkJob, network: Network, graph: Graph, matrix: str) -> str:
    hidden = _linear(graph, network.first, _emit_inputs(job, network, graph, matrix))
    for block in network.blocks:
        inner = graph.op("Relu", _linear(graph, block.enter, _emit_normalised(graph, hidden)))  # type: ignore[arg-type]
        hidden = graph.op("Add", hidden, _linear(graph, block.leave, inner))  # type: ignore[arg-type]
    scores = graph.value(_linear(graph, network.last, graph.op("Relu", _emit_normalised(graph, hidden))))
    return (scores * job.unit + job.centre).name if job.task is Task.REGRESSION else scores.name


def _emit_inputs(job: NetworkJob, network: Network, graph: Graph, matrix: str) -> str:
    parts = [_emit_vectors(job, network, graph, matrix)] if job.layout.widths else []
    numbers, first = job.layout.numbers, len(job.layout.widths)
    if numbers.width:
        values = graph.op("Gather", matrix, graph.integers(range(first, first + len(numbers.edges))), axis=1)
        missing = graph.op("IsNaN", values)
        if sum(numbers.intervals):
            parts.append(_emit_shares(job, graph, graph.op("Where", missing, graph.doubles([numbers.fills]), values)))
        if numbers.flags:
            parts.append(graph.op("Cast", graph.op("Gather", missing, graph.integers(numbers.flags), axis=1), to=DOUBLE))
    if not parts:  # no column makes a difference: the one input is 0
        gaps = graph.op("Cast", graph.op("IsNaN", graph.op("Gather", matrix, graph.integers([0]), axis=1)), to=DOUBLE)
        return graph.op("Mul", gaps, graph.doubles(0.0))
    return graph.beside(parts)


def _emit_vectors(job: NetworkJob, network: Network, graph: Graph, matrix: str) -> str:
    codes = graph.op("Gather", matrix, graph.integers(range(len(job.layout.widths))), axis=1)
    unknown, offsets = graph.doubles([job.layout.unknown]), graph.doubles([job.layout.offsets])
    rows = graph.op("Where", graph.op("IsNaN", codes), unknown, graph.op("Add", codes, offsets))
    table = network.vectors().numpy()
    vectors = graph.op("Gather", graph.doubles(table), graph.op("Cast", rows, to=INT64), axis=0)
    return graph.op("Reshape", vectors, graph.integers([-1, len(job.layout.widths) * table.shape[1]]))


def _emit_shares(job: NetworkJob, graph: Graph, filled: str) -> str:
    """The share of each interval that a value fills."""
    numbers, columns, low, span = job.layout.numbers, [], [], []
    for column, (edges, unit) in enumerate(zip(numbers.edges, numbers.units(), strict=True)):
        scaled = np.array(edges) / unit
        columns += [column] * max(len(edges) - 1, 0)
        low += scaled[:-1].tolist()
        span += np.diff(scaled).tolist()
    values = graph.op("Div", filled, graph.doubles([numbers.units()]))
    distance = graph.op("Sub", graph.op("Gather", values, graph.integers(columns), axis=1), graph.doubles([low]))
    return graph.op("Clip", graph.op("Div", distance, graph.doubles([span])), graph.doubles(0.0), graph.doubles(1.0))


def _emit_normalised(graph: Graph, hidden: str) -> str:
    axes = graph.integers([1])
    centred = graph.op("Sub", hidden, graph.op("ReduceMean", hidden, axes, keepdims=1))
    variance = graph.op("ReduceMean", graph.op("Mul", centred, centred), axes, keepdims=1)
    return graph.op("Div", centred, graph.op("Sqrt", graph.op("Add", variance, graph.doubles(EPSILON))))


def _linear(graph: Graph, layer: torch.nn.Linear, values: str) -> str:
    return graph.op("Add", graph.op("MatMul", values, graph.doubles(layer.weight.T.numpy())), graph.doubles([layer.bias.numpy()]))


def _native(job: NetworkJob, weights: Weights) -> dict[str, bytes]:
    """The weights as safetensors, and as JSON what it takes to build the network that they belong to."""
    from safetensors.torch import save

    around = {
        "settings": job.settings.identity(),
        "widths": list(job.layout.widths),
        "numbers": job.layout.numbers.model_dump(mode="json"),
        "outputs": job.outputs,
        "centre": job.centre,
        "unit": job.unit,
    }
    tensors = {name: weights[name].contiguous() for name in sorted(weights)}
    return {"model.safetensors": save(tensors), "network.json": (json.dumps(around, indent=1) + "\n").encode()}
