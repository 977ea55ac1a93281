import errno
import os
import re
import sys
from pathlib import Path

import pytest

from fer_ignite.errors import ConfigError
from fer_ignite.imports import install_extra
from fer_ignite.stores.store import (
    Store,
    StoreProblem,
    is_url,
    join_url,
    last_part,
    parent_url,
    require_store_library,
)


@pytest.fixture(params=["file", "memory"])
def store(request, tmp_path):
    """A store without a server; the s3 ones are in tests/runs and tests/faults."""
    base = tmp_path / "store" if request.param == "file" else f"/{tmp_path.name}"
    return Store(f"{request.param}://{base}")


def test_a_url_is_told_from_paths_and_other_sources():
    assert is_url("s3://bucket/runs") and is_url("gs://b") and is_url("file:///tmp")
    for text in ("runs", "/tmp/s3", "kaggle:a/b", "demo:100", "module:Class", "./a.py:f", None):
        assert not is_url(text)
    assert join_url("s3://b/runs/", "x", "y.pt") == "s3://b/runs/x/y.pt"
    assert parent_url("s3://b/runs/x") == "s3://b/runs" and last_part("s3://b/runs/x/") == "x"


def test_objects_are_listed_by_their_names_and_removed(store, tmp_path):
    assert store.entries() == {} and store.folders() == [] and store.read("a") is None
    store.write("a.txt", b"one")
    file = tmp_path / "local"
    file.write_bytes(b"12345")
    store.upload(file, "checkpoints/step-5.pt")
    store.copy("checkpoints/step-5.pt", "checkpoints/last.pt")
    found = store.entries()
    assert {name: entry.size for name, entry in found.items()} == {
        "a.txt": 3,
        "checkpoints/step-5.pt": 5,
        "checkpoints/last.pt": 5,
    }
    assert store.folders() == ["checkpoints"]
    assert store.entry("a.txt").size == 3 and store.entry("b") is None
    store.remove("a.txt")
    store.remove("a.txt")  # gone already
    assert store.read("a.txt") is None and store.read("checkpoints/last.pt") == b"12345"


def test_an_object_is_created_once(store):
    store.write("lease", b"one", create=True)
    with pytest.raises(FileExistsError):
        store.write("lease", b"two", create=True)
    assert store.read("lease") == b"one"
    store.write("lease", b"two")
    assert store.read("lease") == b"two"


def test_a_changed_object_has_another_mark(store):
    store.write("a", b"one")
    before = store.entry("a")
    store.write("a", b"two")
    assert store.entry("a") != before


def test_downloads_land_below_the_folder_and_nowhere_else(store, tmp_path):
    store.write("x/a", b"one")
    store.write("x/b/c", b"two")
    store.download(["x/a", "x/b/c"], tmp_path / "here")
    assert (tmp_path / "here/x/a").read_bytes() == b"one"
    assert (tmp_path / "here/x/b/c").read_bytes() == b"two"
    with pytest.raises(StoreProblem, match="leads out of its folder"):
        store.download(["../out"], tmp_path / "here")


def test_an_interrupted_upload_leaves_the_old_object(tmp_path, monkeypatch):
    """On a store whose writes are not atomic; s3's are."""
    store = Store(f"file://{tmp_path}/store")
    store.write("best.pt", b"old")
    (tmp_path / "new").write_bytes(b"new")

    def broken(*_):
        assert len(store.entries()) == 2  # the whole new file lies beside the old one
        raise OSError("the connection broke")

    with monkeypatch.context() as patched, pytest.raises(StoreProblem, match="connection broke"):
        patched.setattr(store._fs, "mv", broken)
        store.upload(tmp_path / "new", "best.pt")
    assert store.read("best.pt") == b"old" and set(store.entries()) == {"best.pt"}
    store.upload(tmp_path / "new", "best.pt")
    assert store.read("best.pt") == b"new"


def test_a_library_that_is_missing_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)  # Python's own way to say: not installed
    said = f"s3://b/x needs s3fs, which is not installed; install it with: {install_extra('store')}"
    for attempt in (require_store_library, Store):
        with pytest.raises(ConfigError, match=re.escape(said)):
            attempt("s3://b/x")


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ConfigError, match=r"zz://b/x: Protocol not known: zz; name a store as s3"):
        Store("zz://b/x")


def test_a_protocol_whose_library_is_missing_gets_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "paramiko", None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.sftp", raising=False)
    with pytest.raises(
        ConfigError, match=r"sftp://.*paramiko.*install it with: \S+ -m pip install paramiko"
    ):
        Store("sftp://host/runs")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_local_disk_is_no_problem_of_the_store(store, tmp_path, monkeypatch, number):
    def full(*_, **__):
        raise OSError(number, os.strerror(number))

    store.write("a", b"one")
    store.write("b", b"two")
    monkeypatch.setattr(store._fs, "get_file", full)
    monkeypatch.setattr(store._fs, "get", full)
    for names in (["a"], ["a", "b"]):
        with pytest.raises(OSError, match=re.escape(os.strerror(number))):
            store.download(names, tmp_path / "here")
    monkeypatch.setattr(store._fs, "put_file", full)  # the disk behind the store
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(StoreProblem, match="can't be reached"):
        store.upload(tmp_path / "file", "c")


def test_a_local_file_that_can_t_be_opened_is_no_problem_of_the_store(tmp_path, monkeypatch):
    store = Store(f"file://{tmp_path}/store")
    store.write("a", b"one")
    with pytest.raises(FileNotFoundError):
        store.upload(tmp_path / "gone", "b")
    (tmp_path / "here" / "a").mkdir(parents=True)
    with monkeypatch.context() as patched, pytest.raises(IsADirectoryError):
        patched.setattr(store._fs, "get_file", lambda _, target: Path(target).write_bytes(b""))
        store.download_file("a", tmp_path / "here" / "a")
    with pytest.raises(StoreProblem) as caught:
        store.download_file("gone", tmp_path / "here" / "b")
    assert caught.value.kind == "missing"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PermissionError("Access Denied"), "denied"),
        (ValueError("bad name"), "invalid"),
        (OSError(errno.EIO, "reset"), "away"),
        (FileNotFoundError("x"), "missing"),
    ],
)
def test_a_problem_says_whether_another_try_may_help(store, monkeypatch, error, kind):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(store._fs, "find", refuse)
    with pytest.raises(StoreProblem) as caught:
        store.entries()
    assert caught.value.kind == kind and str(error) in caught.value.reason
    assert ("check the network" in str(caught.value)) == (kind == "away")


@pytest.mark.parametrize("url", ["s3://", "s3:///", "gs:///"])
def test_a_url_without_a_bucket_is_one_sentence(url):
    with pytest.raises(ConfigError, match="no bucket is named; name a store as"):
        Store(url)
