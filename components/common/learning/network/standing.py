"""What of a training goes into a checkpoint, and comes out again on as many ranks or on others."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kfp_foundry.components.common.learning.network.checkpoint import State
from kfp_foundry.components.common.learning.network.ranks import Ranks
from kfp_foundry.components.common.learning.network.step import Step

if TYPE_CHECKING:
    from kfp_foundry.components.common.learning.network.loop import Progress

MOMENTS = ("exp_avg", "exp_avg_sq")

Standing = tuple[dict[str, torch.Tensor], dict[str, Any]]


def capture(network: nn.Module, best: list[torch.Tensor], step: Step, ranks: Ranks, progress: "Progress", steps: int) -> Standing:
    """Tensors and facts from which `restore` goes on; a collective of all ranks.

    Returns:
        Parameters, kept parameters and moments by name, whole even where ranks hold parts; each rank's state of random numbers;
        the epoch's loss so far.
    """
    tensors = {"done": step.done}
    for (name, parameter), kept in zip(network.named_parameters(), best, strict=True):
        tensors[f"network.{name}"] = whole(parameter)
        tensors[f"best.{name}"] = whole(kept)
        for moment in MOMENTS:
            if parameter in step.optimizer.state:
                tensors[f"{moment}.{name}"] = whole(step.optimizer.state[parameter][moment])
    for rank, state in enumerate(ranks.gather(_random(ranks.device).numpy().tobytes())):
        tensors[f"random.{rank}"] = torch.frombuffer(bytearray(state), dtype=torch.uint8)
    sums = ranks.gather(float(step.sum))
    return tensors, {"progress": asdict(progress), "world": ranks.world, "device": ranks.device.type, "steps": steps, "sums": sums}


def share(state: State | None, ranks: Ranks) -> Standing | None:
    """What rank 0 has read, on every rank: only its machine may have the files."""
    from safetensors.torch import load, save

    if ranks.world == 1:
        return None if state is None else (dict(state.tensors), dict(state.facts))
    facts = ranks.broadcast(None if state is None else dict(state.facts))
    if facts is None:
        return None
    data = ranks.broadcast(b"" if state is None else save(dict(state.tensors)))
    return load(data), facts


def restore(
    tensors: Mapping[str, torch.Tensor], facts: dict[str, Any], network: nn.Module, best: list[torch.Tensor], step: Step, ranks: Ranks, steps: int
) -> "Progress":
    """Puts everything back; returns how far the training was.

    On as many ranks as before everything is as it was. On others the weights and moments are, the epoch goes on at the same share of
    it with a new order of the rows, and the random numbers begin anew.
    """
    from kfp_foundry.components.common.learning.network.loop import Progress

    progress = Progress(**facts["progress"])
    with torch.no_grad():
        for (name, parameter), kept in zip(network.named_parameters(), best, strict=True):
            _put(parameter, tensors[f"network.{name}"])
            _put(kept, tensors[f"best.{name}"])
            if f"{MOMENTS[0]}.{name}" in tensors:
                state = {moment: torch.zeros_like(parameter) for moment in MOMENTS}
                for moment, value in state.items():
                    _put(value, tensors[f"{moment}.{name}"])
                step.optimizer.state[parameter] = {"step": tensors["done"][0].to(parameter.device, torch.float32), **state}
    if facts["world"] == ranks.world and facts["device"] == ranks.device.type:
        step.sum.fill_(facts["sums"][ranks.rank])
        _put_random(tensors[f"random.{ranks.rank}"], ranks.device)
    else:
        share = steps / facts["steps"]
        step.sum.fill_(sum(facts["sums"]) / facts["world"] * share)
        progress.step = min(round(progress.step * share), steps - 1)
    step.done.fill_(progress.epoch * steps + progress.step)
    return progress


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor without the parts of it being spread over ranks; a collective for one of which they are."""
    gathered: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.detach()
    return gathered


def _put(place: torch.Tensor, value: torch.Tensor) -> None:
    if hasattr(place, "full_tensor"):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(place, DTensor)
        place.copy_(distribute_tensor(value.to(place.device), place.device_mesh, place.placements))
    else:
        place.copy_(value)


def _random(device: torch.device) -> torch.Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _put_random(state: torch.Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
