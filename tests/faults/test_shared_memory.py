"""Loader processes in a container whose /dev/shm is too small."""

import os
import shutil
import subprocess
import sys

import pytest


def may_mount():
    return (
        bool(shutil.which("unshare"))
        and subprocess.run(
            ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], capture_output=True
        ).returncode
        == 0
    )


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="mounts a folder: Linux, root"
)
def test_loaders_without_shared_memory_are_reported_with_what_to_enlarge(tmp_path, tiny_flags):
    if not may_mount():
        pytest.skip("mounting is not allowed here")
    (tmp_path / "mine.py").write_text("def same(image):\n    return image\n")
    command = " ".join(
        [
            f"mount -t tmpfs -o size=64k tmpfs /dev/shm && exec {sys.executable} -m fer_ignite train",
            *(f"'{flag}'" for flag in tiny_flags),
            "--sample-transform ./mine.py:same --workers 2",
        ]
    )
    ended = subprocess.run(
        ["unshare", "-m", "sh", "-c", command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
    )
    said = ended.stderr.strip().splitlines()[-1]
    assert (
        ended.returncode == 1
        and "/dev/shm" in said
        and "--shm-size" in said
        and "--workers 0" in said
    ), ended.stderr
    assert "Traceback" not in ended.stderr
