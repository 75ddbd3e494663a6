"""What makes two executions of a step the same: fingerprints of code, files and inputs."""

import hashlib
import importlib.util
import json
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from glob import glob, has_magic
from itertools import islice
from pathlib import Path
from typing import Any

from kfp_foundry.run.values import Artifact, Values

PACKAGES = ("kfp_foundry", "kfp_foundry.components", "kfp_foundry.pipelines", "kfp_foundry.server")
SOURCES = {".css", ".html", ".j2", ".js", ".py"}
MOST_FILES = 10_000  # of a folder that a parameter names


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, as hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def code() -> str:
    """Digest of what steps are made of besides their wrapper: Python, this package's files, the versions of installed packages.

    A user's own package is seen by its version only; `kfp-foundry run --fresh` takes nothing from earlier runs.
    """
    whole = hashlib.sha256(sys.version.encode())
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in sorted(spec.submodule_search_locations or []) if spec else []:
            for file in sorted(file for file in Path(folder).rglob("*") if file.suffix in SOURCES):
                whole.update(str(file.relative_to(folder)).encode())
                whole.update(hashlib.sha256(file.read_bytes()).digest())
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    installed = {found.name for folder in folders for found in Path(folder).glob("*.dist-info")}
    whole.update(json.dumps(sorted(installed)).encode())
    return whole.hexdigest()


def files_of(path: Path) -> Iterator[Path]:
    """The file, or all files below the folder, in order."""
    if path.is_file():
        yield path
    else:
        yield from (file for file in sorted(path.rglob("*")) if file.is_file())


def content(path: Path) -> str:
    """SHA-256 over the names and bytes of a file or folder; empty when there is nothing."""
    if not path.exists():
        return ""
    whole = hashlib.sha256()
    for file in files_of(path):
        with file.open("rb") as opened:
            whole.update(f"{file.relative_to(path)}\0".encode() + hashlib.file_digest(opened, "sha256").digest())
    return whole.hexdigest()


def stamp(path: Path) -> str:
    """Names, sizes and times of a file or folder, as a digest: whether it was touched, without reading it; empty when there is nothing."""
    return _stamp(path, files_of(path)) if path.exists() else ""


def _stamp(path: Path, files: Iterable[Path]) -> str:
    stats = [(str(file.relative_to(path)), file.stat()) for file in files]
    return digest([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def local_files(value: Any) -> dict[str, str]:
    """The local files, folders and globs that a parameter's texts name, with their stamps.

    The current folder and those above it do not count (`/` is more often a delimiter than a source), nor does what is hidden in
    a folder, such as `.git` and `.kfp-foundry`.
    """
    if isinstance(value, list):
        return {name: found for item in value for name, found in local_files(item).items()}
    if not isinstance(value, str) or not value or "\n" in value or "\0" in value or len(value) > 1000:
        return {}
    here = Path.cwd()
    path = Path(value.removeprefix("file://")).resolve()
    try:
        if has_magic(value):
            matches = [Path(file) for file in sorted(glob(value))[:MOST_FILES]]  # noqa: PTH207
            return {value: digest([(str(file), stamp(file)) for file in matches if file.is_file()])}
        if path.exists() and path not in (here, *here.parents):
            seen = (file for file in files_of(path) if not any(part.startswith(".") for part in file.relative_to(path).parts))
            return {value: _stamp(path, islice(seen, MOST_FILES))}
    except OSError:  # a text too long for a name, or a folder that may not be read: not a path that a step could use
        return {}
    return {}


def of_artifact(artifact: Artifact) -> list[Any]:
    """What an input artifact is for a step: its content and its metadata, wherever it lies.

    A `fingerprint` in the metadata, as every Dataset has it, stands for the content.
    """
    known = artifact.metadata.get("fingerprint")
    if not known:
        known = content(artifact.path) if artifact.path else artifact.uri
    return [known, artifact.type, artifact.metadata]


def of_step(code: str, executor: dict[str, Any], component: dict[str, Any], inputs: Values, extra: Iterable[Any] = ()) -> str:
    """The key under which a step's outputs are kept: equal keys mean that running it again would give the same.

    Args:
        code: What `code()` gave.
        executor: The step's part of the deployment spec: image, command with the wrapper's source, arguments, environment.
        component: Its declared inputs and outputs.
        inputs: Its inputs.
        extra: Whatever else counts, such as a cache key that the pipeline sets.
    """
    return digest(
        [
            code,
            executor,
            component.get("outputDefinitions", {}),
            inputs.parameters,
            [local_files(value) for _, value in sorted(inputs.parameters.items())],
            {name: [of_artifact(artifact) for artifact in many] for name, many in inputs.artifacts.items()},
            list(extra),
        ]
    )
