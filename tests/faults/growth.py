"""What a process and the machine hold: memory, descriptors, children, temporary files. Reads Linux's /proc."""

import os
import re
from pathlib import Path

import numpy as np

__all__ = ["children_of", "copied_mb", "leftovers", "resident_mb", "slope_mb"]


def resident_mb(pid: int | str = "self") -> float:
    """Memory of a process that is in the machine's, in MB."""
    return (
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    )


def copied_mb(pid: int) -> float:
    """Memory that a process has written to and so doesn't share, in MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024


def children_of(pid: int) -> list[int]:
    """Living processes that a process's threads have started."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:  # the thread has ended
            continue
    return sorted(found)


def slope_mb(values: list[float]) -> float:
    """Growth per 100 entries, by least squares."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0] * 100)


def leftovers(temporary: Path) -> set[str]:
    """Everything below a folder of temporary files, and shared memory and semaphores of processes that have ended.

    torch's own cache, one folder for all processes of a user, doesn't count.
    """
    shared = {path.name for path in Path("/dev/shm").iterdir()}
    dead = {
        name
        for name in shared
        if (pid := re.search(r"\d{2,}", name)) is None or not Path("/proc", pid[0]).exists()
    }
    below = {path.relative_to(temporary) for path in temporary.rglob("*")}
    files = {str(path) for path in below if not path.parts[0].startswith("torchinductor_")}
    return files | {f"/dev/shm/{name}" for name in dead}
