"""Folders and files behind an address: an object store, a mounted volume or this machine's disk, read and written alike.

| address | what it is |
|---|---|
| `s3://bucket/key` | S3 or what speaks like it, at `AWS_ENDPOINT_URL` when that is set |
| `minio://bucket/key` | the same, at the store of the pipelines: `AWS_ENDPOINT_URL`, else `http://minio-service.kubeflow:9000` |
| `gs://bucket/key` | Google Cloud Storage |
| `pvc://claim/path` | a volume claim that is mounted at `<root>/claim`; the root is `KFP_FOUNDRY_PVC_ROOT`, else `/mnt/pvc` |
| a path, `file:///path` | this machine |

Keys come from the environment only (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, for `minio://` also
`PIPELINE_STORE_ACCESS_KEY_ID` and `PIPELINE_STORE_SECRET_ACCESS_KEY`, or what the store's own client finds, such as a service
account). An address may carry a query as the pipeline roots of KFP do (`s3://bucket/key?endpoint=store:9000&region=eu`).

What fails for a moment is tried again a few times; what stays is an error in words. A folder is published in one order:
its old mark is taken away, files are written, and the mark (`.complete.json`, sizes and digests of all files) comes last. So a
reader that asks for the mark gets a whole folder or none.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from kfp_foundry.components.common.errors import DataError, IntegrityError, PlatformError, UserError, close_names
from kfp_foundry.components.common.files import new_file, new_folder, sha256, unwritable
from kfp_foundry.components.common.masking import mask_address
from kfp_foundry.components.common.patience import Translated, patient, reached
from kfp_foundry.components.common.wiring import STORE_KEYS

if TYPE_CHECKING:
    import polars as pl

SCHEMES = ("s3", "minio", "gs", "pvc", "file")
EXTRAS = {"s3": "s3", "minio": "s3", "gs": "gcs"}
PIPELINE_STORE = "http://minio-service.kubeflow:9000"
PVC_ROOT = "/mnt/pvc"
MARK = ".complete.json"
RECORD = "dataset.json"  # written last by whoever writes a Dataset
TOGETHER = 8  # files on their way at once

R = TypeVar("R")


@dataclass(frozen=True)
class Address:
    """An address in its parts.

    Args:
        scheme: One of `SCHEMES`.
        path: The local path, or `bucket/key`.
        endpoint: Of an object store; empty for the store's default.
        region: Of an object store; empty for the default.
    """

    scheme: str
    path: str
    endpoint: str = ""
    region: str = ""

    @property
    def is_local(self) -> bool:
        """Whether it is a path on this machine, mounted volumes included."""
        return self.scheme in ("file", "pvc")

    @property
    def is_shared(self) -> bool:
        """Whether a process on another machine finds the same thing under the same address."""
        return self.scheme != "file"


def address_of(uri: str) -> Address:
    """Reads an address.

    Raises:
        UserError: It is empty, or of an unknown kind.

    Example:
        >>> address_of("minio://mlpipeline/v2/model").path
        'mlpipeline/v2/model'
    """
    if not uri.strip():
        raise UserError("the address is empty", where="store", remedy="give a path or an address such as s3://bucket/folder")
    parts = urlsplit(uri)
    if "://" not in uri:
        return Address("file", str(Path(uri).expanduser()))
    if parts.scheme == "file":
        return Address("file", unquote(parts.path))
    if parts.scheme == "pvc":
        root = Path(os.environ.get("KFP_FOUNDRY_PVC_ROOT", PVC_ROOT))
        return Address("pvc", str(root / parts.netloc / parts.path.strip("/")))
    if parts.scheme not in SCHEMES:
        remedy = close_names(parts.scheme, list(SCHEMES))
        raise UserError(f"unknown kind of address {parts.scheme + '://'!r}", where=mask_address(uri), remedy=remedy)
    if not parts.netloc:
        raise UserError("the address names no bucket", where=mask_address(uri), remedy=f"write {parts.scheme}://bucket/folder")
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    plain = query.get("disableSSL", "").lower() == "true"
    default = os.environ.get("AWS_ENDPOINT_URL") or (PIPELINE_STORE if parts.scheme == "minio" else "")
    endpoint = query.get("endpoint", default)
    if endpoint and "://" not in endpoint:
        endpoint = f"{'http' if plain else 'https'}://{endpoint}"
    region = query.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION", "")
    return Address(parts.scheme, f"{parts.netloc}/{parts.path.strip('/')}".strip("/"), endpoint, region)


def join(uri: str, *names: str) -> str:
    """The address of something inside a folder; a query of the address stays at its end.

    Example:
        >>> join("s3://b/runs?region=eu", "1", "model")
        's3://b/runs/1/model?region=eu'
    """
    base, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    return "/".join([base.rstrip("/"), *names]) + mark + query


def parent(uri: str) -> str:
    """The address of the folder that something lies in.

    Example:
        >>> parent("s3://b/runs/1/model?region=eu")
        's3://b/runs/1?region=eu'
    """
    base, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    return base.rstrip("/").rpartition("/")[0] + mark + query


def is_shared(uri: str) -> bool:
    """Whether a process on another machine finds the same thing under this address: an object store, or a volume claim.

    Raises:
        UserError: No such kind of address.
    """
    return address_of(uri).is_shared


def exists(uri: str) -> bool:
    """Whether there is a file, or a folder with anything in it.

    Raises:
        PlatformError: The store does not answer or refuses.
        UserError: No such kind of address.
    """
    with _opened(uri) as (system, path):
        return bool(_try(uri, lambda: system.exists(path)))


def names(uri: str) -> list[str]:
    """The names of the files and folders directly in a folder, sorted; none when there is no such folder.

    Raises:
        PlatformError: The store does not answer or refuses.
    """
    with _opened(uri) as (system, path):

        def listed() -> list[str]:
            try:
                found = system.ls(path, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
            return sorted({Path(str(entry).rstrip("/")).name for entry in found if str(entry).strip("/") != path.strip("/")})

        return _try(uri, listed)


def remove(uri: str) -> None:
    """Removes a file or a folder with all that is in it; its mark first, so that nobody takes the rest for whole.

    Raises:
        PlatformError: The store does not answer or refuses.
    """
    with _opened(uri) as (system, path):

        def removed() -> None:
            for first in (f"{path}/{MARK}", path):
                if system.exists(first):
                    system.rm(first, recursive=True)

        _try(uri, removed, "removed")


def fetch(uri: str, target: str | Path, *, whole: bool = False) -> Path:
    """Copies a file or a folder to this machine; it appears under its name only when all of it is there.

    Args:
        uri: What to copy.
        target: Where to; an older one of that name is replaced.
        whole: Only a folder that `send` finished; every file is held against its digest.

    Returns:
        `target`.

    Raises:
        DataError: Nothing is there.
        IntegrityError: The folder is not whole.
        PlatformError: The store does not answer or refuses, or this disk is full.
    """
    final = Path(target)
    with _opened(uri) as (system, path):
        if not whole and _try(uri, lambda: system.isfile(path)):
            with new_file(final) as draft:
                _try(uri, lambda: _down(system, path, draft))
            return final
        files = _files(system, path, uri)
        if whole and MARK not in files:
            raise IntegrityError(f"no {MARK}: it was never finished", where=mask_address(uri), remedy="run the step that wrote it again")
        with new_folder(final) as draft:
            _all(lambda name: _try(uri, lambda: _down(system, f"{path}/{name}", draft / name)), files)
            if whole:
                _check(draft, uri)
            (draft / MARK).unlink(missing_ok=True)
    return final


def send(source: str | Path, uri: str) -> None:
    """Publishes a file, or a folder whose mark is written last; what an older folder there had besides is removed.

    Args:
        source: On this machine.
        uri: Where to.

    Raises:
        DataError: There is no such file or folder here.
        PlatformError: The store does not answer, refuses or is full.
    """
    origin = Path(source)
    if not origin.exists():
        raise DataError("there is no such file or folder", where=str(origin), remedy="check the path")
    with _opened(uri) as (system, path):
        if origin.is_file():
            _try(uri, lambda: _up(system, origin, path), "written")
            return
        files = sorted(str(file.relative_to(origin)) for file in origin.rglob("*") if file.is_file() and file.name != MARK)
        older = _try(uri, lambda: _listed(system, path))
        if MARK in older:
            _try(uri, lambda: system.rm(f"{path}/{MARK}"), "written")
        _all(lambda name: _try(uri, lambda: _up(system, origin / name, f"{path}/{name}"), "written"), files)
        for name in set(older) - set(files) - {MARK}:
            _try(uri, lambda name=name: system.rm(f"{path}/{name}"), "written")  # type: ignore[misc]
        mark = {name: {"bytes": (origin / name).stat().st_size, "sha256": sha256(origin / name)} for name in files}
        _write(uri, system, f"{path}/{MARK}", (json.dumps(mark, indent=1, sort_keys=True) + "\n").encode())


def is_complete(uri: str) -> bool:
    """Whether a folder was published by `send` to its end."""
    return exists(join(uri, MARK))


def read(uri: str) -> bytes:
    """The content of a small file.

    Raises:
        DataError: There is no such file.
        PlatformError: The store does not answer or refuses.
    """
    with _opened(uri) as (system, path):
        return bytes(_try(uri, lambda: system.cat_file(path)))


def write(uri: str, content: bytes) -> None:
    """Writes a small file in one step.

    Raises:
        PlatformError: The store does not answer, refuses or is full.
    """
    with _opened(uri) as (system, path):
        _write(uri, system, path, content)


def scan(uri: str) -> "pl.LazyFrame":
    """The rows of a Dataset folder, lazily: only the columns and row groups that a query needs cross the network.

    Raises:
        IntegrityError: The folder is not a whole Dataset.
        PlatformError: The store does not answer or refuses.

    Example:
        >>> scan("minio://mlpipeline/runs/1/train").slice(rank * share, share).collect()
    """
    import polars as pl

    files = [name for name in _dataset_files(uri) if name.endswith(".parquet")]
    address = address_of(uri)
    if address.is_local:
        return pl.scan_parquet([Path(address.path) / name for name in files])
    kind = "gs" if address.scheme == "gs" else "s3"
    places = [f"{kind}://{address.path}/{name}" for name in files]
    return pl.scan_parquet(places, storage_options=_polars_options(address), **_polars_keys(address))


def facts(uri: str) -> dict[str, Any]:
    """What a Dataset folder says of itself (`rows`, `columns`, `fingerprint`, ...), without reading its rows.

    Raises:
        IntegrityError: The folder is not a whole Dataset.
    """
    try:
        found = json.loads(read(join(uri, RECORD)))
    except (DataError, ValueError) as error:
        raise IntegrityError(f"no readable {RECORD}", where=f"dataset {mask_address(uri)}", remedy="run the step that wrote it again") from error
    return dict(found)


def _dataset_files(uri: str) -> list[str]:
    facts(uri)
    with _opened(uri) as (system, path):
        files = _files(system, path, uri)
    if not any(name.endswith(".parquet") for name in files):
        raise IntegrityError("no Parquet part", where=f"dataset {mask_address(uri)}", remedy="run the step that wrote it again")
    return files


def _polars_options(address: Address) -> dict[str, str]:
    if address.scheme == "gs":
        return {}
    options = {"aws_region": address.region or "us-east-1"}
    if address.endpoint:
        options |= {"aws_endpoint_url": address.endpoint, "aws_allow_http": "true"}
    return options | {f"aws_{name}": value for name, value in _keys(address).items()}


def _polars_keys(address: Address) -> dict[str, Any]:
    """With keys in the environment Polars asks nobody else for them."""
    return {"credential_provider": None} if address.scheme != "gs" and _keys(address) else {}


def _keys(address: Address) -> dict[str, str]:
    """Keys of an S3 store from the environment; those of the pipelines' own store serve for `minio://` when there are no others."""
    own = {"access_key_id": "AWS_ACCESS_KEY_ID", "secret_access_key": "AWS_SECRET_ACCESS_KEY", "session_token": "AWS_SESSION_TOKEN"}
    pipelines = {"access_key_id": STORE_KEYS["accesskey"], "secret_access_key": STORE_KEYS["secretkey"]}
    chosen = pipelines if address.scheme == "minio" and not os.environ.get("AWS_ACCESS_KEY_ID") else own
    return {name: os.environ[variable] for name, variable in chosen.items() if os.environ.get(variable)}


