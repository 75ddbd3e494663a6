"""One rank: `torchrun -m kfp_foundry.components.common.distributed.ranks.worker --train ... --output ...`.

Every rank reads its share of the rows, all of them learn together, and rank 0 finishes: calibration, graph, parity gate, Model
folder, metrics and page. Losses go to stdout as lines `name=value`, which Katib's collector and a person read alike.
"""

import faulthandler
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from kfp_foundry.components.common.distributed.local import forkserver
from kfp_foundry.components.common.distributed.ranks import failure
from kfp_foundry.components.common.distributed.request import DONE, FOLDER_VARIABLE, NODE_VARIABLE, Request
from kfp_foundry.components.common.errors import FoundryError

if TYPE_CHECKING:
    from kfp_foundry.components.common.learning.network.ranks import Ranks

log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Trains as one of the ranks that the environment names; returns the exit code."""
    folder = Path(os.environ[FOLDER_VARIABLE]) if FOLDER_VARIABLE in os.environ else None
    rank = int(os.environ.get("RANK", "0"))
    _surround(rank, folder)
    try:
        _work(Request.parse(argv), folder)
    except FoundryError as error:
        failure.save(failure.Failure.of(error, rank), folder)
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except Exception as error:
        failed = failure.Failure.of(error, rank)
        failure.save(failed, folder)
        traceback.print_exc()
        print(f"error: {failed.error(None)}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _surround(rank: int, folder: Path | None) -> None:
    """Logging, the end that comes with the parent's, and the stack that SIGTERM has a rank write, wherever it hangs."""
    forkserver.die_with_parent()
    if os.environ.get(NODE_VARIABLE, str(os.getppid())) != str(os.getppid()):  # it ended before the kernel was asked to tell
        os._exit(1)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr, force=True)
    if rank:
        logging.getLogger().setLevel(logging.WARNING)
    target: IO[str] = sys.stderr
    if folder is not None:
        target = (folder / f"rank-{rank}.stack").open("w", encoding="utf-8")
    faulthandler.enable(sys.stderr)
    faulthandler.register(signal.SIGTERM, file=target, all_threads=True, chain=True)


def _work(request: Request, folder: Path | None) -> None:
    from kfp_foundry.components.common.learning.network.ranks import Ranks

    with Ranks.joined(request.device) as ranks:
        _train(request, ranks)
        if ranks.first and folder is not None:
            (folder / DONE).touch()


def _train(request: Request, ranks: "Ranks") -> None:
    if request.module:
        from kfp_foundry.components.common.distributed.ranks.module import train
    else:
        from kfp_foundry.components.common.distributed.ranks.network import train
    train(request, ranks)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # what a library would still do at the end of the interpreter can hang, and the work is done
