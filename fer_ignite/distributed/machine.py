"""CPUs, GPUs and memory of the machine; number of threads; allocator settings."""

import ctypes
import os
import platform
import sys
from typing import Any

from fer_ignite.data.cache.pool import usable_cores, usable_memory
from fer_ignite.distributed.resolve import Machine

__all__ = [
    "configure_process",
    "describe_device",
    "describe_processor",
    "detect_machine",
    "keep_freed_memory",
]

# Parameters of mallopt(3), from glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER, _PAD_BYTES = 2**31 - 1, 64 * 2**20


def detect_machine() -> Machine:
    """The cores that this process may use and the devices that it can see; starts no CUDA context."""
    import torch

    return Machine(
        usable_cores(),
        torch.cuda.device_count(),
        has_mps=torch.backends.mps.is_available(),
        system=sys.platform,
    )


def describe_device(device: Any) -> str:
    """The name of the processor or GPU, its cores and its memory.

    Args:
        device: a torch.device.
    """
    import torch

    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return "Apple GPU" if device.type == "mps" else describe_processor()


def describe_processor() -> str:
    """The processor's name, the cores that this process may use, and the memory."""
    return ", ".join([_processor(), f"{usable_cores()} cores", *_memory()])


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2] for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return " ".join((names[0] if names else platform.processor() or platform.machine()).split())


def _memory() -> list[str]:
    size = usable_memory()
    return [] if size is None else [f"{size / 2**30:.0f} GiB memory"]


def configure_process(threads: int) -> None:
    """Set up this process for computing with ``threads`` threads."""
    import torch

    torch.set_num_threads(threads)
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Make the allocator keep freed memory; returns whether it could be set.

    A training step frees and allocates the same large blocks again and again. By default glibc gives each back to the
    system, which then fills every page with zeros again: a tenth to a quarter of a step on two cores
    (docs/performance.md). Nothing is changed where the user has set the allocator up, or on another C library.

    Source: mallopt(3); ``M_MMAP_MAX`` 0 because ``M_MMAP_THRESHOLD`` can't be raised above 32 MiB.
    """
    if not sys.platform.startswith("linux"):
        return False
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # A list, not a generator: all three are set, also after one that fails.
    return all(
        [mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, _NEVER), mallopt(_TOP_PAD, _PAD_BYTES)]
    )
