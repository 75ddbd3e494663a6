"""ingest_table over the network: a real HTTP server, a real S3 server (moto), a real PostgreSQL."""

import datetime as dt
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest

from kfp_foundry.components.common import patience
from kfp_foundry.components.common.errors import DataError, PlatformError

CSV = b"a,b\n" + b"".join(b"%d,t%d\n" % (i, i) for i in range(20_000))


class Web(BaseHTTPRequestHandler):
    """Serves one table; the first `failures` answers fail in the way of the path."""

    def __init__(self, asked: list[str], failures: int, *args):
        self.asked = asked
        self.failures = failures
        super().__init__(*args)

    def do_GET(self):
        self.asked.append(self.path)
        failing = len(self.asked) <= self.failures
        if "missing" in self.path or "secret" in self.path:
            self.send_error(404 if "missing" in self.path else 403)
            return
        if failing and "busy" in self.path:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CSV)))
        self.end_headers()
        self.wfile.write(CSV[: len(CSV) // 2] if failing and "torn" in self.path else CSV)

    def log_message(self, *args):
        pass


@pytest.fixture
def web(monkeypatch):
    servers = []
    monkeypatch.setattr(patience, "PAUSE", 0.01)

    def start(failures=0):
        asked: list[str] = []
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Web, asked, failures))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_table_is_read_from_the_web(ingest, web):
    address, _ = web()
    frame, _, page = ingest(source=f"{address}/t.csv?X-Amz-Signature=sesame")
    assert frame.height == 20_000
    assert "sesame" not in page


@pytest.mark.parametrize("fault", ["busy", "torn"])
def test_a_fault_that_passes_is_tried_again(ingest, web, fault):
    address, asked = web(failures=2)
    assert ingest(source=f"{address}/{fault}.csv")[0].height == 20_000
    assert len(asked) == 3


def test_a_fault_that_stays_is_given_up_after_some_attempts(ingest, web):
    address, asked = web(failures=99)
    with pytest.raises(PlatformError, match=r"could not be read after 5 attempts: HTTP 503 Service Unavailable; try again later"):
        ingest(source=f"{address}/busy.csv")
    assert len(asked) == 5


@pytest.mark.parametrize(
    ("path", "message"), [("missing.csv", "HTTP 404 Not Found; check the address"), ("secret.csv", "HTTP 403 Forbidden; check that you may")]
)
def test_a_refusal_is_not_tried_again(ingest, web, path, message):
    address, asked = web()
    with pytest.raises(DataError, match=message):
        ingest(source=f"{address}/{path}")
    assert len(asked) == 1


def test_a_server_that_is_not_there_is_one_clear_line(ingest, web):
    port = _free_port()
    with pytest.raises(PlatformError, match=r"could not be read after 5 attempts: ConnectionError from 127.0.0.1"):
        ingest(source=f"http://127.0.0.1:{port}/t.csv")


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def store():
    """An S3 server with a bucket of tables; its address comes from the environment, as on a cluster."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="lake")
        client.put_object(Bucket="lake", Key="flights/1.csv", Body=b"a,b\n1,x\n")
        client.put_object(Bucket="lake", Key="flights/2.csv", Body=b"a,b\n2,y\n")
        client.put_object(Bucket="lake", Key="flights/_SUCCESS", Body=b"")
        yield client
    server.stop()


@pytest.mark.parametrize("address", ["s3://lake/flights", "s3://lake/flights/", "s3://lake/flights/*.csv"])
def test_an_object_store_gives_a_file_a_folder_or_a_glob(ingest, store, address):
    assert ingest(source=address)[0].rows() == [(1, "x"), (2, "y")]
    assert ingest(source="s3://lake/flights/2.csv")[0].rows() == [(2, "y")]


@pytest.mark.parametrize("address", ["s3://lake/nothing.csv", "s3://lake/none/*.csv", "s3://no-such-bucket/t.csv"])
def test_what_the_store_does_not_have_is_refused(ingest, store, address):
    with pytest.raises(DataError, match=r"there is no such file or folder|no file matches"):
        ingest(source=address)


def test_a_store_without_credentials_says_which_variables_to_set(ingest, store, monkeypatch, tmp_path):
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(PlatformError, match="the store refuses: no or wrong credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        ingest(source="s3://lake/flights/1.csv")
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def postgres():
    """A PostgreSQL server of this test's own, from Debian's package; the password stands in the environment only."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("PostgreSQL is not installed here (Debian: apt-get install postgresql)")
    user = _ordinary_user()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "password").write_text("very-secret")
        shutil.chown(folder / "password", user)
        shutil.chown(folder, user)

        def run(program, *arguments):
            as_user = user if os.getuid() == 0 else None
            with (folder / "said").open("w") as said:  # no pipe: the server would inherit it, and keep it open
                subprocess.run(
                    [programs[-1] / program, "-D", folder / "data", *arguments], check=True, cwd=folder, user=as_user, stdout=said, stderr=said
                )

        run("initdb", "-U", "ann", "-A", "scram-sha-256", "--pwfile", folder / "password", "-E", "UTF8", "--no-sync")
        port = _free_port()
        run("pg_ctl", "-w", "-o", f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off", "start")
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PGPASSWORD", "very-secret")
                address = f"postgresql://ann@127.0.0.1:{port}/postgres"
                _fill(address)
                yield address
        finally:
            run("pg_ctl", "-m", "immediate", "stop")


def _ordinary_user():
    """PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid()).pw_name
    name = next((n for n in ("postgres", "nobody") if n in {p.pw_name for p in pwd.getpwall()}), None)
    if name is None:
        pytest.skip("this is root, and there is no ordinary user to run PostgreSQL as")
    return name


def _fill(address):
    import adbc_driver_postgresql.dbapi as driver

    with driver.connect(address) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE customers (id bigint, name text, since date, seen timestamptz, price numeric(10, 2), vip boolean, extra jsonb)")
        cursor.execute(
            "INSERT INTO customers SELECT i, 'n' || i, date '2013-01-01' + (i % 30)::int, timestamptz '2013-01-05 10:00:00+02',"
            " i / 4.0, i % 2 = 0, CASE WHEN i = 1 THEN '{\"k\": 1}'::jsonb END FROM generate_series(1, 100000) AS i"
        )
        connection.commit()


def test_a_postgresql_query_is_a_table(ingest, postgres):
    frame, _, page = ingest(source=postgres, query="SELECT * FROM customers ORDER BY id")
    assert frame.height == 100_000
    assert frame.row(0, named=True) == {
        "id": 1, "name": "n1", "since": dt.date(2013, 1, 2), "seen": dt.datetime(2013, 1, 5, 8), "price": 0.25, "vip": False, "extra": '{"k": 1}',
    }  # fmt: skip
    assert frame.schema["price"] == pl.Float64
    assert "very-secret" not in page


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT * FROM nobody", r'the query failed: .*relation "nobody" does not exist'),
        ("DELETE FROM customers RETURNING id", r"the query failed: .*read-only transaction"),
        ("SELEC 1", r"the query failed: .*syntax error"),
    ],
)
def test_postgresql_says_why_a_query_failed(ingest, postgres, query, message):
    with pytest.raises(DataError, match=message):
        ingest(source=postgres, query=query)


def test_a_wrong_password_is_one_clear_line_without_it(ingest, postgres):
    with pytest.raises(PlatformError, match=r"the database refuses: .*password authentication failed.*PGPASSWORD") as caught:
        ingest(source=postgres.replace("ann@", "ann:not-this@"), query="SELECT 1")
    assert "not-this" not in str(caught.value)
