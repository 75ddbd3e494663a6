"""Where a table comes from: its files, brought to this machine."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from kfp_foundry.components.common import samples
from kfp_foundry.components.common.errors import DataError, PlatformError, UserError, close_names
from kfp_foundry.components.common.masking import mask_address
from kfp_foundry.components.common.patience import Passing, Translated, patient, reached

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".jsonl", ".ndjson", ".json", ".arrow", ".feather", ".ipc")
PACKED = (".gz", ".zst", ".bz2", ".zip")
DATABASES = ("sqlite", "postgresql", "postgres")
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
CHUNK = 1 << 20
TIMEOUT = (10, 60)  # seconds to connect, and between two pieces of the answer


@dataclass(frozen=True)
class Piece:
    """One file of the source on this machine.

    Args:
        path: The file.
        name: What it is called in messages: without passwords and signatures.
    """

    path: Path
    name: str


def scheme(source: str) -> str:
    """The scheme of a source; `file` for a plain path."""
    found = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+)://", source)
    return found[1].lower() if found else "file"


def is_database(source: str) -> bool:
    """Whether a source is a database's address."""
    return scheme(source).partition("+")[0] in DATABASES


def fetch(source: str, scratch: Path) -> list[Piece]:
    """Finds the files of a source, and copies those that are elsewhere into a scratch folder.

    Args:
        source: Path, folder, glob, or an address: `file://`, `http(s)://`, `s3://`, `gs://`, `sample://`, or another that fsspec knows.
        scratch: Folder for copies.

    Returns:
        The files, in order of their names.

    Raises:
        DataError: Nothing is there.
        PlatformError: The place cannot be reached, refuses, or its package is not installed.
        UserError: Unknown kind of address.
    """
    if not source.strip():
        raise UserError("source is empty", where="ingest_table", remedy="give a path or an address")
    kind = scheme(source)
    if kind == "file":
        return _local(source)
    if kind == "sample":
        return [Piece(samples.fetch(source.partition("://")[2], scratch), source)]
    if kind in ("http", "https"):
        name = Path(unquote(urlsplit(source).path)).name or "download"
        return [Piece(reached(lambda: _download(source, scratch / name), source), mask_address(source))]
    return _remote(source, kind, scratch)


def _local(source: str) -> list[Piece]:
    text = unquote(urlsplit(source).path) if source.startswith("file://") else source
    path = Path(text).expanduser()
    if path.is_file():
        return [Piece(path, path.name)]
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file() and _is_data(file.relative_to(path))]
        return [Piece(file, str(file.relative_to(path.parent))) for file in _some(files, source, "no data file in this folder")]
    if any(mark in text for mark in "*?["):
        anchor = Path(path.anchor) if path.anchor else Path()
        files = [file for file in sorted(anchor.glob(str(path.relative_to(path.anchor)))) if file.is_file()]
        return [Piece(file, file.name) for file in _some(files, source, "no file matches")]
    near = [other.name for other in path.parent.iterdir() if other.is_file()] if path.parent.is_dir() else []
    remedy = close_names(path.name, near) if near else "check the path"
    raise DataError("there is no such file", where=str(path), remedy=remedy if remedy.startswith("did") else "check the path")


def _some(files: list[Any], source: str, problem: str) -> list[Any]:
    if not files:
        raise DataError(problem, where=mask_address(source), remedy="check the path; files end in .csv, .parquet, .jsonl or .arrow, packed or not")
    return files


def _is_data(path: Path) -> bool:
    if any(part.startswith((".", "_")) for part in path.parts):
        return False
    plain = path.with_suffix("") if path.suffix.lower() in PACKED else path
    return plain.suffix.lower() in SUFFIXES


@patient
def _download(source: str, target: Path) -> Path:
    import requests

    try:
        with requests.get(source, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code in (408, 425, 429) or answer.status_code >= 500:
                raise Passing(f"HTTP {answer.status_code} {answer.reason}")
            if answer.status_code >= 400:
                remedy = "check the address" if answer.status_code in (404, 410) else "check that you may read it"
                raise DataError(f"HTTP {answer.status_code} {answer.reason}", where=mask_address(source), remedy=remedy)
            with target.open("wb") as file:
                for part in answer.iter_content(CHUNK):
                    file.write(part)
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
        raise UserError("not a valid address", where=mask_address(source), remedy="check it") from error
    except requests.RequestException as error:
        raise Passing(f"{type(error).__name__} from {urlsplit(source).hostname}") from error
    return target


def _remote(source: str, kind: str, scratch: Path) -> list[Piece]:
    import fsspec

    if kind not in fsspec.available_protocols():
        raise UserError(
            f"unknown kind of address {kind!r}",
            where=mask_address(source),
            remedy=close_names(kind, ["file", "https", "s3", "gs", "sqlite", "postgresql"]),
        )
    try:
        system, root = fsspec.url_to_fs(source)
    except ImportError as error:
        extra = f"'kfp-foundry[{EXTRAS[kind]}]'" if kind in EXTRAS else f"the fsspec package for {kind}"
        raise PlatformError(f"{kind}:// needs a package that is not installed", where=mask_address(source), remedy=f"pip install {extra}") from error
    files = reached(lambda: _listed(system, root, source), source)
    pieces = []
    for number, file in enumerate(files):
        folder = scratch / f"{number:05d}"
        folder.mkdir()
        target = folder / Path(file).name
        reached(lambda file=file, target=target: _copied(system, file, target, source), source)  # type: ignore[misc]
        pieces.append(Piece(target, f"{kind}://{file}"))
    return pieces


@patient
def _listed(system: Any, root: str, source: str) -> list[str]:
    with Translated(source):
        if any(mark in root for mark in "*?["):
            return _some(sorted(file for file in system.glob(root) if system.isfile(file)), source, "no file matches")
        if system.isfile(root):
            return [root]
        found = sorted(str(file) for file in system.find(root))
        inside = [file for file in found if _is_data(Path(file.removeprefix(root).lstrip("/")))]
        if not found:
            raise DataError("there is no such file or folder", where=mask_address(source), remedy="check the address")
        return _some(inside, source, "no data file in this folder")


@patient
def _copied(system: Any, file: str, target: Path, source: str) -> None:
    with Translated(source), target.open("wb") as local, system.open(file, "rb") as remote:
        shutil.copyfileobj(remote, local, CHUNK)
