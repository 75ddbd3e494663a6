"""What this machine has, what it lacks, and what to do about it."""

import importlib.metadata
import importlib.util
import os
import platform as python_platform
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

from kfp_foundry.components.common import images, platform
from kfp_foundry.components.common.masking import mask

DISTRIBUTION = "kfp-foundry"
NEEDED_EXTRAS = ("cli", "kfp")  # without these the tool itself cannot work
LOOKED_AT = ("cli", "kfp", "serve", "demo", "tune", "torch", "kserve", "s3", "gcs", "sql", "duckdb", "gcp", "drift")
SMALL_DISK = 2  # GiB
TIMEOUT = 5  # seconds


class State(StrEnum):
    """How a finding is to be taken."""

    OK = "ok"
    ABSENT = "absent"  # optional, and not there
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `remedy` is empty when there is nothing to do."""

    name: str
    state: State
    found: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Looks at everything, one after the other.

    Example:
        >>> [finding.remedy for finding in examine() if finding.state is State.PROBLEM]
        []
    """
    looks: list[Callable[[], Iterator[Finding]]] = [python, kfp, packages, extras, home, disk, memory, tracking, loopback, programs, leftovers]
    for look in looks:
        yield from look()


def python() -> Iterator[Finding]:
    """The interpreter."""
    found = f"{python_platform.python_version()} ({sys.executable})"
    try:
        wanted = importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"]
    except importlib.metadata.PackageNotFoundError:
        yield Finding("kfp-foundry", State.PROBLEM, "not installed, only its source is there", "pip install -e '.[dev]' in the checkout")
        return
    yield Finding("kfp-foundry", State.OK, images.VERSION)
    fits = Requirement(f"python{wanted}").specifier.contains(python_platform.python_version())
    yield Finding("Python", State.OK if fits else State.PROBLEM, found, "" if fits else f"install a Python {wanted} and make a new environment")


def kfp() -> Iterator[Finding]:
    """The one package whose exact version matters."""
    wanted = next((requirement for requirement, extra in _requirements() if extra == "kfp" and requirement.name == "kfp"), None)
    there = _version("kfp")
    if wanted is None:
        return
    remedy = f"pip install '{wanted.name}{wanted.specifier}'"
    if there is None:
        yield Finding("kfp", State.PROBLEM, "not installed", remedy)
    elif not wanted.specifier.contains(there):
        yield Finding(
            "kfp", State.PROBLEM, f"{there}, and exactly {wanted.specifier} is needed (others take wrong branches, or do not resolve)", remedy
        )
    else:
        yield Finding("kfp", State.OK, there)


def packages() -> Iterator[Finding]:
    """The packages that every step needs, against their declared ranges."""
    needed = [requirement for requirement, extra in _requirements() if extra in ("", *NEEDED_EXTRAS) and requirement.name != "kfp"]
    wrong = [finding for requirement in needed if (finding := _compare(requirement, State.PROBLEM))]
    yield from wrong
    if not wrong:
        yield Finding("packages", State.OK, f"all {len(needed)} are there, in the declared ranges")


def extras() -> Iterator[Finding]:
    """The optional parts."""
    for extra in [extra for extra in LOOKED_AT if extra not in NEEDED_EXTRAS]:
        parts = [requirement for requirement, of in _requirements() if of == extra]
        wrong = [finding for requirement in parts if (finding := _compare(requirement, State.ABSENT))]
        if not parts:
            continue
        if wrong:
            lacking = ", ".join(f"{finding.name} ({finding.found})" for finding in wrong)
            yield Finding(f"extra {extra}", State.ABSENT, lacking, f"pip install '{DISTRIBUTION}[{extra}]', if you need it")
        else:
            there = ", ".join(f"{requirement.name} {_version(requirement.name)}" for requirement in parts)
            yield Finding(f"extra {extra}", State.OK, there)


def home() -> Iterator[Finding]:
    """The folder of local state, and the one for temporary files."""
    for name, folder, variable in [("home", platform.home(), "KFP_FOUNDRY_HOME"), ("temporary files", Path(tempfile.gettempdir()), "TMPDIR")]:
        place = _existing(folder)
        if not place.is_dir():
            yield Finding(name, State.PROBLEM, f"{place} is a file", f"set {variable} to a folder")
            continue
        try:
            with tempfile.NamedTemporaryFile(dir=place):
                yield Finding(name, State.OK, str(folder))
        except OSError as error:
            yield Finding(name, State.PROBLEM, f"{folder} cannot be written: {error.strerror}", f"set {variable} to a folder that you may write to")


