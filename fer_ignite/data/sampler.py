"""Batch order as a pure function of seed and iteration, and each rank's slice of it.

Nothing here has state to save. An epoch is cut into *windows* of ``batch_size`` faces (one optimizer step each, over all
processes), a window into ``grad_accum_steps`` *micro-batches* (one engine iteration each), a micro-batch into one slice
per process.
"""

# Dimensions: N faces of the split, W faces of a window, B faces of a process's slice.

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["EpochSampler", "MicroBatch", "generator", "rank_slice"]

Indices = NDArray[np.int64]

# Streams of random numbers that must not touch each other; the values are part of every run's identity.
_PURPOSES = {
    "order": 1,
    "augment": 2,
    "model": 3,
    "sample": 4,
    "split": 5,
    "limit": 6,
    "bootstrap": 7,
    "batch": 8,
}


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """Random numbers as a pure function of (seed, purpose, counters).

    Source: Philox is counter-based (Salmon et al., 2011); SeedSequence mixes the entropy into its key.
    """
    return np.random.Generator(
        np.random.Philox(np.random.SeedSequence([seed, _PURPOSES[purpose], *counters]))
    )


def rank_slice(count: int, rank: int, *, world: int) -> tuple[int, int]:
    """Start and stop of process ``rank``'s share of ``count``: sizes differ by one at most, and may be 0."""
    size, rest = divmod(count, world)
    start = rank * size + min(rank, rest)
    return start, start + size + (rank < rest)


@dataclass(frozen=True)
class MicroBatch:
    """One engine iteration, as all processes see it.

    Attributes:
        epoch, window: counted from 0.
        indices_W: the faces of the whole window, in order.
        start, stop: this micro-batch's positions in the window, over all processes.
        opens, closes: whether it is the first, the last micro-batch of its window.
    """

    epoch: int
    step: int
    indices_W: Indices
    start: int
    stop: int
    is_first_micro: bool
    is_last_micro: bool

    def positions(self, rank: int, world: int) -> Indices:
        """int64 [B]: the window positions that process ``rank`` of ``world`` takes; may be empty."""
        first, last = rank_slice(self.stop - self.start, rank, world=world)
        return np.arange(self.start + first, self.start + last)


@dataclass(frozen=True)
class EpochSampler:
    """The order of one split's faces over a whole run.

    Args:
        indices_N: the split's faces, as places in the pack.
        labels_N: their labels; read by the balanced sampler only.
        batch_size: faces per window.
        grad_accum_steps: micro-batches per full window; divides ``batch_size``.
    """

    indices_N: Indices
    labels_N: Indices
    seed: int
    batch_size: int
    grad_accum_steps: int = 1
    drop_last: bool = False
    sampler: Literal["shuffle", "balanced"] = "shuffle"

    def __hash__(self) -> int:
        return id(self)

    @property
    def micro_size(self) -> int:
        """Faces of a full micro-batch over all processes."""
        return self.batch_size // self.grad_accum_steps

    @property
    def faces_per_epoch(self) -> int:
        """Faces seen in an epoch; less than N only with ``drop_last``."""
        count = len(self.indices_N)
        return (
            count - count % self.batch_size if self.drop_last and count > self.batch_size else count
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch, a short last one included."""
        return -(-self.faces_per_epoch // self.batch_size)

    @property
    def iterations_per_epoch(self) -> int:
        """Micro-batches in an epoch: the engine's ``epoch_length``."""
        return -(-self.faces_per_epoch // self.micro_size)

    def order(self, epoch: int) -> Indices:
        """int64 [faces_per_epoch]: the faces of epoch ``epoch`` (from 0), in order."""
        return _order(self, epoch)

    def micro_batch(self, iteration: int) -> MicroBatch:
        """Micro-batch number ``iteration``, counted from 0 over the whole run."""
        epoch, step = divmod(iteration, self.iterations_per_epoch)
        window, part = divmod(step, self.grad_accum_steps)
        indices_W = self.order(epoch)[window * self.batch_size : (window + 1) * self.batch_size]
        start = part * self.micro_size
        stop = min(start + self.micro_size, len(indices_W))
        return MicroBatch(
            epoch,
            window,
            indices_W,
            start,
            stop,
            is_first_micro=part == 0,
            is_last_micro=stop == len(indices_W),
        )


@lru_cache(maxsize=4)
def _order(plan: EpochSampler, epoch: int) -> Indices:
    draw = generator(plan.seed, "order", epoch)
    if plan.sampler == "shuffle":
        return draw.permutation(plan.indices_N)[: plan.faces_per_epoch]
    # Every class equally often: a class drawn per place, then its members in shuffled rounds, so that none is
    # repeated before all others of its class were seen.
    classes = np.unique(plan.labels_N)
    drawn = draw.permutation(np.resize(classes, plan.faces_per_epoch))
    order = np.empty(plan.faces_per_epoch, dtype=np.int64)
    for label in classes:
        members, places = plan.indices_N[plan.labels_N == label], np.flatnonzero(drawn == label)
        rounds = [draw.permutation(members) for _ in range(-(-len(places) // len(members)))]
        order[places] = np.concatenate(rounds)[: len(places)] if rounds else []
    return order
