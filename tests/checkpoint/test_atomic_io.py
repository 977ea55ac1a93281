import contextlib
import errno
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

import fer_ignite
from fer_ignite.checkpoint.atomic_io import (
    clean_temporary,
    is_special_file,
    publish_alias,
    shown,
    storage_errors,
    write_durably,
    write_json_durably,
    write_output,
    write_text_durably,
)
from fer_ignite.checkpoint.failpoints import SAVE_POINTS
from fer_ignite.errors import StorageError


def test_bytes_functions_text_and_json_are_written(tmp_path: Path):
    write_durably(tmp_path / "a", b"bytes")
    write_durably(tmp_path / "b", lambda file: file.write(b"function"))
    write_text_durably(tmp_path / "c", "süß")
    write_json_durably(tmp_path / "d", {"text": "ü\udcff", "n": 1})
    assert (tmp_path / "a").read_bytes() == b"bytes"
    assert (tmp_path / "b").read_bytes() == b"function"
    assert (tmp_path / "c").read_text(encoding="utf-8") == "süß"
    assert json.loads((tmp_path / "d").read_bytes()) == {"text": "ü\udcff", "n": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "d"]


def test_a_failure_in_the_middle_keeps_the_old_file_and_leaves_no_other(tmp_path: Path):
    def half(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "kept"
    write_durably(path, b"old")
    with pytest.raises(StorageError, match="No space left on device") as caught:
        write_durably(path, half)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_an_error_that_is_not_the_disk_s_passes_unchanged(tmp_path: Path):
    with pytest.raises(ZeroDivisionError):
        write_durably(tmp_path / "x", lambda file: 1 // 0)
    assert list(tmp_path.iterdir()) == []


def test_the_points_are_passed_in_order(tmp_path: Path):
    passed: list[str] = []
    write_durably(tmp_path / "x", b"", reached=passed.append)
    assert passed == [point for point in SAVE_POINTS if point in passed]
    assert passed == ["before-open", "after-write", "after-fsync", "after-rename", "after-dirsync"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_mode_follows_the_umask(tmp_path: Path, umask: int, mode: int):
    with masked(umask):
        write_durably(tmp_path / "x", b"")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode


@contextlib.contextmanager
def masked(umask: int) -> Iterator[None]:
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)


def test_folders_devices_and_missing_parents_are_refused(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "out").symlink_to("/dev/null")
    for name, words in [
        ("folder", "Is a directory"),
        ("fifo", "Is not a file"),
        ("out", "Is not a file"),
        ("none/x", "No such file"),
        ("fifo/x", "Not a directory"),
    ]:
        with pytest.raises(StorageError, match=words):
            write_durably(tmp_path / name, b"")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo", "folder", "out"]


def test_a_named_file_is_replaced_and_behind_a_link_the_file_that_it_names(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/real")
    for text in ("new", "ü\udcff"):
        write_output(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "folder" / "real").read_bytes() == text.encode(
            "utf-8", "surrogateescape"
        )
    before = (tmp_path / "folder" / "real").stat().st_ino
    with pytest.raises(ZeroDivisionError):
        write_output(tmp_path / "link", lambda file: file.write(b"half") // 0)
    assert (tmp_path / "folder" / "real").stat().st_ino == before
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["real"]
    with pytest.raises(StorageError, match="Is a directory"):
        write_output(tmp_path / "folder", b"")


def test_a_named_pipe_gets_the_bytes_and_stays(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "link").read_bytes()))
    reader.start()
    # A format that seeks, as zip and TIFF do.
    write_output(
        tmp_path / "link", lambda file: (file.write(b"xbc"), file.seek(0), file.write(b"a"))
    )
    reader.join()
    assert got == [b"abc"] and (tmp_path / "link").is_symlink()
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)


def test_a_link_to_a_device_stays_and_a_full_one_is_a_sentence(tmp_path: Path):
    for name in ("null", "full"):
        (tmp_path / name).symlink_to(f"/dev/{name}")
    write_output(tmp_path / "null", b"1")
    with pytest.raises(StorageError, match=r"full can't be written: No space left.*hold a part"):
        write_output(tmp_path / "full", b"1")
    assert all(path.is_symlink() for path in tmp_path.iterdir())


def test_a_descriptor_of_a_file_is_written_where_it_stands_and_never_replaced(tmp_path: Path):
    with (tmp_path / "log").open("wb", buffering=0) as log:
        log.write(b"rows\n")
        (tmp_path / "stdout").symlink_to(f"/dev/fd/{log.fileno()}")
        (tmp_path / "link").symlink_to("stdout")
        write_output(tmp_path / "link", b"csv\n")
        log.write(b"more\n")
        assert is_special_file(tmp_path / "link") and not is_special_file(tmp_path / "log")
        with pytest.raises(StorageError, match="Is not a file"):
            write_durably(tmp_path / "stdout", b"")
    assert (tmp_path / "log").read_bytes() == b"rows\ncsv\nmore\n"
    assert (tmp_path / "stdout").is_symlink() and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EACCES, errno.ENOSPC])
