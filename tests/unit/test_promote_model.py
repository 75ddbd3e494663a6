"""promote_model: traffic first, alias after; what a gate refused does not serve; every act may be repeated."""

import logging
import sqlite3

import pytest
import requests

from kfp_foundry.components.common import local_server
from kfp_foundry.components.common.artifacts.endpoint import Endpoint
from kfp_foundry.components.common.errors import PlatformError, UserError
from kfp_foundry.components.common.tracking import champion, tracking
from kfp_foundry.components.registry.promote_model import core


@pytest.fixture(autouse=True)
def laptop(tmp_path, monkeypatch, empty_registry):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KFP_FOUNDRY_HOME", str(empty_registry(tmp_path / "home")))
    yield
    for row in local_server.list_all():
        local_server.stop(row.name)


@pytest.fixture
def versions(make_model, tmp_path):
    """Registers so many models by hand: their digests by version."""

    def make(count: int) -> dict[str, str]:
        client = tracking().client
        client.create_registered_model("flights")
        digests = {}
        for number in range(1, count + 1):
            model = make_model(tmp_path / f"model{number}", bias=number / 10)
            client.create_model_version("flights", str(model.path), tags={"model_digest": model.digest, "stage": "challenger"})
            digests[str(number)] = model.digest
        return digests

    return make


@pytest.fixture
def promote(artifact):
    def run(version: str, digest: str, comparison: str = "pass", endpoint: str = "pass", alias: str = "champion", **fields):
        where = artifact("endpoint")
        given = {"name": "flights", "url": "http://127.0.0.1:1", "revision": digest, "traffic": 0} | fields
        Endpoint(**given).write(where)
        return core.run("flights", version, core.Gates(comparison, endpoint), where, artifact("serving"), alias)

    return run


def tags(version: str) -> dict[str, str]:
    found = dict(tracking().client.get_model_version("flights", version).tags)
    return {key: found.get(key, "") for key in ("stage", "replaces", "replaced_by")}


def test_the_first_challenger_becomes_champion(versions, promote):
    digest = versions(1)["1"]
    assert promote("1", digest) == (True, "1")
    assert champion("flights").digest == digest
    assert tags("1") == {"stage": "champion", "replaces": "", "replaced_by": ""}


def test_the_champion_before_is_archived_and_both_versions_say_so(versions, promote):
    digests = versions(2)
    promote("1", digests["1"])
    assert promote("2", digests["2"], comparison="warn") == (True, "2")
    assert tags("1") == {"stage": "archived", "replaces": "", "replaced_by": "2"}
    assert tags("2") == {"stage": "champion", "replaces": "1", "replaced_by": ""}


def test_promoting_again_changes_nothing_and_says_so(versions, promote, caplog):
    digests = versions(2)
    promote("1", digests["1"])
    promote("2", digests["2"])
    before = tracking().client.get_model_version("flights", "2").tags
    with caplog.at_level(logging.INFO):
        assert promote("2", digests["2"]) == (True, "2")
    assert "version 2 of flights is the champion already" in caplog.text
    assert tracking().client.get_model_version("flights", "2").tags == before
    assert tags("1")["replaced_by"] == "2"


def test_the_threshold_that_serves_is_the_champions_and_a_refused_one_is_not(versions, promote):
    digest = versions(1)["1"]
    for outcome, given, recorded in (("pass", 0.4, 0.4), ("fail", 0.7, 0.4), ("warn", 0.6, 0.6)):
        promote("1", digest, comparison=outcome, threshold=given)
        assert champion("flights").threshold == recorded


def test_a_champion_of_old_can_come_back(versions, promote):
    digests = versions(2)
    for version in ("1", "2", "1"):
        promote(version, digests[version])
    assert champion("flights").version == "1"
    assert tags("1") == {"stage": "champion", "replaces": "2", "replaced_by": ""}
    assert tags("2") == {"stage": "archived", "replaces": "1", "replaced_by": "1"}


def test_a_step_killed_after_the_alias_moved_archives_the_champion_before_when_it_runs_again(versions, promote):
    digests = versions(2)
    promote("1", digests["1"])
    client = tracking().client
    client.set_model_version_tag("flights", "2", "replaces", "1")
    client.set_registered_model_alias("flights", "champion", "2")
    assert promote("2", digests["2"]) == (True, "2")
    assert tags("1") == {"stage": "archived", "replaces": "", "replaced_by": "2"}


def test_a_challenger_that_lost_is_not_promoted_and_nothing_fails(versions, promote, caplog):
    digests = versions(2)
    promote("1", digests["1"])
    with caplog.at_level(logging.INFO):
        assert promote("2", digests["2"], comparison="fail") == (False, "1")
    assert "the champion stays (version 1)" in caplog.text
    assert champion("flights").version == "1"


