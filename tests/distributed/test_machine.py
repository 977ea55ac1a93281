"""Freed memory stays with the process, unless its user has set the allocator up."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK_BYTES, ROUNDS, PAGE_BYTES = 48 * 2**20, 8, 4096
PAGES = BLOCK_BYTES // PAGE_BYTES

# Allocates a block, writes to each of its pages and frees it, as a training step does; prints what it did to the pages.
CODE = f"""
import ctypes, resource, sys
from fer_ignite.distributed.machine import keep_freed_memory, configure_process
kept = {{"keep": keep_freed_memory, "use": lambda: configure_process(1), "leave": lambda: None}}[sys.argv[1]]()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    block = libc.malloc({BLOCK_BYTES})
    ctypes.memset(block, 1, {BLOCK_BYTES})
    libc.free(block)
use()
before = faults()
for _ in range({ROUNDS}):
    use()
print(kept, faults() - before)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is glibc's")


def page_faults(how: str, **environment: str) -> tuple[str, int]:
    """What keep_freed_memory said in a new process, and the pages that the system had to fill after the first round."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if name != "GLIBC_TUNABLES" and not name.startswith("MALLOC_")
    }
    command = [sys.executable, "-c", CODE, how]
    done = subprocess.run(
        command,
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, count = done.stdout.split()
    return kept, int(count)


@glibc
def test_a_freed_block_costs_no_page_a_second_time():
    kept, faults = page_faults("keep")
    assert kept == "True"
    assert faults < PAGES // 10  # of the 8 rounds together: a few of the interpreter's own


@glibc
def test_by_default_every_round_pays_for_its_pages_again():
    # Else the test above would show nothing. Large pages may be in use: 2 MiB each, 512 times fewer.
    _, faults = page_faults("leave")
    assert faults >= ROUNDS * PAGES // 512


@pytest.mark.slow
@glibc
@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_what_the_user_has_set_up_is_left_alone(name):
    value = {
        "MALLOC_TRIM_THRESHOLD_": "131072",
        "MALLOC_ARENA_MAX": "2",
        "GLIBC_TUNABLES": "glibc.malloc.check=0",
    }[name]
    kept, faults = page_faults("keep", **{name: value})
    assert kept == "False"
    assert faults >= ROUNDS * PAGES // 512


@pytest.mark.slow
@glibc
def test_the_setting_up_of_a_runs_process_keeps_it():
    _, faults = page_faults("use")
    assert faults < PAGES // 10
