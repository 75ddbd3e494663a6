"""Runs a compiled pipeline on this machine: `from kfp_foundry.run import run_pipeline`."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kfp_foundry.run.api import RunResult as RunResult
    from kfp_foundry.run.api import run_pipeline as run_pipeline

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"api": ["RunResult", "run_pipeline"]})
