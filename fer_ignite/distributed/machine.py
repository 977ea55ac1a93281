"""CPUs, GPUs and memory of the machine; number of threads; allocator settings."""

import ctypes
import os
import sys

from fer_ignite.distributed.resolve import Machine

__all__ = ["keep_freed_memory", "this_machine", "use_machine"]

# Parameters of mallopt(3), from glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER, _PAD_BYTES = 2**31 - 1, 64 * 2**20


def this_machine() -> Machine:
    """The cores that this process may use and the devices that it can see; starts no CUDA context."""
    import torch

    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return Machine(
        cores,
        torch.cuda.device_count(),
        has_mps=torch.backends.mps.is_available(),
        system=sys.platform,
    )


def use_machine(threads: int) -> None:
    """Set up this process for computing with ``threads`` threads."""
    import torch

    torch.set_num_threads(threads)
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Have the allocator keep what is freed; whether it could be asked.

    A training step frees and asks for the same large blocks again and again. By default glibc gives each back to the
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
    return all(
        [mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, _NEVER), mallopt(_TOP_PAD, _PAD_BYTES)]
    )
