"""From the module that a user's training returns to a fitted model: run in float64, and as a graph that equals it."""

import copy
import io
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from torch import nn

from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.errors import UserError
from kfp_foundry.components.common.learning.learner import Fitted, Job
from kfp_foundry.components.common.onnx.graph import Graph
from kfp_foundry.components.common.onnx.heads import Link

if TYPE_CHECKING:
    from kfp_foundry.components.common.distributed.ranks.context import Context

OPSET = 20  # the newest that PyTorch writes without another package; what it holds means the same in ours, 21
ROWS_AT_ONCE = 65_536
IMPORTANCE_ROWS = 4096
LINKS: dict[Task, Link] = {Task.BINARY: "sigmoid", Task.MULTICLASS: "softmax", Task.REGRESSION: "identity"}
WHERE = "module"
TAKES = "return a torch.nn.Module that takes encoded rows [rows, columns] and gives scores [rows] or [rows, classes]"


def plain(module: Any, context: "Context") -> nn.Module:
    """The module on the CPU without what spread it over ranks; every rank calls it.

    Raises:
        UserError: It is no module.
    """
    if not isinstance(module, nn.Module):
        raise UserError(f"`train` returned {type(module).__name__}", where=WHERE, remedy=TAKES)
    if isinstance(module, nn.parallel.DistributedDataParallel):
        module = module.module
    if any(hasattr(parameter, "full_tensor") for parameter in module.parameters()):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        weights = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        module = context.copies[id(module)]
        if context.rank == 0:
            module.load_state_dict(weights)
    copied: nn.Module = copy.deepcopy(module).cpu().eval()
    return copied


class _Scores(nn.Module):
    """[rows, columns] to [rows, outputs], whichever of the allowed shapes the module gives."""

    def __init__(self, module: nn.Module, outputs: int) -> None:
        super().__init__()
        self.module = module
        self.outputs = outputs

    def forward(self, matrix: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.module(matrix)
        return scores.reshape(-1, self.outputs)


def fitted(module: nn.Module, job: Job, curve: Mapping[str, list[float]]) -> Fitted:
    """What our own trainers give, of a user's module.

    Args:
        module: See `plain`.
        job: Says the task; its rows are what the importance of columns is measured on.
        curve: What the user reported per epoch.

    Raises:
        UserError: The module does not run in float64, its scores have another shape, or it has no exact graph.
    """
    from safetensors.torch import save

    outputs = job.classes if job.task is Task.MULTICLASS else 1
    weights = {name: tensor.contiguous().clone() for name, tensor in module.state_dict().items()}
    exact = _Scores(module.double(), outputs).eval()

    def scores(matrix: np.ndarray) -> np.ndarray:
        found = [_run(exact, part) for part in np.array_split(matrix, max(1, -(-len(matrix) // ROWS_AT_ONCE)))]
        return np.concatenate(found) if outputs > 1 else np.concatenate(found)[:, 0]

    _check_shape(module, job, outputs)
    graph = _export(exact, job.train.matrix.shape[1])
    return Fitted(
        scores=scores,
        emit=lambda target, matrix: _emit(target, graph, matrix),
        link=LINKS[job.task],
        native={"module.safetensors": save(weights)},
        importance=_importance(exact, job.train.matrix),
        curve=_even(curve),
        loss="as the module reported",
        rounds=max((len(values) for values in curve.values()), default=0),
        notes=(f"Trained by the module {job.params.get('module')}; its code is not part of the model.",),
    )


@torch.no_grad()
def _run(module: nn.Module, matrix: np.ndarray) -> np.ndarray:
    return np.asarray(module(torch.from_numpy(np.ascontiguousarray(matrix))).numpy())


def _check_shape(module: nn.Module, job: Job, outputs: int) -> None:
    probe = torch.from_numpy(job.train.matrix[:3].copy())
    try:
        with torch.no_grad():
            shape = tuple(module(probe).shape)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        said = " ".join(str(error).split())
        remedy = f"{TAKES}, and let no layer choose a float type of its own"
        raise UserError(f"the returned module cannot score {len(probe)} rows in float64: {said}", where=WHERE, remedy=remedy) from error
    rows = len(probe)
    if shape not in ((rows, outputs), *([(rows,)] if outputs == 1 else [])):
        wanted = f"[{rows}, {outputs}]" if outputs > 1 else f"[{rows}] or [{rows}, 1]"
        raise UserError(f"the returned module gives scores of shape {list(shape)} for {rows} rows, not {wanted}", where=WHERE, remedy=TAKES)


def _export(module: nn.Module, columns: int) -> onnx.ModelProto:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is called old
        try:
            torch.onnx.export(
                module,
                (torch.zeros(2, columns, dtype=torch.float64),),
                file,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=OPSET,
                input_names=["matrix"],
                output_names=["scores"],
                dynamic_axes={"matrix": {0: "rows"}, "scores": {0: "rows"}},
            )
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"the returned module has no ONNX form: {reason}", where=WHERE, remedy="use layers that PyTorch exports") from error
    model = onnx.load_from_string(file.getvalue())
    _try_out(model)
    return model


def _try_out(model: onnx.ModelProto) -> None:
    """Refuses a graph that ONNX Runtime cannot compute in float64, while it can still be said which layer it is."""
    from kfp_foundry.components.common.artifacts.model import open_session

    nested = next((node.op_type for node in model.graph.node if any(attribute.HasField("g") for attribute in node.attribute)), "")
    if nested:
        raise UserError(f"the returned module's graph has a branch or loop ({nested})", where=WHERE, remedy="write forward without them")
    try:
        open_session(model.SerializeToString())
    except Exception as error:  # the runtime's errors have no common class of their own
        kind = re.search(r"implementation for (\w+)\(", str(error))
        what = f"ONNX Runtime has no float64 form of {kind[1] if kind else 'a layer'}: {' '.join(str(error).split())}"
        raise UserError(what, where=WHERE, remedy="choose another layer: for GELU, GELU(approximate='tanh') or SiLU") from error


def _emit(graph: Graph, model: onnx.ModelProto, matrix: str) -> str:
    return graph.graft(model, [matrix])[0]


def _importance(module: nn.Module, matrix: np.ndarray) -> np.ndarray:
    """Mean absolute slope of the scores along each column, times the column's spread."""
    rows = torch.from_numpy(matrix[:IMPORTANCE_ROWS].copy()).requires_grad_()
    (slopes,) = torch.autograd.grad(module(rows).sum(), rows)
    return np.asarray(np.nan_to_num(slopes.abs().mean(dim=0).numpy() * matrix[:IMPORTANCE_ROWS].std(axis=0)))


def _even(curve: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Only what was reported every epoch can be drawn in one figure."""
    longest = max((len(values) for values in curve.values()), default=0)
    return {name: values for name, values in curve.items() if len(values) == longest and np.isfinite(values).all()}
