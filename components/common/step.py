"""What surrounds every step's work: logging, and one clear last line when it fails."""

import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

from kfp_foundry.components.common.errors import FoundryError

P = ParamSpec("P")
R = TypeVar("R")


def step(work: Callable[P, R]) -> Callable[P, R]:
    """Marks a function that a component calls.

    Inside a KFP task a failure ends the process with one line `error: ...` as the last line of the log (the traceback of an
    unexpected one stands above it). Everywhere else, as in a test, exceptions pass through untouched.

    Example:
        >>> @step
        ... def run(dataset, method): ...
    """

    @functools.wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if os.environ.get("_KFP_RUNTIME") != "true":
            return work(*args, **kwargs)
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
        try:
            return work(*args, **kwargs)
        except FoundryError as error:
            _end(f"error: {error}", error.exit_code)
        except Exception as error:
            traceback.print_exc()
            name = work.__module__.removeprefix("kfp_foundry.components.").removesuffix(".core")
            _end(f"error: {name}: unexpected {type(error).__name__}: {error}; the traceback is above, please report it", 1)

    return run


def _end(line: str, code: int) -> NoReturn:
    sys.stdout.flush()
    print(" ".join(line.split()), file=sys.stderr, flush=True)
    raise SystemExit(code)
