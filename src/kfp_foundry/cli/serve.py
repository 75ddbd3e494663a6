"""`kfp-foundry serve`: a model server in the foreground."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from kfp_foundry.components.common import ports
from kfp_foundry.server.main import Options
from kfp_foundry.server.main import serve as run_server


def serve(
    model: Annotated[Path, typer.Argument(help="The folder of a Model artifact.")],
    name: Annotated[str, typer.Option(help="Name in the addresses; the contract's name by default.")] = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = ports.LOOPBACK,
    port: Annotated[int, typer.Option(help="Port; 0 takes any free one.")] = Options.port,
    threshold: Annotated[float | None, typer.Option(help="Probability from which the positive class is predicted; 0.5 by default.")] = None,
    threads: Annotated[int, typer.Option(help="Threads per prediction.")] = Options.threads,
    payload_log: Annotated[Path | None, typer.Option(help="Write every prediction to Parquet files in this folder.")] = None,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log a line per prediction request.")] = False,
) -> None:
    """Serves a model over HTTP (KServe V1 and V2) until Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    run_server(
        Options(model=model, name=name, host=host, port=port, threshold=threshold, threads=threads, payload_log=payload_log, access_log=access_log)
    )
