"""CPU collectives (gloo).

Object collectives unpickle what others send, so a text travels as bytes in a uint8 tensor.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

__all__ = ["agree_on_text", "cpu_group", "patient_group", "take_over", "wait_for_all"]

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
    default = dist.group.WORLD
    assert default is not None
    if dist.get_backend(default) == "gloo":
        return default
    if default not in _made:
        _made.clear()
        timeout = None if timeout_s is None else timedelta(seconds=timeout_s)
        made = dist.new_group(backend="gloo", timeout=timeout)
        assert isinstance(made, ProcessGroup)  # all ranks are members
        _made[default] = made
    return _made[default]


@contextmanager
def patient_group() -> Iterator[ProcessGroup | None]:
    """A gloo group over all processes whose operations wait for a day; None for a single process.

    A process that dies is noticed at once all the same: its connections end.
    """
    if not dist.is_initialized():
        yield None
        return
    group = dist.new_group(backend="gloo", timeout=timedelta(days=1))
    assert isinstance(group, ProcessGroup)  # all ranks are members
    try:
        yield group
    finally:
        dist.destroy_process_group(group)


def wait_for_all() -> None:
    """Return when all processes have called this."""
    group = cpu_group()
    if group is not None:
        dist.all_reduce(torch.zeros(1), group=group)


def take_over(tensors: Iterable[Tensor]) -> None:
    """Give every process the values of the first one's tensors, in place; nothing for a single process.

    Args:
        tensors: the same in number, shape and type everywhere, on any device.
    """
    group = cpu_group()
    for tensor in tensors if group is not None else ():
        sent = tensor.detach().cpu().contiguous()
        dist.broadcast(sent, src=0, group=group)
        tensor.detach().copy_(sent)


def agree_on_text(text: str | None) -> str | None:
    """Tell every process the text of the lowest rank that has one.

    Args:
        text: this process's own, None if it has nothing to say.
    Returns:
        the same on every process; None if no process had a text.
    """
    group = cpu_group()
    if group is None:
        return text
    data = None if text is None else text.encode("utf-8", errors="backslashreplace")
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(lengths, torch.tensor([-1 if data is None else len(data)]), group=group)
    speaker = next((rank for rank, length in enumerate(lengths) if length.item() >= 0), None)
    if speaker is None:
        return None
    # One byte more than the text, because an empty tensor can't be sent.
    message = torch.zeros(int(lengths[speaker].item()) + 1, dtype=torch.uint8)
    if dist.get_rank(group) == speaker and data:
        message[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    dist.broadcast(message, src=speaker, group=group)
    return bytes(message[:-1].tolist()).decode("utf-8")
