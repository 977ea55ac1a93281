"""Prefetching on CUDA: the next batch is copied and augmented on a side stream."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["prefetch", "prefetch_on_stream"]

Item = TypeVar("Item")


def prefetch_on_stream(batches: Iterable[Item], device: torch.device) -> Iterable[Item]:
    """The same batches; on CUDA each is prepared while the one before it is worked on.

    On CPUs the step and the preparation would share the same cores, so nothing is prepared ahead.
    """
    if device.type != "cuda":
        return batches
    side = torch.cuda.Stream(device)

    def aside() -> contextlib.AbstractContextManager[Any]:
        # what the batch is made from may just have been written
        side.wait_stream(torch.cuda.current_stream(device))
        return torch.cuda.stream(side)

    def record_stream(batch: Item) -> None:
        current = torch.cuda.current_stream(device)
        # The step must not read the batch before the side stream has written it.
        current.wait_stream(side)
        for value in vars(batch).values():
            if isinstance(value, Tensor) and value.is_cuda:
                # else its memory could be given away while the step still reads it
                value.record_stream(current)

    return _Ahead(batches, aside, record_stream=record_stream)


class _Ahead(Iterable[Item]):
    """Iterable again: an engine makes a new iterator at the start of a run and after the old one has ended."""

    def __init__(
        self,
        batches: Iterable[Item],
        aside: Callable[[], contextlib.AbstractContextManager[Any]],
        *,
        record_stream: Callable[[Item], None],
    ) -> None:
        self.batches, self.aside, self.record_stream = batches, aside, record_stream

    def __iter__(self) -> Iterator[Item]:
        return prefetch(iter(self.batches), self.aside, record_stream=self.record_stream)


def prefetch(
    batches: Iterator[Item],
    aside: Callable[[], contextlib.AbstractContextManager[Any]],
    *,
    record_stream: Callable[[Item], None],
) -> Iterator[Item]:
    """The items in order; the next one is requested, inside ``aside()``, before the one at hand is given out.

    Args:
        record_stream: called with each item just before it is given out.
    """

    def fetch_next() -> list[Item]:
        with aside():
            # Not next(): a StopIteration inside a generator becomes a RuntimeError (PEP 479).
            return list(itertools.islice(batches, 1))

    # One batch ahead is enough: its kernels are queued before the step's, and each further one costs device memory.
    next_items = fetch_next()
    while next_items:
        (item,) = next_items
        # Before the next batch is queued: the step would otherwise wait for that one's kernels too.
        record_stream(item)
        next_items = fetch_next()
        yield item