def disk() -> Iterator[Finding]:
    """Free space where runs are kept."""
    free = shutil.disk_usage(_existing(platform.home())).free / 2**30
    short = free < SMALL_DISK
    remedy = f"free some space, or set KFP_FOUNDRY_HOME to a disk with {SMALL_DISK} GiB or more" if short else ""
    yield Finding("free disk", State.PROBLEM if short else State.OK, f"{free:.1f} GiB", remedy)


def memory() -> Iterator[Finding]:
    """Cores and memory; nothing can be wrong with them, but speed follows from them."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Finding("machine", State.OK, f"{os.cpu_count()} cores, {total:.0f} GiB memory, {python_platform.system()} {python_platform.machine()}")


def tracking() -> Iterator[Finding]:
    """The MLflow server, or the embedded store."""
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not address:
        yield Finding("tracking", State.OK, f"embedded MLflow, {platform.home() / 'mlflow.db'}")
    elif not address.startswith(("http://", "https://")):
        yield Finding("tracking", State.OK, f"MLflow at {mask(address)} (MLFLOW_TRACKING_URI)")
    else:
        yield _server(address)


def _server(address: str) -> Finding:
    import requests

    shown = mask(address)
    remedy = "start the server, correct MLFLOW_TRACKING_URI, or unset it to use the embedded store"
    try:
        answer = requests.get(f"{address.rstrip('/')}/health", timeout=TIMEOUT)
    except requests.RequestException as error:
        return Finding("tracking", State.PROBLEM, f"MLflow at {shown} does not answer: {type(error).__name__}", remedy)
    if answer.status_code in (401, 403):
        return Finding(
            "tracking",
            State.PROBLEM,
            f"MLflow at {shown} refuses: HTTP {answer.status_code}",
            "set MLFLOW_TRACKING_TOKEN, or _USERNAME and _PASSWORD",
        )
    if not answer.ok:
        return Finding("tracking", State.PROBLEM, f"MLflow at {shown} answers HTTP {answer.status_code}", remedy)
    return Finding("tracking", State.OK, f"MLflow at {shown} answers")


def loopback() -> Iterator[Finding]:
    """Whether a local server can listen and be reached, past any proxy."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), timeout=TIMEOUT):
            yield Finding("loopback", State.OK, "a port of 127.0.0.1 can be opened and reached")
    except OSError as error:
        yield Finding("loopback", State.PROBLEM, f"no port of 127.0.0.1: {error.strerror or error}", "allow this user to listen on 127.0.0.1")
    proxied = [name for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY") if os.environ.get(name)]
    spared = f"{os.environ.get('no_proxy', '')},{os.environ.get('NO_PROXY', '')}"
    if proxied and "127.0.0.1" not in spared:
        yield Finding(
            "proxy",
            State.PROBLEM,
            f"{proxied[0]} is set and 127.0.0.1 is not exempt: local endpoints go through it",
            "export NO_PROXY=127.0.0.1,localhost",
        )


def programs() -> Iterator[Finding]:
    """Programs beside Python."""
    git = shutil.which("git")
    yield Finding(
        "git", State.OK if git else State.ABSENT, git or "not found", "" if git else "install git: a model's record names the commit it was made from"
    )
    yield Finding("not needed", State.OK, "Docker, Kubernetes, a browser, a database server")


def leftovers() -> Iterator[Finding]:
    """Environment variables that change what pipelines compile to."""
    for variable in ("KFP_FOUNDRY_REGISTRY", "KFP_FOUNDRY_IMAGE"):
        if os.environ.get(variable):
            yield Finding(variable, State.OK, f"{os.environ[variable]}: compiled pipelines take their images from there")
    if os.environ.get("_KFP_RUNTIME") == "true":
        yield Finding("_KFP_RUNTIME", State.PROBLEM, "true outside of a step: kfp hides its decorators, nothing compiles", "unset _KFP_RUNTIME")


def _requirements() -> Iterator[tuple[Requirement, str]]:
    """The declared requirements that apply here, each with its extra, or ""."""
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return
    here = {key: str(value) for key, value in default_environment().items()}
    for line in lines:
        requirement = Requirement(line)
        match = re.search(r"""extra\s*==\s*['"]([\w-]+)['"]""", line)
        extra = match[1] if match else ""
        if requirement.name != DISTRIBUTION and (requirement.marker is None or requirement.marker.evaluate({**here, "extra": extra})):
            yield requirement, extra


def _compare(requirement: Requirement, bad: State) -> Finding | None:
    there = _version(requirement.name)
    if there is None:
        return Finding(requirement.name, bad, "not installed", f"pip install '{requirement.name}{requirement.specifier}'")
    if not requirement.specifier.contains(there, prereleases=True):
        return Finding(
            requirement.name, bad, f"{there}, and {requirement.specifier} is needed", f"pip install '{requirement.name}{requirement.specifier}'"
        )
    return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above that exists."""
    return next(place for place in [folder, *folder.parents] if place.exists())