@contextmanager
def _opened(uri: str) -> Iterator[tuple[Any, str]]:
    """The file system of an address and the path in it."""
    import fsspec

    address = address_of(uri)
    if address.scheme == "pvc":
        _require_mount(address, uri)
    try:
        if address.is_local:
            yield fsspec.filesystem("file", auto_mkdir=True), address.path
        elif address.scheme == "gs":
            yield fsspec.filesystem("gs", use_listings_cache=False), address.path
        else:
            client = {"region_name": address.region} if address.region else {}
            found = _keys(address)
            keys = {"key": found.get("access_key_id"), "secret": found.get("secret_access_key"), "token": found.get("session_token")}
            yield (
                fsspec.filesystem("s3", endpoint_url=address.endpoint or None, client_kwargs=client, use_listings_cache=False, **keys),
                address.path,
            )
    except ImportError as error:
        raise PlatformError(
            f"{address.scheme}:// needs a package that is not installed",
            where=mask_address(uri),
            remedy=f"pip install 'kfp-foundry[{EXTRAS.get(address.scheme, 's3')}]'",
        ) from error


def _require_mount(address: Address, uri: str) -> None:
    claim = urlsplit(uri).netloc
    root = Path(os.environ.get("KFP_FOUNDRY_PVC_ROOT", PVC_ROOT))
    if not (root / claim).is_dir():
        remedy = f"mount the claim there (mount_pvc(task, {claim!r}, {str(root / claim)!r})), or set KFP_FOUNDRY_PVC_ROOT"
        raise PlatformError(f"the claim {claim!r} is not mounted at {root / claim}", where=uri, remedy=remedy)


