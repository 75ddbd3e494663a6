"""Registering a model: an MLflow run with the files and numbers, then a version that points to it.

The version is made last and in one call with all its tags, so a step that is killed leaves none that is half made; when it runs
again it goes on in the same run. A version is found again by the model's digest, so the same model is one version. It tells of
the run that made it, verdicts and evidence alike; a later run that comes to the same model is named in its tag `last_seen_run`.
"""

import logging
import math
import os
import re
import subprocess
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfp_foundry.components.common import images, platform
from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.evaluation import Evaluation
from kfp_foundry.components.common.artifacts.model import CONTRACT, ModelFolder
from kfp_foundry.components.common.artifacts.verdict import Verdict
from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.errors import IntegrityError, UserError
from kfp_foundry.components.common.files import sha256, write_json
from kfp_foundry.components.common.masking import mask
from kfp_foundry.components.common.step import step
from kfp_foundry.components.common.tracking import (
    CHAMPION,
    DIGEST_TAG,
    MODEL_FOLDER,
    THRESHOLD_TAG,
    Tracking,
    if_absent,
    lock,
    tracking,
)

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

EVIDENCE = "evidence"  # folder of the run's artifacts for evaluation, verdicts and contract
NAME_TAG = "registered_model"
STAGE_TAG = "stage"
LAST_SEEN_TAG = "last_seen_run"
MAX_VALUE = 5000  # characters of a tag or parameter that every MLflow store takes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submission:
    """A model and everything that is recorded with it."""

    name: str
    alias: str
    run_name: str
    model: ModelFolder
    evaluation: Evaluation
    evidence: dict[str, Path]
    content_tags: dict[str, str]
    event_tags: dict[str, str]


@dataclass(frozen=True)
class Registration:
    """What the registry recorded, as in the artifact."""

    name: str
    digest: str
    registered: bool
    reason: str
    version: str = ""
    uri: str = ""
    alias: str = ""
    run_id: str = ""
    run_name: str = ""
    tracking_uri: str = ""
    how_to_open: str = ""
    tags: dict[str, str] = field(default_factory=dict)

    def write(self, artifact: Artifact) -> None:
        """Writes the JSON and puts its scalars into the artifact's metadata."""
        record = asdict(self)
        write_json(artifact.path, record)
        artifact.metadata.update({key: value for key, value in record.items() if key != "tags"})


@step
def run(
    model: Artifact,
    evaluation: Artifact,
    comparison: Artifact,
    validation: Artifact,
    dataset: Artifact,
    registration: Artifact,
    model_name: str,
    run_name: str,
    threshold: float,
    alias: str,
) -> tuple[str, str]:
    """Reads the artifacts, registers, and writes the registration; returns version and address."""
    check_names(model_name, alias)
    folder = ModelFolder.open(model)
    run_name = run_name or os.environ.get("KFP_FOUNDRY_RUN", "")  # set by the local runner
    verdicts = {"validation": Path(validation.path), "comparison": Path(comparison.path)}
    submission = Submission(
        name=model_name,
        alias=alias,
        run_name=run_name or f"{model_name}-{folder.digest.removeprefix('sha256:')[:12]}",
        model=folder,
        evaluation=Evaluation.read(evaluation.path),
        evidence={"evaluation.json": Path(evaluation.path), **{f"{name}.json": path for name, path in verdicts.items()}},
        content_tags=content_tags(folder, DatasetFolder.open(dataset)),
        event_tags=event_tags({name: Verdict.read(path).outcome for name, path in verdicts.items()}, run_name, _threshold(folder, threshold)),
    )
    done = register(tracking(), submission)
    log.info("%s", done.reason)
    done.write(registration)
    return done.version, done.uri


