"""Small pipelines, compiled in the test and run as the command runs them."""

from pathlib import Path

import pytest

from kfp_foundry.run import run_pipeline


@pytest.fixture
def compiled(tmp_path: Path):
    """Compiles a pipeline function to a file in the test's folder."""
    from kfp import compiler

    def compile_pipeline(pipeline) -> Path:
        path = tmp_path / f"{pipeline.name}.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        return path

    return compile_pipeline


@pytest.fixture
def execute(compiled, tmp_path: Path):
    """Runs a pipeline function with arguments, in a home of the test's own."""

    def run(pipeline, home: Path = tmp_path / "home", fresh: bool = False, **arguments):
        return run_pipeline(compiled(pipeline), arguments, home, fresh=fresh)

    return run
