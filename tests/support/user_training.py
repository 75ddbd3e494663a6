"""A user's training with the faults that a test writes to the file `context.args["faults"]`: {"rank": 1, "epoch": 2, "fault": "raise"}.

A fault happens once. It is in a file, since other arguments would make it another training.
"""

import json
import os
import signal
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits


def train(context):
    if "shape" in context.args:
        return {"dict": {}, "wide": nn.Linear(len(context.columns), 3), "erf": nn.Sequential(nn.Linear(len(context.columns), 1), nn.GELU())}[
            context.args["shape"]
        ]
    rows = context.train_rows
    net = context.wrap(nn.Sequential(nn.Linear(len(context.columns), 8), nn.SiLU(), nn.Linear(8, 1)))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    first = context.resume(net, optimizer).get("epoch", 0)
    print(f"starts at epoch {first}", flush=True)
    for epoch in range(first, context.args.get("epochs", 3)):
        fault(context, epoch)
        generator = torch.Generator().manual_seed(context.seed + epoch)
        for batch in torch.randperm(len(rows), generator=generator).split(512):
            loss = binary_cross_entropy_with_logits(net(rows.features[batch])[:, 0], rows.target[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        context.report("train_loss", float(context.mean(loss)))
        context.save(net, optimizer, epoch=epoch + 1)
    fault(context, -1)
    return net


def fault(context, epoch: int) -> None:
    file = Path(context.args.get("faults", ""))
    if not file.is_file():
        return
    asked = json.loads(file.read_text())
    if (asked.get("rank", 0), asked["epoch"]) == (context.rank, epoch):
        file.unlink()
        faults[asked["fault"]]()


def stay() -> None:
    while True:
        time.sleep(0.05)


def ignore() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stay()


def break_down() -> None:
    raise ValueError("the learning rate has no name")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


faults = {"hang": stay, "raise": break_down, "die": die, "ignore": ignore}
