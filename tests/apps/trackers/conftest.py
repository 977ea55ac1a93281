"""A real MLflow server on a loopback port, and an environment in which no tracker finds anything of its user's."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest


class Server:
    """``mlflow server`` with an sqlite store in a folder; it can be killed and started again on the same port."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mlflow",
                "server",
                "--host",
                "127.0.0.1",
                "--port",
                str(self.port),
                "--workers",
                "1",
                "--backend-store-uri",
                f"sqlite:///{self.folder / 'store.db'}",
                "--artifacts-destination",
                str(self.folder / "files"),
            ],
            env={
                **os.environ,
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                "MLFLOW_DISABLE_TELEMETRY": "true",
            },
            cwd=self.folder,
            stdout=(self.folder / "log").open("a"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        for _ in range(600):
            try:
                with urllib.request.urlopen(self.uri + "/health", timeout=5):
                    return self
            except OSError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.5)
        raise AssertionError("the MLflow server did not start")

    def kill(self):
        os.killpg(self.process.pid, 9)
        self.process.wait()


def server_in(folder):
    pytest.importorskip("mlflow")
    return Server(folder).start()


def set_aside(server, folder):
    """A copy of an idle server's store: making an empty one takes longer than all else."""
    shutil.copy(server.folder / "store.db", folder / "store.db")


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory):
    server = server_in(tmp_path_factory.mktemp("mlflow"))
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch, tmp_path):
    """No settings of the person who runs the tests, and none of a test's that outlive it."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_", "CLEARML_"))]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "CLEARML_CACHE_DIR"):
        monkeypatch.setenv(name, str(home / name.lower()))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    yield
    assert not {name for name in os.environ if name.startswith("MLFLOW_")} - {
        "MLFLOW_DISABLE_TELEMETRY",
        "MLFLOW_TRACKING_URI",
    }
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(None)


@pytest.fixture
def server(shared_server, monkeypatch):
    """The MLflow server that MLFLOW_TRACKING_URI names."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_server.uri)
    return shared_server


@pytest.fixture
def own_server(tmp_path, monkeypatch, shared_server):
    """A server that a test may kill."""
    folder = tmp_path / "server"
    folder.mkdir()
    set_aside(shared_server, folder)
    server = server_in(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    yield server
    server.kill()
