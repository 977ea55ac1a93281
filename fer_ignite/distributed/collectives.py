"""CPU collectives (gloo).

Object collectives unpickle what others send; here a text travels as bytes in a uint8 tensor, and is parsed as JSON.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

__all__ = [
    "agree_on_text",
    "barrier",
    "broadcast_tensors",
    "cpu_group",
    "gather_json",
    "gather_rows",
    "long_timeout_group",
]

# The group made for the current default group: {default group: CPU group}.
_made: dict[ProcessGroup, ProcessGroup] = {}


def cpu_group(*, timeout_s: float | None = None) -> ProcessGroup | None:
    """A gloo group over all processes, for votes that the device must not wait for; None for a single process.

    The first call under NCCL makes the group, so all processes must make it together; the launcher does.

    Args:
        timeout_s: of the operations in a group made here; None for torch's default.
    """
    if not dist.is_initialized():
        return None
    # NCCL's collectives run on the device and in its queue; a vote would wait for the step before it.
    default = dist.group.WORLD
    assert default is not None
    if dist.get_backend(default) == "gloo":
        return default
    if default not in _made:
        # A group of an earlier launch in this process is gone, and must not be used under a new default group.
        _made.clear()
        timeout = None if timeout_s is None else timedelta(seconds=timeout_s)
        made = dist.new_group(backend="gloo", timeout=timeout)
        assert isinstance(made, ProcessGroup)  # all ranks are members
        _made[default] = made
    return _made[default]


@contextmanager
def long_timeout_group() -> Iterator[ProcessGroup | None]:
    """A gloo group over all processes whose operations wait for a day; None for a single process.

    A process that dies is noticed at once all the same: its connections end.
    """
    if not dist.is_initialized():
        yield None
        return
    # A run's operations end after --dist-timeout (300 s); building a large dataset cache takes longer.
    group = dist.new_group(backend="gloo", timeout=timedelta(days=1))
    assert isinstance(group, ProcessGroup)  # all ranks are members
    try:
        yield group
    finally:
        dist.destroy_process_group(group)


def barrier() -> None:
    """Return when all processes have called this."""
    group = cpu_group()
    if group is not None:
        dist.all_reduce(torch.zeros(1), group=group)


def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Give every process the values of the first one's tensors, in place; nothing for a single process.

    Args:
        tensors: the same in number, shape and type everywhere, on any device.
    """
    group = cpu_group()
    for tensor in tensors if group is not None else ():
        # gloo sends from host memory, and only contiguous tensors.
        sent = tensor.detach().cpu().contiguous()
        dist.broadcast(sent, src=0, group=group)
        tensor.detach().copy_(sent)


def gather_rows(rows: Tensor, group: ProcessGroup) -> list[Tensor]:
    """Every process's rows in rank order, the same on each; the numbers of rows may differ.

    Args:
        rows: [N, ...] on the CPU, alike in type and in all sizes but the first.
    """
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(counts, torch.tensor([len(rows)]), group=group)
    # all_gather takes tensors of one size, so all are padded to the longest; at least one row, as gloo can't send none.
    most = max(1, *(int(count) for count in counts))
    padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded, group=group)
    return [part[: int(count)] for part, count in zip(parts, counts, strict=True)]


def gather_json(value: Any, group: ProcessGroup | None) -> list[Any]:
    """Every process's ``value`` in rank order; all processes call it.

    Args:
        value: what JSON can hold.
        group: None for a single process.
    """
    if group is None:
        return [value]
    # A bytearray, because torch warns of a buffer that can't be written to.
    mine = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    return [json.loads(bytes(text.tolist())) for text in gather_rows(mine, group)]


def agree_on_text(text: str | None) -> str | None:
    """The text of the lowest rank that has one, on every process; None if no process has one.

    Args:
        text: this process's own, or None.
    """
    group = cpu_group()
    if group is None:
        return text
    # A file's name may hold bytes that are no UTF-8, which a terminal could not print.
    own = None if text is None else text.encode("utf-8", errors="backslashreplace").decode()
    return next((found for found in gather_json(own, group) if found is not None), None)