def check_names(model_name: str, alias: str) -> None:
    """Raises `UserError` for a name or alias that MLflow does not take."""
    if not re.fullmatch(r"[\w][\w .-]{0,199}", model_name) or model_name.endswith((" ", ".")):
        raise UserError(f"model_name is {model_name!r}", where="register_model", remedy="use letters, digits, blanks, '_', '-' and '.', at most 200")
    if not re.fullmatch(r"[\w-]{1,255}", alias) or alias.lower() == "latest" or re.fullmatch(r"[vV]\d+", alias):
        raise UserError(f"alias is {alias!r}", where="register_model", remedy="use letters, digits, '_' and '-'; neither latest nor v and a number")


def _threshold(model: ModelFolder, threshold: float) -> str:
    return repr(float(threshold)) if model.task is Task.BINARY else ""


def content_tags(model: ModelFolder, dataset: DatasetFolder) -> dict[str, str]:
    """What the model's files are and what they were made of; the same for the same model."""
    record = model.record
    tags = {
        DIGEST_TAG: model.digest,
        "algorithm": record.algorithm,
        "task": str(record.task),
        "target": record.target,
        "contract_sha256": sha256(model.path / CONTRACT),
        "data_fingerprint": dataset.facts.fingerprint,
        "data_source": mask(dataset.facts.source),
        "data_rows": str(dataset.facts.rows),
    }
    tags |= {f"data_fingerprint.{part}": fingerprint for part, fingerprint in record.fingerprints.items()}
    tags |= {f"package.{name}": version for name, version in record.versions.items()}
    files = sorted(file for file in model.path.rglob("*") if file.is_file())
    tags |= {f"sha256.{file.relative_to(model.path).as_posix()}": sha256(file) for file in files}
    return _clean(tags)


def event_tags(outcomes: dict[str, str], run_name: str, threshold: str) -> dict[str, str]:
    """Which run made it, with what code, and how it was judged.

    The image is on record only where the pod says which one it is: a compiled pipeline may name another one than this library does.
    """
    tags = {
        THRESHOLD_TAG: threshold,
        "pipeline_run": run_name,
        "pod": os.environ.get("KFP_POD_NAME", ""),
        "git_commit": git_commit(Path.cwd()),
        "image": os.environ.get("KFP_FOUNDRY_IMAGE", "") if platform.in_cluster() else "",
        "library": f"kfp-foundry {images.VERSION}",
    }
    return _clean(tags | {f"verdict.{gate}": outcome for gate, outcome in outcomes.items()})


def _clean(tags: dict[str, str]) -> dict[str, str]:
    """Without empty ones; keys of the characters that MLflow takes, values of a length that it takes."""
    return {re.sub(r"[^\w./ -]", "_", key): value[:MAX_VALUE] for key, value in tags.items() if value}


def git_commit(folder: Path) -> str:
    """The commit of the working directory, with `-dirty` when tracked files differ; `$GIT_COMMIT` in CI; else empty."""
    if os.environ.get("GIT_COMMIT"):
        return os.environ["GIT_COMMIT"]

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):  # no git here, or a repository on a disk that hangs
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if not commit:
        return ""
    return f"{commit}-dirty" if git("status", "--porcelain", "--untracked-files=no") else commit


def register(store: Tracking, submission: Submission) -> Registration:
    """Registers a model, or finds it registered.

    Returns:
        The registration; `registered` is False, with the reason, when there is no MLflow.

    Raises:
        PlatformError: MLflow refuses or stays away.
    """
    name, digest = submission.name, submission.model.digest
    if not store.available:
        return Registration(name, digest, registered=False, reason=f"not registered: {store.why}")
    store.call("make the registered model", lambda: _ensure_model(store, submission))
    with _alone(store):
        known = find(store, name, digest)
        damaged = known is not None and _damaged(store, known)
        run_id = known.run_id if known is not None and known.run_id else _run(store, submission)
        if known is None or damaged:
            _log_run(store, submission, run_id)
        version = known or store.call("make the version", lambda: _create(store, submission, run_id))
    number = str(version.version)
    tags = _tag(store, store.call("read the version", lambda: store.client.get_model_version(name, number)), _changes(submission, damaged))
    store.call("set the alias", lambda: store.client.set_registered_model_alias(name, submission.alias, number))
    store.call("end the run", lambda: _end_run(store, run_id))
    return Registration(
        name,
        digest,
        registered=True,
        reason=f"already registered as version {number}" if known is not None else f"registered as version {number}",
        version=number,
        uri=f"models:/{name}/{number}",
        alias=submission.alias,
        run_id=run_id,
        run_name=submission.run_name,
        tracking_uri=store.shown,
        how_to_open=store.how_to_open,
        tags=tags,
    )


