import errno
import os

import pytest

from fer_ignite.checkpoint import remote_files
from fer_ignite.checkpoint.paths import resolve_checkpoint
from fer_ignite.checkpoint.remote_files import (
    local_checkpoint,
    send_test_access,
    source_of_download,
)
from fer_ignite.checkpoint.run_dir import RunDir
from fer_ignite.errors import CheckpointError, ConfigError
from fer_ignite.stores.store import Store


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_IGNITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_files, "_NOTE_WAIT_S", 0.01)
    local_checkpoint.cache_clear()
    yield
    local_checkpoint.cache_clear()


def stored(tmp_path, name):
    """A run in a store; its checkpoints are only copied here."""
    store = Store(f"file://{tmp_path}/bucket/runs/{name}")
    store.write("config.yaml", b"{}")
    store.write("run_id.json", b'{"run": "1"}')
    for name in ("step-5.pt", "last.pt", "best.pt"):
        store.write(f"checkpoints/{name}", name.encode())
    return store


@pytest.fixture
def run(tmp_path):
    return stored(tmp_path, "good")


def again(url):
    """As another process finds it."""
    local_checkpoint.cache_clear()
    return resolve_checkpoint(url)


def test_a_run_s_name_may_hold_a_dot(tmp_path):
    run = stored(tmp_path, "lr-0.05")
    best = again(run.url)
    assert best.read_bytes() == b"best.pt"
    assert [file.name for file in best.parent.iterdir()] == ["best.pt"]  # not the whole folder
    assert source_of_download(best.parents[1]) == run.url
    assert again(f"{run.url}/checkpoints/step-5.pt").read_bytes() == b"step-5.pt"


def test_a_checkpoint_that_the_stored_run_no_longer_has_is_not_used(run):
    assert again(run.url).name == "best.pt"
    run.remove("checkpoints/best.pt")  # the run was started again, and has saved no best one yet
    run.write("checkpoints/last.pt", b"new last")
    assert again(run.url).read_bytes() == b"new last"


def test_of_resume_points_alone_the_newest_is_taken(run):
    for name in ("best.pt", "last.pt"):
        run.remove(f"checkpoints/{name}")
    for name in ("step-12.pt", "step-30.pt", "step-100.pt", "step-99.pt", "step-later-on.pt"):
        run.write(f"checkpoints/{name}", name.encode())
    assert again(run.url).read_bytes() == b"step-100.pt"


def test_checkpoints_of_earlier_downloads_stay_while_the_store_has_them(run):
    step = again(f"{run.url}/checkpoints/step-5.pt")
    assert again(run.url).name == "best.pt" and step.exists()
    run.write("checkpoints/step-5.pt", b"another")
    assert again(run.url).name == "best.pt" and not step.exists()


def test_a_copy_that_was_cut_short_is_downloaded_again(run):
    file = again(run.url)
    file.write_bytes(b"be")
    assert again(run.url).read_bytes() == b"best.pt"


def test_a_download_that_breaks_off_leaves_the_old_file(run, monkeypatch):
    file = again(run.url)
    run.write("checkpoints/best.pt", b"newer than before")

    def cut(self, names, folder):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"new")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "download", cut)
        with pytest.raises(CheckpointError, match=r"best.pt arrived with 3 of 17 bytes"):
            again(run.url)
    assert file.read_bytes() == b"best.pt"
    assert not [path for path in file.parents[1].iterdir() if path.name.startswith(".down")]
    assert again(run.url).read_bytes() == b"newer than before"


def test_a_full_disk_is_said_as_that(run, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Store, "download", full)
    for url in (run.url, f"{run.url}/config.onnx"):
        Store(run.url).write("config.onnx", b"1")
        with pytest.raises(ConfigError, match=r"No space left.*make room or set FER_IGNITE_CACHE"):
            again(url)


def test_looks_at_test_of_other_machines_stay_in_the_store(run):
    folder = RunDir(again(run.url).parents[1])
    run.write("test_access.jsonl", b'{"by": "other"}\n')
    folder.log_test_access({"by": "mine"})
    send_test_access(folder)
    assert run.read("test_access.jsonl") == b'{"by": "mine"}\n{"by": "other"}\n'
    assert again(run.url) and folder.test_evaluations() == 2


def test_a_look_at_test_that_another_process_overwrote_is_uploaded_again(run, monkeypatch):
    folder = RunDir(again(run.url).parents[1])
    folder.log_test_access({"by": "mine"})
    upload, done = Store.upload, []

    def overtaken(self, file, name):
        upload(self, file, name)
        if not done:
            self.write(name, b'{"by": "other"}\n')
        done.append(name)

    monkeypatch.setattr(Store, "upload", overtaken)
    send_test_access(folder)
    assert sorted(run.read("test_access.jsonl").splitlines()) == [
        b'{"by": "mine"}',
        b'{"by": "other"}',
    ]


def test_a_look_at_test_that_could_not_be_uploaded_is_kept_and_uploaded_with_the_next(
    run, monkeypatch
):
    folder = RunDir(again(run.url).parents[1])
    folder.log_test_access({"n": 1})  # the store was away
    run.write("test_access.jsonl", b'{"n": 2}\n')
    again(run.url)
    folder.log_test_access({"n": 3})
    send_test_access(folder)
    assert len(run.read("test_access.jsonl").splitlines()) == 3
