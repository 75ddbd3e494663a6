"""`kfp-foundry demo`: the main pipeline, with its defaults, on real flights."""

import typer

from kfp_foundry.cli.run import screen, tell
from kfp_foundry.run.api import run_pipeline
from kfp_foundry.run.spec import find_pipeline

PIPELINE = "train_and_deploy"


def demo() -> None:
    """Trains, registers, serves and checks a model on 327,346 real flights.

    It runs the compiled pipeline train_and_deploy with its defaults: the same as `kfp-foundry run train_and_deploy`.
    """
    result = run_pipeline(find_pipeline(PIPELINE), screen=screen())
    if result.error:
        typer.echo(f"error: {result.error}", err=True)
    tell(result)
    raise typer.Exit(result.exit_code)
