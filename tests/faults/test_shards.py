"""Faces in shards: two processes train as one does, and a killed run continues to the same bits, from a web server too."""

import functools
import http.server
import importlib
import threading

import pytest

from fer_ignite.data.cache.format import open_cache
from fer_ignite.data.cache.lookup import open_or_build
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.data.shards.shard_writer import write_shards

processes = importlib.import_module("processes")
support = importlib.import_module("support")

pytestmark = pytest.mark.slow

BY_SHARDS = {"shard_window": 4, "mixup": 0.2, "save_iterations": 5}


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def shards(faces, tmp_path_factory):
    """The faces in shards of eight, in a folder."""
    folder = tmp_path_factory.mktemp("shards") / "faces"
    dataset_cache = open_cache(open_or_build(CacheSpec(data=str(faces))))
    write_shards(dataset_cache, folder, shard_bytes=16_000, source="faces")
    return folder


@pytest.fixture(scope="module")
def url(shards):
    handler = functools.partial(_Quiet, directory=str(shards.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{web.server_port}/{shards.name}"
        web.shutdown()


def launched(data, out, nproc, **changed):
    settings = support.settings(f"shards:{data}", out, **BY_SHARDS, **changed)
    several = {"nproc": nproc, "start_method": "fork", "dist_timeout": "30s"}
    return settings if nproc == 1 else {**settings, **several}


@pytest.mark.parametrize("streams", [1, 2])
def test_two_processes_train_from_a_server_as_one_does_from_a_folder(
    server, shards, url, tmp_path, streams
):
    losses = []
    for nproc, data in ((1, shards), (2, url)):
        folder = tmp_path / str(nproc)
        folder.mkdir()
        changed = {**support.SMOOTH, "handlers": "handlers:note_losses", "shard_streams": streams}
        environment = {"FER_TEST_FOLDER": str(folder), "FER_IGNITE_CACHE": str(tmp_path / "cache")}
        settings = launched(data, folder, nproc, epochs=8, **changed)
        assert server.run(settings, folder / "log", **environment) == 0, (
            folder / "log"
        ).read_text()
        losses.append(support.build_loss_from_config(folder))
    assert len(losses[0]) == 8 * support.PER_EPOCH
    assert support.greatest_difference(*losses) <= 1e-5


@pytest.mark.parametrize("nproc", [1, 2])
def test_a_run_that_is_killed_while_it_reads_from_a_server_ends_with_the_same_bits(
    server, shards, url, tmp_path, nproc
):
    log = tmp_path / "log"
    assert server.run({**launched(shards, tmp_path, nproc), "name": "whole"}, log) == 0
    environment = {
        "FER_TEST_FOLDER": str(tmp_path),
        "FER_TEST_KILL": "all:9:0" if nproc == 2 else "0:9:0",
        "FER_IGNITE_CACHE": str(tmp_path / "cache"),
    }
    # room for half of the shards of train
    cut = launched(url, tmp_path, nproc, shard_cache_gb=12 * 20480 / 1e9)
    command = server.start({**cut, "handlers": "handlers:kill_at"}, log, **environment)
    assert command.wait() != 0 and processes.all_gone(command.pid)
    code = server.run(
        {**cut, "resume": "auto"}, log, FER_IGNITE_CACHE=environment["FER_IGNITE_CACHE"]
    )
    assert code == 0, log.read_text()
    assert support.final(tmp_path / "run") == support.final(tmp_path / "whole")
