import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fer_ignite.checkpoint.remote_files import local_checkpoint
from fer_ignite.stores.download import fetch, url_label
from fer_ignite.stores.store import Store, StoreProblem, _entry, file_name, last_part, parent_url


@pytest.fixture
def url(tmp_path):
    store = Store(f"file://{tmp_path}/store")
    store.write("faces.csv", b"emotion,pixels\n")
    store.write("faces/angry/a.png", b"a")
    store.write("faces/happy/b.png", b"bb")
    return store.url


def test_an_object_becomes_a_file_and_a_prefix_a_folder(url, tmp_path):
    file = fetch(f"{url}/faces.csv", folder=tmp_path / "cache")
    assert file.name == "faces.csv" and file.read_bytes() == b"emotion,pixels\n"
    folder = fetch(f"{url}/faces", folder=tmp_path / "cache")
    assert folder.name == "faces" and (folder / "happy" / "b.png").read_bytes() == b"bb"
    assert fetch(f"{url}/faces/", folder=tmp_path / "cache").name == "faces"


def test_the_same_content_is_downloaded_once_and_changed_content_again(url, tmp_path, capsys):
    first = fetch(f"{url}/faces", folder=tmp_path / "cache")
    assert fetch(f"{url}/faces", folder=tmp_path / "cache") == first
    assert capsys.readouterr().err.count("downloaded") == 1
    Store(url).write("faces/happy/b.png", b"new")
    second = fetch(f"{url}/faces", folder=tmp_path / "cache")
    assert second != first and (second / "happy" / "b.png").read_bytes() == b"new"
    assert capsys.readouterr().err.count("downloaded") == 1


def test_of_several_at_once_one_downloads(url, tmp_path, capsys):
    found = []
    threads = [
        threading.Thread(
            target=lambda: found.append(fetch(f"{url}/faces", folder=tmp_path / "cache"))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1
    said = capsys.readouterr().err
    assert said.count("downloaded") == 1 and "2 objects, 0.0 MB" in said


def test_what_is_not_there_is_refused_and_leaves_nothing(url, tmp_path):
    with pytest.raises(StoreProblem, match=r"nothing: there is no such object, nor any below it"):
        fetch(f"{url}/nothing", folder=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@contextlib.contextmanager
def web_server(content, **headers):
    """The URL of a file on a web server that sends these headers beside it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_changed_file_of_equal_size_is_downloaded_again_from_a_web_server(tmp_path, monkeypatch):
    pytest.importorskip("aiohttp")
    found = []
    for day, content in ((1, b"one"), (2, b"two")):
        date = f"Thu, 0{day} Oct 2020 00:00:00 GMT"
        with web_server(content, Content_Length="3", Last_Modified=date) as port:
            # One URL for both: the port is not chosen.
            monkeypatch.setattr("fer_ignite.stores.download.url_label", lambda url: "same")
            file = fetch(f"http://127.0.0.1:{port}/faces.csv", folder=tmp_path / "cache")
        found.append(file.read_bytes())
    assert found == [b"one", b"two"]


def test_a_file_of_unknown_size_arrives_and_its_copy_is_named_when_used_again(
    tmp_path, capsys, caplog
):
    pytest.importorskip("aiohttp")
    with web_server(b"emotion,pixels\n" * 10_000) as port:  # no Content-Length, no date
        url = f"http://127.0.0.1:{port}/faces.csv"
        file = fetch(url, folder=tmp_path / "cache")
        assert file.stat().st_size == 150_000 and "(0.1 MB)" in capsys.readouterr().err
        assert not caplog.records
        assert fetch(url, folder=tmp_path / "cache") == file
    assert f"remove {file.parent} to download again" in caplog.text


def test_a_signed_address_gives_a_file_with_the_suffix_of_its_path(tmp_path):
    pytest.importorskip("aiohttp")
    with web_server(b"emotion,pixels\n", Content_Length="15", ETag="x") as port:
        url = (
            f"http://127.0.0.1:{port}/a/faces.csv?X-Credential=KEY/2026/s3&X-Signature={'0' * 300}"
        )
        file = fetch(url, folder=tmp_path / "cache", quiet=True)
        assert file.name == "faces.csv" and file.read_bytes() == b"emotion,pixels\n"
        assert fetch(url, folder=tmp_path / "cache", quiet=True) == file


def test_a_signed_address_of_a_checkpoint_is_one_file():
    pytest.importorskip("aiohttp")
    with web_server(b"weights", Content_Length="7", ETag="x") as port:
        file = local_checkpoint(f"http://127.0.0.1:{port}/run/checkpoints/best.pt?Signature=a/b")
    assert file.name == "best.pt" and file.read_bytes() == b"weights"


def test_parts_of_urls():
    signed = "https://host/a/b.zip?key=c/d"
    assert (parent_url(signed), last_part(signed)) == ("https://host/a", "b.zip?key=c/d")
    assert [file_name(url) for url in (signed, "s3://b/who?.csv", "s3://b/a/")] == [
        "b.zip",
        "who?.csv",
        "a",
    ]


def test_a_size_that_the_store_does_not_tell_is_none_and_one_of_zero_is_zero(tmp_path):
    assert _entry({"name": "a", "size": None}).size is None
    assert _entry({"name": "a", "size": 0, "Last-Modified": "x"}) == (0, "x")


def test_labels_of_urls_are_names_of_folders_and_differ():
    labels = {url_label(url) for url in ("s3://b/x y", "s3://b/x-y", "s3://b/" + 200 * "n")}
    assert len(labels) == 3
    assert all("/" not in label and len(label) < 80 for label in labels)
