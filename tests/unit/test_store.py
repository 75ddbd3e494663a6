"""The store: one way to files behind any address, against a real S3 server (moto) and a real disk."""

import os
import threading

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from kfp_foundry.components.common import patience, store
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.errors import DataError, IntegrityError, PlatformError, UserError


@pytest.fixture(scope="module")
def server():
    """An S3 server with an empty bucket `lake`; `faults` are answered before anything else, `sent` counts what left it."""
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    server = _Server(DomainDispatcherApplication(create_backend_app))
    http = make_server("127.0.0.1", 0, server, threaded=True, request_handler=_quiet())
    threading.Thread(target=http.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{http.server_port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "very-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="lake")
        yield server
    http.shutdown()
    http.server_close()


class _Server:
    """moto's S3 with a count of bytes and answers that fail on request."""

    def __init__(self, application) -> None:
        self.application = application
        self.faults: list[tuple[str, str, str, int]] = []  # method, part of the path, status line, how often
        self.sent = 0

    def fail(self, method: str, path: str, status: str, times: int = 1) -> None:
        self.faults.append((method, path, status, times))

    def __call__(self, environ, start_response):
        for number, (method, path, status, times) in enumerate(self.faults):
            if environ["REQUEST_METHOD"] == method and path in environ["PATH_INFO"] and times > 0:
                self.faults[number] = (method, path, status, times - 1)
                start_response(status, [("Content-Length", "0")])
                return [b""]
        answer = [bytes(part) for part in self.application(environ, start_response)]
        self.sent += sum(len(part) for part in answer) if environ["REQUEST_METHOD"] == "GET" else 0
        return answer


def _quiet():
    from werkzeug.serving import WSGIRequestHandler

    class Quiet(WSGIRequestHandler):
        def log(self, *args):
            pass

    return Quiet


@pytest.fixture(params=["minio", "s3", "pvc", "file"])
def place(request, server, tmp_path, monkeypatch):
    """An address of each kind, with nothing there yet."""
    server.faults.clear()
    if request.param == "file":
        return str(tmp_path / "there" / "folder")
    if request.param == "pvc":
        monkeypatch.setenv("KFP_FOUNDRY_PVC_ROOT", str(tmp_path / "mnt"))
        (tmp_path / "mnt" / "models").mkdir(parents=True)
        return "pvc://models/there/folder"
    return f"{request.param}://lake/{tmp_path.name}/folder"


@pytest.fixture
def bucket(server, tmp_path):
    server.faults.clear()
    return f"s3://lake/{tmp_path.name}"


@pytest.fixture
def here(tmp_path):
    """A folder with a file, a sub-folder and an empty file."""
    folder = tmp_path / "here"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "a.txt").write_text("one")
    (folder / "deep" / "er" / "b.bin").write_bytes(bytes(range(256)) * 1000)
    (folder / "empty").touch()
    return folder


def tree(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_folder_comes_back_as_it_was_sent(place, here, tmp_path):
    store.send(here, place)
    assert tree(store.fetch(place, tmp_path / "back", whole=True)) == tree(here)


def test_a_file_comes_back_as_it_was_sent(place, here, tmp_path):
    store.send(here / "a.txt", store.join(place, "a.txt"))
    assert store.fetch(store.join(place, "a.txt"), tmp_path / "back" / "a.txt").read_text() == "one"
    assert store.read(store.join(place, "a.txt")) == b"one"


def test_a_folder_says_what_is_in_it(place, here):
    assert store.names(place) == []
    assert not store.exists(place)
    store.send(here, store.join(place, "2"))
    store.write(store.join(place, "10"), b"{}")
    assert store.names(place) == ["10", "2"]
    assert store.exists(place)
    assert store.is_complete(store.join(place, "2"))
    assert not store.is_complete(place)


def test_a_folder_that_is_sent_again_has_nothing_of_the_older_one(place, here, tmp_path):
    store.send(here, place)
    (here / "a.txt").unlink()
    (here / "c.txt").write_text("three")
    store.send(here, place)
    assert set(tree(store.fetch(place, tmp_path / "back", whole=True))) == {"c.txt", "deep/er/b.bin", "empty"}
    assert not store.exists(store.join(place, "a.txt"))


def test_a_folder_can_be_removed(place, here):
    store.send(here, place)
    store.remove(place)
    store.remove(place)
    assert not store.exists(place)


def test_a_folder_whose_sending_broke_off_is_not_whole(bucket, here, tmp_path, monkeypatch, server):
    monkeypatch.setattr(patience, "ATTEMPTS", 1)
    store.send(here, bucket)
    server.fail("PUT", "b.bin", "403 Forbidden", times=9)
    with pytest.raises(PlatformError):
        store.send(here, bucket)
    assert not store.is_complete(bucket)
    with pytest.raises(IntegrityError, match=r"no \.complete\.json: it was never finished; run the step that wrote it again"):
        store.fetch(bucket, tmp_path / "back", whole=True)


def test_a_file_that_changed_behind_the_mark_is_noticed(place, here, tmp_path):
    store.send(here, place)
    store.write(store.join(place, "a.txt"), b"two")
    with pytest.raises(IntegrityError, match=r"not what was written: a\.txt"):
        store.fetch(place, tmp_path / "back", whole=True)
    assert not (tmp_path / "back").exists()


def test_a_folder_of_others_needs_no_mark(place, here, tmp_path):
    for name, content in tree(here).items():
        store.write(store.join(place, name), content)
    assert tree(store.fetch(place, tmp_path / "back")) == tree(here)


def test_a_fetch_that_fails_leaves_what_was_there(bucket, here, tmp_path):
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "old").touch()
    with pytest.raises(DataError, match="there is no such file or folder; check the address"):
        store.fetch(store.join(bucket, "none"), tmp_path / "back")
    assert set(tree(tmp_path / "back")) == {"old"}


@pytest.fixture
def table(tmp_path):
    frame = pl.DataFrame({"row": range(600_000), "noise": np.random.default_rng(7).random(600_000)})
    DatasetFolder.write(tmp_path / "table", frame.lazy(), source="test")
    return frame


def test_a_dataset_is_scanned_where_it_is(place, table, tmp_path):
    store.send(tmp_path / "table", place)
    assert_frame_equal(store.scan(place).collect(), table)
    assert store.facts(place)["rows"] == 600_000


def test_a_rank_reads_the_row_groups_and_columns_of_its_share_only(bucket, table, tmp_path, server):
    store.send(tmp_path / "table", bucket)
    size = (tmp_path / "table" / "part-00000.parquet").stat().st_size
    before = server.sent
    share = store.scan(bucket).slice(550_000, 50_000).select("row").collect()
    assert share["row"].to_list() == list(range(550_000, 600_000))
    assert server.sent - before < size / 10


@pytest.mark.parametrize("without", ["dataset.json", "part-00000.parquet"])
def test_a_dataset_that_lacks_something_is_told(place, table, tmp_path, without):
    store.send(tmp_path / "table", place)
    store.remove(store.join(place, without))
    with pytest.raises(IntegrityError, match="run the step that wrote it again"):
        store.scan(place)


@pytest.mark.parametrize("status", ["500 Internal Server Error", "503 Slow Down", "429 Too Many Requests"])
def test_a_fault_that_passes_is_tried_again(bucket, here, tmp_path, server, monkeypatch, status):
    monkeypatch.setattr(patience, "PAUSE", 0.01)
    server.fail("PUT", "a.txt", status, times=2)
    store.send(here, bucket)
    server.fail("GET", "a.txt", status, times=2)
    assert tree(store.fetch(bucket, tmp_path / "back", whole=True)) == tree(here)


def test_a_store_that_is_not_there_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setattr(patience, "ATTEMPTS", 2)
    monkeypatch.setattr(patience, "PAUSE", 0.01)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(PlatformError, match=r"s3://lake/x: could not be read after 2 attempts: .*127.0.0.1:9.*; try again later"):
        store.fetch("s3://lake/x", tmp_path / "x")


def test_a_refusal_is_not_tried_again(bucket, here, server):
    server.fail("PUT", "a.txt", "403 Forbidden", times=1)
    with pytest.raises(PlatformError, match="the store refuses: no or wrong credentials; set AWS_ACCESS_KEY_ID"):
        store.send(here, bucket)


def test_a_full_disk_is_told_and_leaves_nothing(here, tmp_path, bucket, monkeypatch):
    store.send(here, bucket)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_down", full)
    with pytest.raises(PlatformError, match="No space left on device; free some space"):
        store.fetch(bucket, tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("", UserError, "the address is empty; give a path or an address such as"),
        ("minoi://lake/x", UserError, r"unknown kind of address 'minoi://'; did you mean 'minio'\?"),
        ("s3:///x", UserError, "the address names no bucket; write s3://bucket/folder"),
        ("s3://no-such-bucket/x", DataError, "there is no such file or folder"),
        ("/no/such/folder", DataError, "there is no such file or folder"),
        ("pvc://claim/x", PlatformError, r"the claim 'claim' is not mounted at /mnt/pvc/claim; mount the claim there"),
    ],
)
def test_an_address_that_leads_nowhere_is_told(server, tmp_path, address, error, message):
    with pytest.raises(error, match=message):
        store.fetch(address, tmp_path / "x")


