"""Writing files and folders so that a reader sees the whole thing or nothing."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kfp_foundry.components.common.errors import PlatformError


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder that appears under its name only when the block ends well; an older one of that name is replaced.

    Raises:
        PlatformError: The place cannot be written, or is full.
    """
    final = Path(path)
    draft = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        yield draft
        if final.exists():
            shutil.rmtree(final)
        draft.rename(final)
    except OSError as error:
        raise unwritable(final, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """A file that gets its name only when the block ends well; the block writes the path that it is given.

    Raises:
        PlatformError: The place cannot be written, or is full.
    """
    final = Path(path)
    draft = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        draft.replace(final)
    except OSError as error:
        raise unwritable(final, error) from error
    finally:
        with suppress(OSError):  # what went wrong is told above; the draft may not even have a folder
            draft.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Writes a file in one step: a reader sees the old text or the new one.

    Raises:
        PlatformError: The place cannot be written, or is full.
    """
    with new_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON that every reader takes: sorted keys, no NaN."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def unwritable(path: Path, error: OSError) -> PlatformError:
    """The error for a place that cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "free some space or choose another disk" if full else "choose a folder that you may write to"
    return PlatformError(f"cannot be written: {error.strerror}", where=str(path), remedy=remedy)


def sha256(path: Path) -> str:
    """The file's SHA-256, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
