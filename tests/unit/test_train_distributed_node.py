"""A node of a training on a cluster: its exit code says whether another attempt could end better."""

import os
import socket
import subprocess
import sys

import pytest
from rank_training import SUPPORT, request, write_tables

from kfp_foundry.components.common.distributed.ranks import failure, node
from kfp_foundry.components.common.errors import DataError, PlatformError, UserError


@pytest.fixture
def run(flights, flights_contract, tmp_path):
    """Runs a node as its container does, with two ranks and the restarts of a cluster; gives its exit code and what it wrote."""
    write_tables(tmp_path, flights, flights_contract, rows=600)

    def start(module, **args):
        asked = request(tmp_path, module, args)
        told = {
            "PET_NNODES": "1", "PET_NPROC_PER_NODE": "2", "PET_NODE_RANK": "0", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(free_port()),
            "PET_MAX_RESTARTS": "3", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SUPPORT), "GLOO_SOCKET_IFNAME": "lo",
        }  # fmt: skip
        command = [sys.executable, "-m", "kfp_foundry.components.common.distributed.ranks.node", *asked.argv()]
        return subprocess.run(command, env={**os.environ, **told}, capture_output=True, text=True, timeout=120)

    return start


def test_a_mistake_ends_the_node_at_the_first_attempt_with_64(run):
    ended = run("no_such_module_of_mine")
    assert ended.returncode == 64, ended.stderr[-2000:]
    said = ended.stderr.count("error: module: there is no Python module 'no_such_module_of_mine'")
    assert 1 <= said <= 2  # by each rank once: nothing was started anew


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("errors", "ends"),
    [
        ([UserError("x", where="y", remedy="z")], True),
        ([DataError("x", where="y", remedy="z")], True),
        ([KeyError("column")], True),
        ([PlatformError("the store is away", where="y", remedy="z")], False),
        ([RuntimeError("CUDA error: an illegal memory access")], False),
        ([ConnectionResetError("peer")], False),
        ([RuntimeError("[gloo] Connection closed by peer")], False),
        ([RuntimeError("[gloo] Connection closed by peer"), ValueError("bad column")], True),
        ([], False),
    ],
    ids=lambda value: ", ".join(repr(error)[:40] for error in value) if isinstance(value, list) else None,
)
def test_only_what_would_be_raised_again_is_final(tmp_path, errors, ends):
    for rank, error in enumerate(errors):
        failure.save(failure.Failure.of(error, rank), tmp_path)
    assert (node.final(tmp_path) is not None) == ends
