"""Tracking and registry: MLflow by environment, or an embedded one on a laptop.

`MLFLOW_TRACKING_URI` names the server. Without it a laptop gets SQLite under the home of local state, and a cluster gets an
object that says what is absent and what to set. MLflow is imported only when there is something to ask: its import alone
takes about a second and a half.
"""

import fcntl
import gc
import importlib
import logging
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

from kfp_foundry.components.common import platform
from kfp_foundry.components.common.errors import IntegrityError, PlatformError, UserError, close_names
from kfp_foundry.components.common.files import new_folder, unwritable
from kfp_foundry.components.common.masking import mask

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

T = TypeVar("T")

CHAMPION = "champion"
EXPERIMENT = "kfp-foundry"
MODEL_FOLDER = "model"  # inside a run's artifacts
DIGEST_TAG = "model_digest"
THRESHOLD_TAG = "threshold"
SQLITE_TIMEOUT = 30  # seconds that one process waits for another's transaction
ATTEMPTS = 5
FIRST_WAIT = 0.5  # seconds; doubled with each attempt
RETRY_SECONDS = 60.0
TRANSIENT = {429, 500, 502, 503, 504}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChampionInfo:
    """A registered model version whose files are on this machine."""

    name: str
    version: str
    digest: str
    path: Path
    threshold: float | None = None