def test_an_endpoint_that_failed_is_not_promoted_and_the_champion_stays(versions, promote, caplog):
    digests = versions(2)
    promote("1", digests["1"])
    assert promote("2", digests["2"], endpoint="fail") == (False, "1")
    assert "endpoint flights failed its verification" in caplog.text
    assert champion("flights").version == "1"


@pytest.mark.parametrize(
    ("version", "changes", "message"),
    [
        ("1", {"comparison": "good"}, r"comparison_outcome is 'good'.*choose one of: pass, warn, fail"),
        ("1", {"endpoint": "pas"}, r"endpoint_outcome is 'pas'; did you mean 'pass'"),
        ("9", {}, r"flights has no version 9; register the model first"),
        ("1", {"traffic": 100, "digest": "sha256:other"}, r"but the endpoint serves sha256:other; deploy the model that was registered"),
    ],
)
def test_refusals_say_what_is_wrong_and_what_to_do(versions, promote, version, changes, message):
    given = {"digest": versions(1)["1"]} | changes
    with pytest.raises(UserError, match=message):
        promote(version, **given)
    assert champion("flights") is None


def test_a_cluster_without_registry_and_endpoint_is_told_and_nothing_fails(promote, monkeypatch, caplog):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with caplog.at_level(logging.INFO):
        assert promote("", "sha256:ab") == (False, "")
    assert "nothing was deployed" in caplog.text
    assert "MLFLOW_TRACKING_URI is not set" in caplog.text


def probability(url: str, row: dict) -> float:
    return requests.post(f"{url}/v1/models/flights:predict", json={"instances": [row]}, timeout=10).json()["predictions"][0]["probability"]


ROW = {"sched_dep_minute": 600}


def test_traffic_goes_to_the_challenger_before_the_registry_names_it(versions, promote, tmp_path):
    digests = versions(2)
    first = local_server.start(tmp_path / "model1", "flights")
    promote("1", digests["1"], **first.model_dump(include={"url", "traffic"}))
    second = local_server.start(tmp_path / "model2", "flights")
    before = probability(first.url, ROW)
    refused = sqlite3.connect(tmp_path / "home" / "mlflow.db")
    refused.execute("CREATE TRIGGER refuse BEFORE UPDATE ON registered_model_aliases BEGIN SELECT RAISE(ABORT, 'not today'); END")
    refused.execute("CREATE TRIGGER refuse2 BEFORE INSERT ON registered_model_aliases BEGIN SELECT RAISE(ABORT, 'not today'); END")
    refused.commit()
    told = r"all traffic of flights goes to sha256:.*, but the registry does not say so: alias 'champion' could not be put on version 2: .*not today"
    with pytest.raises(PlatformError, match=told + r".*run the pipeline again; this step may be repeated"):
        promote("2", digests["2"], url=second.url, traffic=100)
    assert champion("flights").version == "1"
    assert probability(first.url, ROW) > before  # the address has not changed, the model has
    refused.execute("DROP TRIGGER refuse")
    refused.execute("DROP TRIGGER refuse2")
    refused.commit()
    assert promote("2", digests["2"], url=second.url, traffic=100) == (True, "2")
    assert tags("1")["stage"] == "archived"


def test_what_serves_afterwards_is_told_with_the_address_that_stays(versions, promote, tmp_path):
    digests = versions(2)
    first = local_server.start(tmp_path / "model1", "flights")
    promote("1", digests["1"], url=first.url, traffic=100)
    second = local_server.start(tmp_path / "model2", "flights")
    assert second.url != first.url
    promote("2", digests["2"], url=second.url, traffic=100)
    serving = Endpoint.read(tmp_path / "serving")
    assert (serving.url, serving.revision) == (first.url, digests["2"])


def test_a_candidate_that_failed_its_verification_is_ended_and_the_champion_serves_on(versions, promote, tmp_path, caplog):
    digests = versions(2)
    first = local_server.start(tmp_path / "model1", "flights")
    promote("1", digests["1"], url=first.url, traffic=100)
    second = local_server.start(tmp_path / "model2", "flights")
    before = probability(first.url, ROW)
    assert promote("2", digests["2"], endpoint="fail", url=second.url, traffic=100) == (False, "1")
    assert "the candidate was ended" in caplog.text
    assert [row.state for row in local_server.list_all()] == ["serving"]
    assert probability(first.url, ROW) == before


def test_a_model_that_is_not_registered_gets_the_traffic_only(promote, make_model, tmp_path, caplog):
    served = local_server.start(make_model(tmp_path / "model").path, "flights")
    with caplog.at_level(logging.INFO):
        assert promote("", served.revision, url=served.url, traffic=100) == (True, "")
    assert "the registry was not changed: the model was not registered" in caplog.text
    assert local_server.find("flights").revision == served.revision