def test_a_file_that_can_be_written_but_not_replaced_is_written_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    """As a file that is mounted by itself (EBUSY), or one in another user's folder (EACCES); a full disk keeps the old."""

    def refuse(source: object, target: object) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "x").write_bytes(b"old and longer")
    monkeypatch.setattr(os, "replace", refuse)
    if number == errno.ENOSPC:
        with pytest.raises(StorageError, match="No space"):
            write_output(tmp_path / "x", b"new")
    else:
        write_output(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == (
        b"old and longer" if number == errno.ENOSPC else b"new"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    with pytest.raises(StorageError):
        write_output(tmp_path / "absent", b"new")


def test_only_our_own_leftovers_are_cleaned(tmp_path: Path):
    for name in (".fer-0123abcd.tmp", ".fer-x.tmp", "notes.tmp", ".hidden", "step-1.pt"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in clean_temporary(tmp_path)] == [".fer-0123abcd.tmp"]
    assert len(list(tmp_path.iterdir())) == 4
    assert clean_temporary(tmp_path / "none") == []


def test_a_temporary_left_by_a_kill_is_one_that_cleaning_finds(tmp_path: Path):
    seen: set[str] = set()
    write_durably(tmp_path / "x", b"", reached=lambda _: seen.update(os.listdir(tmp_path)))
    (leftover,) = seen - {"x"}
    (tmp_path / leftover).write_bytes(b"")
    assert [removed.name for removed in clean_temporary(tmp_path)] == [leftover]


def test_an_alias_is_the_same_file_and_replaces_the_old_one(tmp_path: Path):
    for content in (b"1", b"2"):
        write_durably(tmp_path / "step", content)
        publish_alias(tmp_path / "step", tmp_path / "last")
        assert (tmp_path / "last").samefile(tmp_path / "step")
    publish_alias(tmp_path / "step", tmp_path / "last")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "step"]


def test_an_alias_on_another_file_system_is_a_copy(tmp_path: Path):
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    source = other / f"fer-test-{os.getpid()}"
    source.write_bytes(b"content")
    try:
        publish_alias(source, tmp_path / "last")
    finally:
        source.unlink()
    assert (tmp_path / "last").read_bytes() == b"content" and len(list(tmp_path.iterdir())) == 1


def test_a_path_is_shown_in_one_printable_line():
    assert shown("a b/ü") == "a b/ü"
    assert shown("a\nb") == "'a\\nb'"
    assert shown(os.fsdecode(b"\xff")) == "'\\udcff'"


def test_an_error_without_a_system_text_still_says_something():
    with pytest.raises(StorageError, match="odd"), storage_errors("x"):
        raise OSError("odd")


def test_storage_needs_no_torch():
    code = "import sys, fer_ignite.checkpoint.atomic_io, fer_ignite.checkpoint.run_lock, fer_ignite.checkpoint.failpoints; assert 'torch' not in sys.modules"
    root = str(Path(fer_ignite.__path__[0]).parent)
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": root}, check=True)