@dataclass(frozen=True)
class Tracking:
    """Where runs and registered models are kept.

    Args:
        uri: MLflow's tracking URI; empty when there is none.
        why: How it was chosen, or why there is none and what to set; fit for a log or a report.
        experiment: Name of the experiment that new runs go to.
        run_id: A run that somebody else started for this step; nothing here starts or ends a run beside it.
    """

    uri: str
    why: str
    experiment: str = EXPERIMENT
    run_id: str = ""

    @property
    def available(self) -> bool:
        """Whether there is an MLflow to talk to."""
        return bool(self.uri)

    @property
    def shown(self) -> str:
        """The URI without user and password."""
        return mask(self.uri)

    @property
    def database(self) -> Path | None:
        """The SQLite file, when the store is one."""
        if not self.uri.startswith("sqlite:///"):
            return None
        return Path(unquote(self.uri.removeprefix("sqlite:///").split("?")[0])).absolute()

    @property
    def how_to_open(self) -> str:
        """What a person types or opens to look at the runs."""
        if self.database is not None:
            return f"mlflow ui --backend-store-uri {shlex.quote(f'sqlite:///{self.database}')}"
        return self.shown or self.why

    @property
    def empty(self) -> bool:
        """Whether nothing can have been registered: no MLflow, or a SQLite file that nobody has made yet."""
        return not self.available or (self.database is not None and not self.database.exists())

    @cached_property
    def client(self) -> "MlflowClient":
        """MLflow's client; the first use of an embedded store makes its tables, one process at a time.

        Raises:
            PlatformError: There is no MLflow, or its store cannot be opened.
        """
        if not self.available:
            raise PlatformError("there is no MLflow", where="tracking", remedy=self.why)

        file = self.database
        if file is None:
            return self.call("connect", lambda: _connect(self.uri))
        with lock(file.with_name(f".{file.name}.lock")):
            if not file.exists():
                self.call("make the store", lambda: _make_database(file))
            uri = self.uri if "?" in self.uri else f"{self.uri}?timeout={SQLITE_TIMEOUT}"
            return self.call("open the store", lambda: _connect(uri))

    def call(self, doing: str, work: Callable[[], T]) -> T:
        """Calls MLflow, again when it or the network has a bad moment; so `work` must be safe to repeat.

        Args:
            doing: What is done, to complete "cannot ...".
            work: The call.

        Raises:
            PlatformError: MLflow stayed away, refused or is not allowed to be used; the message holds no credentials.
        """
        import tenacity

        _load()
        retry = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_passes),
            stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_after_delay(RETRY_SECONDS),
            wait=tenacity.wait_exponential_jitter(initial=FIRST_WAIT, max=8, jitter=FIRST_WAIT),
            before_sleep=lambda state: log.warning("MLflow cannot %s yet (attempt %d of %d)", doing, state.attempt_number, ATTEMPTS),
            reraise=True,
        )
        try:
            return retry(work)
        except Exception as error:
            if _is_foreign(error):
                raise self._explained(doing, error) from None
            raise

    def _explained(self, doing: str, error: Exception) -> PlatformError:
        reason = mask(" ".join(str(error).split()))[:400]
        status = _status(error)
        remedy = "check that MLFLOW_TRACKING_URI is right and that the server runs"
        if status in (401, 403):
            remedy = "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        elif self.database is not None:
            remedy = f"check that {self.database} may be written and is not damaged"
        elif status is not None and status not in TRANSIENT:
            remedy = "see what the server says, and its log"
        return PlatformError(f"cannot {doing}: {reason}", where=f"MLflow {self.shown}", remedy=remedy)

    def experiment_id(self) -> str:
        """The experiment that new runs go to, made when it does not exist.

        An embedded store gets an absolute place for artifacts beside its database, so that it works from every folder.

        Raises:
            PlatformError: MLflow cannot be asked, or somebody deleted the experiment.
        """
        given = os.environ.get("MLFLOW_EXPERIMENT_ID", "")
        if given and not os.environ.get("MLFLOW_EXPERIMENT_NAME"):
            return given
        place = None if self.database is None else (self.database.parent / "mlartifacts").as_uri()

        def find_or_create() -> str:
            if self.client.get_experiment_by_name(self.experiment) is None:
                if_absent(lambda: self.client.create_experiment(self.experiment, artifact_location=place))
            found = self.client.get_experiment_by_name(self.experiment)
            if found is None or found.lifecycle_stage == "deleted":
                remedy = "restore it, or set MLFLOW_EXPERIMENT_NAME to another one"
                raise PlatformError(f"experiment {self.experiment!r} was deleted", where=f"MLflow {self.shown}", remedy=remedy)
            return str(found.experiment_id)

        return self.call("find the experiment", find_or_create)

    def version_of(self, name: str, alias: str) -> "ModelVersion | None":
        """The version that the alias points to; None when there is no such model or alias."""
        if self.empty:
            return None
        return self.call(f"look up {name}@{alias}", lambda: _absent_is_none(lambda: self.client.get_model_version_by_alias(name, alias)))

    def version(self, name: str, version: str) -> "ModelVersion | None":
        """That version; None when there is none."""
        if self.empty:
            return None
        return self.call(f"look up {name} version {version}", lambda: _absent_is_none(lambda: self.client.get_model_version(name, version)))

    def fetch(self, found: "ModelVersion") -> ChampionInfo:
        """The version with its files on this machine; those of a local store stay where they are, others go to a cache by digest.

        Raises:
            IntegrityError: The files are not those that were registered.
            PlatformError: The files cannot be had.
        """
        where = self.call("find the model's files", lambda: self.client.get_model_version_download_uri(found.name, found.version))
        path = _local_path(where) or self._download(found, where)
        _check_digest(path, found)
        threshold = found.tags.get(THRESHOLD_TAG)
        return ChampionInfo(
            name=found.name,
            version=str(found.version),
            digest=found.tags.get(DIGEST_TAG, ""),
            path=path,
            threshold=float(threshold) if threshold else None,
        )

    def _download(self, found: "ModelVersion", uri: str) -> Path:
        key = found.tags.get(DIGEST_TAG, "").removeprefix("sha256:") or f"{found.name}-{found.version}-{found.run_id}"
        target = _cache() / re.sub(r"[^\w.-]", "_", key)
        if target.is_dir() and _whole(target):
            return target

        def download(draft: Path) -> Path:
            from mlflow.artifacts import download_artifacts

            return Path(download_artifacts(artifact_uri=uri, dst_path=str(draft / "download"), tracking_uri=self.uri))

        with new_folder(target) as draft:
            (draft / "download").mkdir()
            files = self.call("download the model", lambda: download(draft))
            for entry in sorted(files.iterdir()):
                entry.rename(draft / entry.name)
            for rest in (files, draft / "download"):
                if rest.is_dir():
                    rest.rmdir()
        return target


