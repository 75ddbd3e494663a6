"""Promoting a model: the traffic first, then the registry's alias, so that the registry never names a champion that does not serve.

Every act may be repeated. The new version notes whom it replaces before the alias moves, so a step that is killed in between
finds the champion before when it runs again.
"""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, get_args

from kfp_foundry.components.common import local_server
from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.artifacts.endpoint import Endpoint
from kfp_foundry.components.common.artifacts.verdict import Outcome
from kfp_foundry.components.common.errors import PlatformError, UserError, close_names
from kfp_foundry.components.common.step import step
from kfp_foundry.components.common.tracking import DIGEST_TAG, THRESHOLD_TAG, Tracking, tracking

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

REPLACES = "replaces"
REPLACED_BY = "replaced_by"
STAGE = "stage"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gates:
    """What the gates before said."""

    comparison: str
    endpoint: str

    def check(self) -> None:
        """Raises `UserError` for a word that is no outcome."""
        for name, outcome in (("comparison_outcome", self.comparison), ("endpoint_outcome", self.endpoint)):
            if outcome not in get_args(Outcome):
                raise UserError(f"{name} is {outcome!r}", where="promote_model", remedy=close_names(outcome, list(get_args(Outcome))))


@step
def run(model_name: str, version: str, gates: Gates, endpoint: Artifact, serving: Artifact, alias: str) -> tuple[bool, str]:
    """Reads the endpoint, promotes and writes what serves now; returns whether that is the challenger, and the champion's version."""
    offered = Endpoint.read(endpoint)
    promoted, champion = promote(tracking(), model_name, version, gates, offered, alias)
    now_serving(offered).write(serving)
    return promoted, champion


def now_serving(offered: Endpoint) -> Endpoint:
    """What answers after the decision: a local model that was promoted has taken over its endpoint's own address."""
    current = local_server.find(offered.name) if offered.target == "local" else None
    return current or offered


def promote(store: Tracking, name: str, version: str, gates: Gates, endpoint: Endpoint, alias: str = "champion") -> tuple[bool, str]:
    """Makes the version the champion, if the gates allow it.

    Args:
        store: Where models are registered.
        name: The registered model.
        version: The challenger's version; empty when it was not registered.
        gates: Their outcomes.
        endpoint: Where the challenger answers.
        alias: Names the champion.

    Returns:
        Whether the challenger is the champion now, and the version of the champion ("" when the registry has none).

    Raises:
        UserError: A word that is no outcome, or a version that does not exist.
        PlatformError: The traffic cannot be switched; or it was, and the registry refuses: then the message says so.
    """
    gates.check()
    current = _number(store.version_of(name, alias))
    if gates.comparison == "fail":
        log.info("not promoted: the challenger did not pass the comparison; %s", _stays(current))
        return False, current
    if gates.endpoint == "fail":
        gone = _is_local(endpoint) and local_server.discard(endpoint.name, endpoint.revision)
        what = "the candidate was ended" if gone else "it was left as it is"
        log.warning("not promoted: endpoint %s failed its verification and %s; %s", endpoint.name, what, _stays(current))
        return False, current
    if version and store.available:
        _check_version(store, name, version, endpoint)
    switched = _switch_traffic(endpoint)
    log.info("%s", switched or "no traffic was switched: nothing was deployed")
    if not version or not store.available:
        log.info("the registry was not changed: %s", store.why if not store.available else "the model was not registered")
        return bool(switched), current
    try:
        _point(store, name, version, alias, endpoint.threshold)
    except PlatformError as error:
        done = f"{switched}, but the registry does not say so: " if switched else ""
        remedy = f"{error.remedy}, then run the pipeline again; this step may be repeated"
        raise PlatformError(f"{done}alias {alias!r} could not be put on version {version}: {error.what}", where=error.where, remedy=remedy) from error
    return True, version


def _check_version(store: Tracking, name: str, version: str, endpoint: Endpoint) -> None:
    """Before anything is changed: the version exists, and it is the model that the endpoint serves."""
    found = store.version(name, version)
    if found is None:
        raise UserError(f"{name} has no version {version}", where=f"MLflow {store.shown}", remedy="register the model first")
    digest = found.tags.get(DIGEST_TAG, "")
    if digest and endpoint.traffic and digest != endpoint.revision:
        raise UserError(
            f"version {version} of {name} is {digest}, but the endpoint serves {endpoint.revision}",
            where=f"endpoint {endpoint.name}",
            remedy="deploy the model that was registered",
        )


def _is_local(endpoint: Endpoint) -> bool:
    """Whether a server of this machine answers; traffic 0 means that nothing was deployed."""
    return endpoint.target == "local" and endpoint.traffic > 0


def _switch_traffic(endpoint: Endpoint) -> str:
    """Sends all traffic to the challenger; returns what was done in words, empty when nothing was deployed."""
    if _is_local(endpoint):
        answers = local_server.promote(endpoint.name, endpoint.revision)
        return f"all traffic of {endpoint.name} goes to {endpoint.revision[:19]} at {answers.url}"
    # A KServe endpoint that is deployed all at once has all traffic already.
    return f"all traffic of {endpoint.name} goes to {endpoint.revision[:19]}" if endpoint.traffic else ""


def _point(store: Tracking, name: str, version: str, alias: str, threshold: float | None) -> None:
    """Moves the alias to the version, records the threshold that it serves with and marks both versions; safe to repeat."""
    current = _number(store.version_of(name, alias))
    tags = store.call("read the version", lambda: store.client.get_model_version(name, version)).tags
    before = tags.get(REPLACES, "") if current == version else current
    if before and current != version:
        _tag(store, name, version, REPLACES, before)
    if threshold is not None and tags.get(THRESHOLD_TAG) != repr(threshold):
        _tag(store, name, version, THRESHOLD_TAG, repr(threshold))
    store.call(f"set the alias {alias}", lambda: store.client.set_registered_model_alias(name, alias, version))
    if tags.get(STAGE) != alias:
        _tag(store, name, version, STAGE, alias)
        _tag(store, name, version, "promoted_at", datetime.now(UTC).isoformat(timespec="seconds"))
    if REPLACED_BY in tags:  # a champion of old is back
        store.call("untag the version", lambda: store.client.delete_model_version_tag(name, version, REPLACED_BY))
    if before and before != version and store.version(name, before) is not None:
        _tag(store, name, before, STAGE, "archived")
        _tag(store, name, before, REPLACED_BY, version)
    if current == version:
        log.info("version %s of %s is the %s already", version, name, alias)
    else:
        log.info("version %s of %s is the %s%s", version, name, alias, f"; it replaces version {before}" if before else "")


def _tag(store: Tracking, name: str, version: str, key: str, value: str) -> None:
    store.call(f"tag version {version}", lambda: store.client.set_model_version_tag(name, version, key, value))


def _number(version: "ModelVersion | None") -> str:
    return "" if version is None else str(version.version)


def _stays(current: str) -> str:
    return f"the champion stays (version {current})" if current else "there is no champion"