def _try(uri: str, work: Callable[[], R], doing: str = "read") -> R:
    """Runs one operation on a store, again when the network failed, and says in words what stays wrong."""
    if address_of(uri).is_local:
        try:
            return work()
        except FileNotFoundError as error:
            raise DataError("there is no such file or folder", where=uri, remedy="check the path") from error
        except OSError as error:
            raise unwritable(Path(address_of(uri).path), error) from error

    @patient
    def run() -> R:
        with Translated(uri):
            return work()
        raise AssertionError("unreachable")  # a context manager may swallow an error; this one never does

    return reached(run, uri, doing)


def _all(work: Callable[[str], None], files: list[str]) -> None:
    with ThreadPoolExecutor(max_workers=TOGETHER) as pool:
        for _ in pool.map(work, files):
            pass


def _listed(system: Any, path: str) -> list[str]:
    """Every file under a folder, relative to it."""
    root = str(path).rstrip("/")
    return sorted(str(file).removeprefix(root).lstrip("/") for file in system.find(root))


def _files(system: Any, path: str, uri: str) -> list[str]:
    found: list[str] = _try(uri, lambda: _listed(system, path))
    if not found:
        raise DataError(
            "there is no such file or folder", where=mask_address(uri), remedy="check the address, and that the step that writes it ended well"
        )
    return found


