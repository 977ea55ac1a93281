"""An S3 server on loopback (moto's, which keeps objects in memory), started, killed and started again."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fer_ignite.stores.store import Store

BUCKET = "faces"


class ObjectServer:
    """One server process at a port of its own; killed, it forgets every bucket.

    Attributes:
        environment: what a program needs to find it.
    """

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.process = None

    def start(self, **environment: str) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment},
        )
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < until, "the object server does not start"
                time.sleep(0.05)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def make_bucket(self, name: str = BUCKET) -> str:
        """Its URL."""
        import botocore.session

        session = botocore.session.Session()
        client = session.create_client("s3", endpoint_url=self.environment["AWS_ENDPOINT_URL"])
        client.create_bucket(Bucket=name)
        client.close()
        return f"s3://{name}"


@pytest.fixture(scope="session")
def _object_server():
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    server = ObjectServer()
    server.start()
    yield server
    server.kill()


@pytest.fixture
def object_server(_object_server, monkeypatch):
    """The session's server, found by this process and those that it starts."""
    for name, value in _object_server.environment.items():
        monkeypatch.setenv(name, value)
    return _object_server


@pytest.fixture
def bucket(object_server, request):
    """The URL of a new bucket."""
    return object_server.make_bucket(f"b{abs(hash(request.node.nodeid))}")


@pytest.fixture
def own_server(monkeypatch):
    """A server of this test's own, with a bucket, to be killed."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    server = ObjectServer()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.start()
    server.make_bucket()
    yield server
    server.kill()


def wait_for(store: Store, name: str, *, limit_s: float = 60) -> None:
    """Until a store holds an object of a name."""
    until = time.monotonic() + limit_s
    while store.entry(name) is None:
        assert time.monotonic() < until, f"{name} never arrived"
        time.sleep(0.05)


def require_equal(store: Store, folder: Path) -> None:
    """A store holds each file of a run's folder, byte for byte, and no run's file that the folder lacks."""
    from fer_ignite.checkpoint.mirror import local_files
    from fer_ignite.checkpoint.run_dir import is_run_file

    files = local_files(folder)
    for name in files:
        assert store.read(name) == (folder / name).read_bytes(), name
    assert {name for name in store.entries() if is_run_file(name)} <= set(files)