@pytest.mark.parametrize(
    ("address", "path", "endpoint", "shared"),
    [
        ("minio://mlpipeline/v2/a b", "mlpipeline/v2/a b", "http://minio-service.kubeflow:9000", True),
        ("s3://lake/x/?endpoint=store:9000&disableSSL=true&region=eu", "lake/x", "http://store:9000", True),
        ("s3://lake/x?endpoint=store.example", "lake/x", "https://store.example", True),
        ("s3://lake", "lake", "", True),
        ("gs://lake/x", "lake/x", "", True),
        ("pvc://claim/x/y", "/mnt/pvc/claim/x/y", "", True),
        ("file:///tmp/a%20b", "/tmp/a b", "", False),
        ("/tmp/x", "/tmp/x", "", False),
    ],
)
def test_an_address_is_read_into_its_parts(monkeypatch, address, path, endpoint, shared):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    found = store.address_of(address)
    assert (found.path, found.endpoint, found.is_shared) == (path, endpoint, shared)


def test_a_name_is_added_before_the_query():
    assert store.join("s3://lake/runs/?region=eu", "1", "model") == "s3://lake/runs/1/model?region=eu"
    assert store.join("/tmp/what?", "1") == "/tmp/what?/1"


def test_keys_are_in_no_message(monkeypatch, bucket, here, server):
    monkeypatch.setattr(patience, "ATTEMPTS", 1)
    server.fail("PUT", "a.txt", "500 Oops", times=99)
    with pytest.raises(PlatformError) as caught:
        store.send(here, bucket)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


def test_the_pipelines_own_keys_open_their_store_and_no_other(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIPELINE_STORE_ACCESS_KEY_ID", "pipelines")
    monkeypatch.setenv("PIPELINE_STORE_SECRET_ACCESS_KEY", "hidden")
    found = {scheme: store._keys(store.address_of(f"{scheme}://lake/x")).get("access_key_id") for scheme in ("minio", "s3")}
    assert found == {"minio": "pipelines", "s3": None}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    assert store._keys(store.address_of("minio://lake/x"))["access_key_id"] == "mine"
