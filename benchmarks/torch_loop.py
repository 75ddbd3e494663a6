"""How fast the training loop is: rows per second and step times beside a loop tuned by hand and beside a plain DataLoader.

    python benchmarks/torch_loop.py [--rows 1000000 100000000] [--batch 65536] [--steps 200] [--rounds 3]

The table is made up: 30 columns of numbers and 10 of categories (5 to 5,000 codes), float32 and int32, one binary target. The network
is `residual_mlp` of the defaults' shape for all three:

- ours: `network.loop` as `train_distributed` runs it, early stopping's and the checkpoints' bookkeeping included;
- by hand: the same network in the shortest loop that we can write for one device: table resident, one permutation, one gather, bfloat16,
  fused AdamW, on a GPU one CUDA graph per step; no epochs, no losses read, no limits on gradients other than the same clipping;
- DataLoader: `TensorDataset`, `DataLoader(shuffle=True, num_workers=4, pin_memory=True)`, the same network, the loss read every step, as
  tutorials have it. Where it is too slow to wait for, fewer steps are timed.

Rates are the median of the rounds, each over `--steps` steps after a warm-up, the device synchronised at both ends; step times are
measured apart, with one synchronisation per step (which costs the loops that need none). Without a GPU the same runs on the CPU with
few rows, so that it is known to work; such numbers say nothing of a GPU. Writes benchmarks/results/torch_loop_<cuda|cpu>.json.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.learning.network import loop
from kfp_foundry.components.common.learning.network.job import NetworkJob
from kfp_foundry.components.common.learning.network.model import Network
from kfp_foundry.components.common.learning.network.numbers import Numbers
from kfp_foundry.components.common.learning.network.ranks import Ranks
from kfp_foundry.components.common.learning.network.settings import Settings
from kfp_foundry.components.common.learning.network.step import loss_of, make_optimizer
from kfp_foundry.components.common.learning.network.table import Batch, Layout, Table

RESULTS = Path(__file__).parent / "results"
NUMBERS, BINS = 30, 32
WIDTHS = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
MADE = 1_000_000  # rows made at once
WARM_UP = 20  # steps
SLOW = 20  # steps of the DataLoader where a table is large

Steps = Callable[[int], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cuda = torch.cuda.is_available()
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 100_000_000] if cuda else [100_000])
    parser.add_argument("--batch", type=int, default=65_536 if cuda else 2_048)
    parser.add_argument("--steps", type=int, default=200 if cuda else 20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device = torch.device("cuda", 0) if cuda else torch.device("cpu")
    torch.set_float32_matmul_precision("high")
    result: dict[str, Any] = {"machine": machine(device), "batch": options.batch, "steps": options.steps, "tables": {}}
    for rows in options.rows:
        job = made_up(rows, options.batch)
        peers = {"ours": ours, "by hand": by_hand, "DataLoader": data_loader}
        found = {name: timed(make(job, device), name, job, device, options.steps, options.rounds) for name, make in peers.items()}
        for name, numbers in found.items():
            numbers["share_of_hand_tuned"] = round(numbers["rows_per_second"] / found["by hand"]["rows_per_second"], 3)
            print(f"{rows:,} rows, {name}: {json.dumps(numbers)}", flush=True)
        result["tables"][str(rows)] = found
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"torch_loop_{device.type}.json").write_text(json.dumps(result, indent=2) + "\n")


def made_up(rows: int, batch: int) -> NetworkJob:
    """A table of uniform positions and codes whose target follows from some of them."""
    numbers = Numbers(edges=[[float(edge) for edge in range(BINS + 1)]] * NUMBERS, fills=[0.0] * NUMBERS, flags=[])
    layout = Layout(WIDTHS, numbers)
    table = Table.empty(rows, layout, is_class=True)
    offsets = layout.offsets
    for start in range(0, rows, MADE):
        stop = min(rows, start + MADE)
        rng = np.random.default_rng(start)
        cells = table.cells[start:stop]
        cells[:, : len(WIDTHS)] = rng.integers(0, WIDTHS, (stop - start, len(WIDTHS))) + offsets
        positions = rng.random((stop - start, NUMBERS), dtype=np.float32) * BINS
        cells[:, len(WIDTHS) : -2] = positions.view(np.int32)
        cells[:, -2] = positions[:, :4].sum(axis=1) + cells[:, 0] * 5 > 2 * BINS + 10
        cells[:, -1] = np.ones(stop - start, np.float32).view(np.int32)
    settings = Settings(epochs=1_000, batch_size=batch)
    return NetworkJob(Task.BINARY, 2, layout, table, Table.empty(0, layout, is_class=True), settings, stops_early=False)


def ours(job: NetworkJob, device: torch.device) -> Steps:
    running = loop._Loop(job, Ranks(0, 1, 0, device), None)

    def run(steps: int) -> None:
        progress = running.progress
        for _ in range(steps):
            if progress.step % running.steps == 0:
                if progress.step:
                    running.refuse_nonsense(running.losses())
                    running.step.sum.zero_()
                    progress.epoch += 1
                progress.step = 0
                running.module.train()
                running.batches.shuffle(progress.epoch)
            running.train_on(progress.step)
            progress.step += 1

    return run


def by_hand(job: NetworkJob, device: torch.device) -> Steps:
    torch.manual_seed(7)
    cuda = device.type == "cuda"
    cells, batch = torch.from_numpy(job.train.cells).to(device), min(job.settings.batch_size, len(job.train))
    network = Network(job.layout, job.settings, 1).to(device)
    optimizer = make_optimizer(network, job.settings.weight_decay, device, graph=cuda)
    optimizer.param_groups[0]["lr"].fill_(1e-3)
    parameters, loss_function = list(network.parameters()), loss_of(Task.BINARY)
    order = torch.randperm(len(cells), device=device)
    index = torch.zeros(batch, dtype=torch.int64, device=device)

    def step() -> None:
        rows = Batch.of(cells.index_select(0, index), job.train)
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda, cache_enabled=False):
            scores = network(rows.codes, rows.numbers)
        loss_function(scores, rows).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    go = recorded(step) if cuda else step
    full = len(cells) // batch

    def run(steps: int) -> None:
        for number in range(steps):
            place = number % full * batch
            index.copy_(order[place : place + batch])
            go()

    return run


def recorded(step: Callable[[], None]) -> Callable[[], None]:
    """The step as a CUDA graph; the steps of the warm-up are real ones."""
    cuda: Any = torch.cuda
    aside = cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def data_loader(job: NetworkJob, device: torch.device) -> Steps:
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(7)
    cells = torch.from_numpy(job.train.cells)
    whole = Batch.of(cells, job.train)
    dataset = TensorDataset(whole.codes, whole.numbers, whole.target, whole.weights)
    workers, cuda = min(4, os.cpu_count() or 1), device.type == "cuda"
    loader = DataLoader(dataset, min(job.settings.batch_size, len(cells)), shuffle=True, drop_last=True, num_workers=workers, pin_memory=cuda)
    network = Network(job.layout, job.settings, 1).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    loss_function, batches = loss_of(Task.BINARY), forever(loader)

    def run(steps: int) -> None:
        for _ in range(steps):
            rows = Batch(*(part.to(device, non_blocking=True) for part in next(batches)))
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
                scores = network(rows.codes, rows.numbers)
            loss = loss_function(scores, rows).mean()
            loss.backward()
            optimizer.step()
            loss.item()

    return run


def forever(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def timed(run: Steps, name: str, job: NetworkJob, device: torch.device, steps: int, rounds: int) -> dict[str, float]:
    """Rows per second, step times and peak memory of a loop."""
    slow = name == "DataLoader" and len(job.train) * job.settings.batch_size > 1e11
    steps, warm_up = (SLOW, 3) if slow else (steps, WARM_UP)
    run(warm_up)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    rates = []
    for _ in range(rounds):
        started = now(device)
        run(steps)
        rates.append(steps * min(job.settings.batch_size, len(job.train)) / (now(device) - started))
    single = []
    for _ in range(steps):
        started = now(device)
        run(1)
        single.append((now(device) - started) * 1e3)
    single.sort()
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    return {
        "rows_per_second": round(statistics.median(rates)),
        "slowest_round": round(min(rates)),
        "step_ms_p50": round(single[len(single) // 2], 4),
        "step_ms_p95": round(single[int(len(single) * 0.95)], 4),
        "peak_memory_gib": round(memory, 2),
    }


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def machine(device: torch.device) -> dict[str, Any]:
    told: dict[str, Any] = {"device": "CPU", "cpus": os.cpu_count(), "torch": torch.__version__, "python": platform.python_version()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        told |= {"device": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1), "cuda": torch.version.cuda}
    return told | {"load": os.getloadavg()}


if __name__ == "__main__":
    main()
