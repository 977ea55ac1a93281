"""Drawn faces as shards of ten, in a folder and behind a web server of this process."""

import functools
import http.server
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from fer_ignite.data.cache.format import open_cache
from fer_ignite.data.cache.lookup import open_or_build
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.data.shards import remote
from fer_ignite.data.shards.shard_writer import write_shards


@pytest.fixture(scope="session")
def dataset_cache():
    return open_cache(open_or_build(CacheSpec(data="demo:140")))


@pytest.fixture
def folder(dataset_cache, tmp_path):
    """140 faces: 112 of train in shards of at most 30720 bytes, ten faces or fewer each."""
    write_shards(dataset_cache, tmp_path / "faces", shard_bytes=20_000, source="demo:140")
    return tmp_path / "faces"


class _Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args, facts, **options):
        self.facts = facts
        super().__init__(*args, **options)

    def do_GET(self):
        self.facts.paths.append(self.path)
        self.facts.before()
        status = self.facts.answers.get(self.path.rpartition("/")[2], 200)
        if callable(status):
            status = status()
        if status == "damaged":
            data = bytearray(Path(self.translate_path(self.path)).read_bytes())
            data[len(data) // 2] ^= 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        elif status == 200:
            super().do_GET()
        else:
            self.send_error(status)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(folder):
    """``url`` of the shards; ``answers`` {file name: status, "damaged" or a function that gives one}; ``paths`` requested."""
    facts = SimpleNamespace(paths=[], answers={}, before=lambda: None)
    handler = functools.partial(_Handler, directory=str(folder.parent), facts=facts)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        facts.url = f"http://127.0.0.1:{web.server_port}/{folder.name}"
        yield facts
        web.shutdown()


@pytest.fixture
def no_waiting(monkeypatch):
    """Retries follow each other at once."""
    monkeypatch.setattr(remote, "RETRY_WAITS_S", (0.0, 0.001, 0.002))
