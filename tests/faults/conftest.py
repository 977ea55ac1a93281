"""The faces, and the uncut runs that all cut ones are compared with."""

import importlib
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# handlers are named on command lines, and imported in other processes
sys.path.insert(0, str(HERE))
support = importlib.import_module("support")
processes = importlib.import_module("processes")


@pytest.fixture(scope="session")
def faces(tmp_path_factory) -> Path:
    return support.write_faces(tmp_path_factory.mktemp("faces") / "faces.csv")


@pytest.fixture(scope="session")
def server(_own_cache):
    return processes.the_server()


@pytest.fixture(scope="session")
def uncut(faces, server, tmp_path_factory):
    """Function of the number of processes: what the uninterrupted run ended with, and its settings."""
    folder, known = tmp_path_factory.mktemp("uncut"), {}

    def final(nproc: int):
        if nproc not in known:
            settings = several(
                support.settings(faces, folder, save_iterations=5, tensorboard=True), nproc
            )
            settings["name"] = f"uncut-{nproc}"
            code = server.run(settings, folder / f"log-{nproc}")
            assert code == 0, (folder / f"log-{nproc}").read_text()
            known[nproc] = support.final(folder / settings["name"])
        return known[nproc]

    return final


def several(settings, nproc):
    return (
        settings
        if nproc == 1
        else {**settings, "nproc": nproc, "start_method": "fork", "dist_timeout": "30s"}
    )