def _changes(submission: Submission, anew: bool) -> dict[str, str]:
    """What this registration changes in a version's tags; `anew`: its files were gone, and this run has written them again.

    The threshold of a version that is there already is not among it: no gate has decided about this run yet. Promotion moves it,
    and so does a registration right under the champion's alias.
    """
    tags = {LAST_SEEN_TAG: submission.run_name, STAGE_TAG: submission.alias}
    if anew:
        tags |= submission.content_tags | {key: value for key, value in submission.event_tags.items() if key != THRESHOLD_TAG}
    if submission.alias == CHAMPION:
        tags |= {key: value for key, value in submission.event_tags.items() if key == THRESHOLD_TAG}
    return tags


def find(store: Tracking, name: str, digest: str) -> "ModelVersion | None":
    """The first version of the model with that digest."""
    query = f"name='{name}' and tags.{DIGEST_TAG}='{digest}'"
    found = store.call("look for the model's digest", lambda: store.client.search_model_versions(query))
    return min(found, key=lambda version: int(version.version), default=None)


def _alone(store: Tracking) -> AbstractContextManager[None]:
    """Looking and making are one act among the processes of this machine; on a server `_create` settles a race afterwards."""
    return lock(store.database.with_name(".register.lock")) if store.database is not None else nullcontext()


def _ensure_model(store: Tracking, submission: Submission) -> None:
    record = submission.model.record
    described = (
        f"Predicts {record.target} ({record.task}) from {len(submission.model.contract.features)} columns; raw rows in, predictions out. "
        f"Registered by kfp-foundry. Load: mlflow.pyfunc.load_model('models:/{submission.name}@champion'), "
        f"or score a table: kfp-foundry predict TABLE --model models:/{submission.name}@champion"
    )
    tags = {"created_by": "kfp-foundry"}
    if_absent(lambda: store.client.create_registered_model(submission.name, tags=tags, description=described))


def _create(store: Tracking, submission: Submission, run_id: str) -> "ModelVersion":
    known = find(store, submission.name, submission.model.digest)  # this call may be a repetition
    if known is not None:
        return known
    run = store.client.get_run(run_id)
    made = store.client.create_model_version(
        submission.name,
        source=f"{run.info.artifact_uri}/{MODEL_FOLDER}",
        run_id=run_id,
        tags=submission.content_tags | submission.event_tags | {LAST_SEEN_TAG: submission.run_name, STAGE_TAG: submission.alias},
        description=_summary(submission),
    )
    first = find(store, submission.name, submission.model.digest)
    if first is not None and int(first.version) < int(made.version):  # another process was faster: the lower number stays
        store.client.delete_model_version(submission.name, made.version)
        return first
    return made


def _summary(submission: Submission) -> str:
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in list(_metrics(submission).items())[:6])
    return f"{submission.model.record.algorithm}; {numbers}" if numbers else submission.model.record.algorithm


def _tag(store: Tracking, version: "ModelVersion", changes: dict[str, str]) -> dict[str, str]:
    """Sets tags and returns all that the version has; the stage stays where another alias, the champion's as a rule, names the version."""
    held = set(version.aliases) - {changes[STAGE_TAG]}
    wanted = {key: value for key, value in changes.items() if not (held and key == STAGE_TAG)}
    for key, value in sorted(wanted.items()):
        if version.tags.get(key) != value:
            store.call(f"tag version {version.version}", partial(store.client.set_model_version_tag, version.name, str(version.version), key, value))
    return dict(version.tags) | wanted


