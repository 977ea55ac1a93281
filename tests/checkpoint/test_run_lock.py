import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import fer_ignite
from fer_ignite.checkpoint.run_lock import LOCK_NAME, hold_folder, lock_folder
from fer_ignite.errors import ConfigError, FolderInUseError

HOLD = "import sys, time; from fer_ignite.checkpoint.run_lock import lock_folder; lock = lock_folder(sys.argv[1]); "
# The child says when it runs; a kill between fork and its first instruction is no loader worker's life.
FORK = (
    "import os; r, w = os.pipe(); child = os.fork(); "
    "child or (os.close(1), os.write(w, b'x'), time.sleep(60)); os.read(r, 1); "
)
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(fer_ignite.__path__[0]).parent)}


def holder(folder: Path, more: str = "") -> subprocess.Popen[bytes]:
    """Another process that holds the folder, from its first line of output on."""
    code = HOLD + more + "print(flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], env=ENVIRONMENT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline()
    return process


def test_a_second_run_is_refused_by_name_and_may_start_when_the_first_was_killed(tmp_path: Path):
    first = holder(tmp_path)
    try:
        with pytest.raises(
            FolderInUseError, match=f"process {first.pid} on {socket.gethostname()}"
        ) as caught:
            lock_folder(tmp_path)
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    lock_folder(tmp_path).release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_that_outlives_the_run_does_not_keep_the_folder(tmp_path: Path):
    first = holder(tmp_path, FORK)
    assert first.stdout is not None
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stdout.close()
    try:
        lock_folder(tmp_path).release()
    finally:
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            if str(tmp_path).encode() in process.read_bytes():
                os.kill(int(process.parent.name), signal.SIGKILL)


def test_a_run_that_ended_lets_the_next_one_in(tmp_path: Path):
    with hold_folder(tmp_path) as lock:
        assert lock.warning is None
        with pytest.raises(FolderInUseError, match="an open session of this process"):
            lock_folder(tmp_path)
    with hold_folder(tmp_path):
        pass
    lock.release()
    assert (tmp_path / LOCK_NAME).exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", b'{"pid": "x"}', b"[1]", b"\xff\xfe"])
def test_a_lock_file_that_says_nothing_is_still_a_lock(tmp_path: Path, content: bytes):
    (tmp_path / LOCK_NAME).write_bytes(content)
    with (tmp_path / LOCK_NAME).open("rb") as held:  # not by this package: as another process would
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(FolderInUseError, match="another process"):
            lock_folder(tmp_path)


def test_a_folder_that_is_missing_or_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / LOCK_NAME).symlink_to(tmp_path / "file")
    for name, words in [
        ("none", "No such file"),
        ("file", "Not a directory"),
        ("linked", "symbolic links"),
    ]:
        with pytest.raises(ConfigError, match=words):
            lock_folder(tmp_path / name)


def test_without_file_locks_a_run_starts_with_one_sentence(tmp_path: Path):
    code = (
        "import sys; sys.modules['fcntl'] = None; "
        + HOLD.replace("import sys, time; ", "")
        + "print(lock.warning)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (
        result.stdout.startswith("This system has no file locks") and result.stdout.count("\n") == 1
    )