def _down(system: Any, path: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    system.get_file(path, str(target))


def _up(system: Any, origin: Path, path: str) -> None:
    """Whole or not at all: an object store shows an object when its upload ends; on a disk the file gets its name last."""
    if not _is_disk(system):
        system.put_file(str(origin), path)
        return
    with new_file(Path(path)) as draft:
        shutil.copyfile(origin, draft)


def _write(uri: str, system: Any, path: str, content: bytes) -> None:
    def written() -> None:
        if not _is_disk(system):
            system.pipe_file(path, content)
            return
        with new_file(Path(path)) as draft:
            draft.write_bytes(content)

    _try(uri, written, "written")


def _is_disk(system: Any) -> bool:
    return "file" in (system.protocol if isinstance(system.protocol, tuple) else (system.protocol,))


def _check(folder: Path, uri: str) -> None:
    """Holds every file against the mark."""
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        wrong = [name for name, said in mark.items() if not (folder / name).is_file() or sha256(folder / name) != said["sha256"]]
    except (ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"{MARK} cannot be read", where=mask_address(uri), remedy="run the step that wrote it again") from error
    if wrong:
        shown = ", ".join(sorted(wrong)[:5])
        raise IntegrityError(f"not what was written: {shown}", where=mask_address(uri), remedy="run the step that wrote it again")