def _damaged(store: Tracking, version: "ModelVersion") -> bool:
    """Whether the files of a version in a local store are gone or changed; a server's are its own business."""
    if store.database is None:
        return False
    try:
        ModelFolder.open(store.fetch(version).path)
    except IntegrityError:
        log.warning("the files of version %s are gone or damaged: they are written again", version.version)
        return True
    return False


def _run(store: Tracking, submission: Submission) -> str:
    """The run to log into: the one that the environment names, else the one of an attempt before, else a new one."""
    if store.run_id:
        return store.run_id
    experiment = store.experiment_id()
    digest = submission.model.digest

    def find_or_create() -> str:
        query = f"tags.{DIGEST_TAG}='{digest}' and tags.{NAME_TAG}='{submission.name}'"
        before = store.client.search_runs([experiment], query, max_results=1)
        if before:
            return str(before[0].info.run_id)
        tags = {DIGEST_TAG: digest, NAME_TAG: submission.name, "mlflow.source.name": "kfp-foundry", "mlflow.source.type": "JOB"}
        return str(store.client.create_run(experiment, tags=tags, run_name=submission.run_name).info.run_id)

    return store.call("start a run", find_or_create)


def _end_run(store: Tracking, run_id: str) -> None:
    """Ends a run that was started here; one that the environment names has another owner."""
    if run_id != store.run_id and store.client.get_run(run_id).info.status == "RUNNING":
        store.client.set_terminated(run_id)


def _log_run(store: Tracking, submission: Submission, run_id: str) -> None:
    """Logs numbers and files into the run; safe to repeat."""
    client, model = store.client, submission.model
    store.call("log the numbers", lambda: _log_numbers(store, submission, run_id))
    store.call("upload the model", lambda: client.log_artifacts(run_id, str(model.path), MODEL_FOLDER))
    files = submission.evidence | {CONTRACT: model.path / CONTRACT}
    for name, path in files.items():
        store.call(f"upload {name}", partial(client.log_text, run_id, path.read_text(encoding="utf-8"), f"{EVIDENCE}/{name}"))


def _log_numbers(store: Tracking, submission: Submission, run_id: str) -> None:
    from mlflow.entities import Metric, Param, RunTag

    there = store.client.get_run(run_id).data.params  # a parameter cannot be logged twice, and KFP's launcher logs some itself
    params = [Param(key, value[:MAX_VALUE]) for key, value in _params(submission).items() if key not in there]
    now = int(time.time() * 1000)
    metrics = [Metric(key, value, now, 0) for key, value in _metrics(submission).items()]
    tags = [RunTag(key, value) for key, value in (submission.content_tags | submission.event_tags).items()]
    for start in range(0, max(len(params), len(tags)), 100):  # the most that MLflow takes at once
        store.client.log_batch(run_id, params=params[start : start + 100], tags=tags[start : start + 100])
    for start in range(0, len(metrics), 500):
        store.client.log_batch(run_id, metrics=metrics[start : start + 500])


def _params(submission: Submission) -> dict[str, str]:
    record = submission.model.record
    named: dict[str, Any] = {**record.params, **record.options, "algorithm": record.algorithm, "seed": record.seed, "rounds": record.rounds}
    return {re.sub(r"[^\w./ -]", "_", key): str(value) for key, value in sorted(named.items())}


def _metrics(submission: Submission) -> dict[str, float]:
    """The test metrics under their names, the validation ones after `validation_`; what is not finite is left out."""
    named = {name: metric.value for name, metric in submission.evaluation.metrics.items()}
    named |= {f"validation_{name}": value for name, value in submission.model.record.metrics.items()}
    return {re.sub(r"[^\w./ -]", "_", name): float(value) for name, value in named.items() if value is not None and math.isfinite(value)}
