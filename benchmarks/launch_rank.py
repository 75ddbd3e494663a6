"""One rank of launch_overhead.py: joins, trains a small network for 20 steps, leaves.

python -m launch_rank ours|torch
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from kfp_foundry.components.common.learning.network.ranks import Ranks

STEPS = 20


def work(wrapped: nn.Module) -> None:
    optimizer = torch.optim.AdamW(wrapped.parameters())
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        wrapped(torch.randn(64, 64)).pow(2).mean().backward()
        optimizer.step()


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 1))


def ours() -> None:
    with Ranks.joined("cpu") as ranks:
        work(ranks.wrap(network(), "ddp"))


def as_most_scripts_do() -> None:
    """The group is destroyed while the wrapped module and its optimizer are still there."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    wrapped = nn.parallel.DistributedDataParallel(network(), gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(wrapped.parameters())
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        loss = wrapped(torch.randn(64, 64)).pow(2).mean()
        loss.backward()
        optimizer.step()
    dist.destroy_process_group()


if __name__ == "__main__":
    {"ours": ours, "torch": as_most_scripts_do}[sys.argv[1]]()
    if os.environ["RANK"] == "0":
        (Path(os.environ["KFP_FOUNDRY_RANKS_FOLDER"]) / "done").touch()