def tracking() -> Tracking:
    """The tracking that the environment asks for.

    `MLFLOW_TRACKING_URI` first; else SQLite under `platform.home()` on a laptop; else, inside a cluster, one that is not
    available and says so. `MLFLOW_EXPERIMENT_NAME` and `MLFLOW_RUN_ID` are respected.
    """
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    run_id = os.environ.get("MLFLOW_RUN_ID", "")
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if uri:
        return Tracking(uri, "set by MLFLOW_TRACKING_URI", experiment, run_id)
    if platform.in_cluster():
        why = "MLFLOW_TRACKING_URI is not set; put it into the ConfigMap kfp-foundry of this namespace, key MLFLOW_TRACKING_URI"
        return Tracking("", why, experiment)
    return Tracking(f"sqlite:///{platform.home() / 'mlflow.db'}", "embedded: MLFLOW_TRACKING_URI is not set", experiment, run_id)


def champion(name: str, alias: str = CHAMPION) -> ChampionInfo | None:
    """The version that carries the alias, with its files on this machine.

    Args:
        name: The registered model.
        alias: The alias to follow.

    Returns:
        None when there is no MLflow, no such model, or no version with the alias.

    Raises:
        PlatformError: MLflow cannot be asked.

    Example:
        >>> champion("never-registered") is None
        True
    """
    store = tracking()
    found = store.version_of(name, alias)
    return store.fetch(found) if found is not None else None


def resolve(uri: str) -> ChampionInfo:
    """A registered model by MLflow's own words, `models:/name@alias` or `models:/name/version`.

    Raises:
        UserError: Another form, or no such model, version or alias; the message says which there are.
        PlatformError: MLflow cannot be asked.
    """
    match = re.fullmatch(r"models:/(?P<name>[^/@'\"]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))", uri)
    if match is None:
        raise UserError(f"{uri!r} is not a registered model", where="model", remedy="write models:/NAME@ALIAS or models:/NAME/VERSION")
    store = tracking()
    if not store.available:
        raise PlatformError("there is no MLflow", where=uri, remedy=store.why)
    name, alias, version = match["name"], match["alias"], match["version"]
    found = store.version_of(name, alias) if alias else store.version(name, version)
    if found is None:
        raise UserError(f"there is no {uri}", where=f"MLflow {store.shown}", remedy=_what_there_is(store, name))
    return store.fetch(found)


def _what_there_is(store: Tracking, name: str) -> str:
    if store.empty:
        return "register a model first"
    model = store.call("look up the model", lambda: _absent_is_none(lambda: store.client.get_registered_model(name)))
    if model is None:
        names = [m.name for m in store.call("list the models", lambda: store.client.search_registered_models(max_results=1000))]
        return close_names(name, names) if names else "register a model first"
    aliases = [f"@{alias}" for alias in sorted(model.aliases)]
    versions = store.call("list the versions", lambda: store.client.search_model_versions(f"name='{name}'", max_results=1000))
    numbers = sorted((int(v.version) for v in versions), reverse=True)
    if not numbers:
        return f"{name} has no version yet: register a model first"
    return f"choose one of: {', '.join(aliases + [f'/{number}' for number in numbers[:20]])}"


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """One process at a time on this machine; freed by the kernel even after `kill -9`.

    Raises:
        PlatformError: The place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise unwritable(path, error) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _load() -> None:
    """Imports MLflow, without its noise."""
    _be_quiet()
    if "mlflow" not in sys.modules:
        with _without_collection():
            importlib.import_module("mlflow.tracking")


@contextmanager
def _without_collection() -> Iterator[None]:
    """Python's garbage collection takes a fifth of the time of MLflow's imports, and finds nothing in them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _connect(uri: str) -> "MlflowClient":
    from mlflow.tracking import MlflowClient

    with _without_collection():
        return MlflowClient(uri, os.environ.get("MLFLOW_REGISTRY_URI") or None)


def _make_database(file: Path) -> None:
    """Makes a SQLite file with MLflow's tables, whole or not at all.

    It is made in memory where the system allows: some hundred small transactions take 3 s there, and 10 s on a busy disk.
    """
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="kfp-foundry-", dir=place) as scratch:
        _connect(f"sqlite:///{scratch}/mlflow.db")
        draft = file.with_name(f".{file.name}.tmp")
        try:
            shutil.copyfile(f"{scratch}/mlflow.db", draft)
            draft.replace(file)
        except OSError as error:
            raise unwritable(file, error) from error
        finally:
            draft.unlink(missing_ok=True)


def _be_quiet() -> None:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # MLflow imports GitPython, which complains where there is no git
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # `Tracking.call` retries, with an end in sight
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _status(error: BaseException) -> int | None:
    """The HTTP status that an MLflow or requests exception stands for."""
    told = re.search(r"\b(4\d\d) Client Error", str(error))  # a download's failure is a text within an "internal error"
    if told:
        return int(told[1])
    if hasattr(error, "get_http_status_code"):
        return int(error.get_http_status_code())
    response = getattr(error, "response", None)
    return int(response.status_code) if response is not None else None


def _is_foreign(error: BaseException) -> bool:
    """Whether MLflow, the network or the database raised it."""
    return type(error).__module__.split(".")[0] in ("mlflow", "requests", "urllib3", "sqlalchemy", "sqlite3", "alembic")


def _passes(error: BaseException) -> bool:
    if not _is_foreign(error):
        return False
    status = _status(error)
    # Two writers at once: a server with a database behind it answers the later one with 400 and the database's words.
    return status is None or status in TRANSIENT or "IntegrityError" in str(error)


def if_absent(create: Callable[[], object]) -> None:
    """Makes a thing in MLflow, unless it is there or another process makes it in this moment."""
    from mlflow.exceptions import MlflowException

    try:
        create()
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _absent_is_none(work: Callable[[], T]) -> T | None:
    from mlflow.exceptions import MlflowException

    try:
        return work()
    except MlflowException as error:
        # An alias that does not exist is "invalid parameter", everything else that does not exist is "does not exist".
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or (error.error_code == "INVALID_PARAMETER_VALUE" and "not found" in str(error)):
            return None
        raise


def _local_path(uri: str) -> Path | None:
    """The folder that a URI without a scheme, or with `file:`, names."""
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file"):
        return None
    path = Path(unquote(parts.path) if parts.scheme else uri)
    return path if path.is_dir() else None


def _cache() -> Path:
    """Where downloads are kept: the home of local state, or a temporary folder where that cannot be written (a pod's root)."""
    preferred = platform.home() / "cache" / "models"
    try:
        preferred.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.gettempdir()) / "kfp-foundry" / "models"
    return preferred if os.access(preferred, os.W_OK) else Path(tempfile.gettempdir()) / "kfp-foundry" / "models"


def _check_digest(path: Path, found: "ModelVersion") -> None:
    """Raises `IntegrityError` when the folder is another model than the one that was registered; `ModelFolder.open` checks the files."""
    from kfp_foundry.components.common.artifacts.model import ModelFolder

    wanted = found.tags.get(DIGEST_TAG)
    if wanted and ModelFolder.open(path, check=False).digest != wanted:
        raise IntegrityError(
            f"not the model {wanted} that was registered", where=f"{found.name} version {found.version}, {path}", remedy="register it again"
        )


def _whole(folder: Path) -> bool:
    """Whether a cached download is what its digests say; a damaged one is fetched again."""
    from kfp_foundry.components.common.artifacts.model import ModelFolder

    try:
        ModelFolder.open(folder)
    except IntegrityError:
        return False
    return True
