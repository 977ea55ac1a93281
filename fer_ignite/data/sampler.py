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

__all__ = ["EpochSampler", "MicroBatch", "ShardOrder", "generator", "rank_slice"]

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
    # A new generator for each key, none that advances: a resume has no state to restore.
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
        epoch: counted from 0.
        step: the window's number in the epoch, counted from 0; each is one optimizer step.
        indices_W: the faces of the whole window, in order.
        start, stop: this micro-batch's positions in the window, over all processes.
        is_first_micro, is_last_micro: whether it is the first, the last micro-batch of its window.
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


# eq=False: == on arrays gives an array, which has no truth value.
@dataclass(frozen=True, eq=False)
class ShardOrder:
    """How an epoch's order stays within few shards at a time.

    Args:
        shards_N: the shard of each of the split's faces.
        window: shards that are mixed with each other at any time, over all streams.
        streams: contiguous parts of every micro-batch, each of which has shards of its own; a process reads the shards of
            its part only.
    """

    shards_N: Indices
    window: int
    streams: int = 1

    @property
    def most_open(self) -> int:
        """The largest number of shards that are needed again later, at any time of an epoch."""
        return self.streams * (max(1, self.window // self.streams) + 1)


@dataclass(frozen=True)
class EpochSampler:
    """The order of one split's faces over a whole run.

    Args:
        shard_order: for faces in shards; None: any order.
        indices_N: the split's faces, as places in the dataset cache.
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
    shard_order: ShardOrder | None = None

    def __hash__(self) -> int:
        # lru_cache below needs a hash, and arrays have none. The cache keeps its plans alive, so no
        # id is used twice.
        return id(self)

    @property
    def micro_size(self) -> int:
        """Faces of a full micro-batch over all processes."""
        return self.batch_size // self.grad_accum_steps

    @property
    def faces_per_epoch(self) -> int:
        """Faces seen in an epoch; less than N only with ``drop_last``."""
        # A split smaller than one batch is kept: dropping it would leave an epoch without a step.
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
        # A short last window has fewer micro-batches; is_last_micro then comes early, and it is
        # stepped too. Ignite's own accumulation counts iterations of the run and would not step it.
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


# Each micro-batch of an epoch needs the same permutation. Several are kept, as batches are
# requested ahead, over the end of an epoch.
@lru_cache(maxsize=4)
def _order(plan: EpochSampler, epoch: int) -> Indices:
    draw = generator(plan.seed, "order", epoch)
    if plan.shard_order is not None:
        return _order_by_shards(plan, plan.shard_order, draw)[: plan.faces_per_epoch]
    if plan.sampler == "shuffle":
        return draw.permutation(plan.indices_N)[: plan.faces_per_epoch]
    # Every class equally often: a class drawn per place, then its members in shuffled rounds, so that none is
    # repeated before all others of its class were seen.
    classes = np.unique(plan.labels_N)
    # np.resize repeats the classes up to that length, so their counts differ by one at most;
    # ndarray.resize would fill up with zeros.
    drawn = draw.permutation(np.resize(classes, plan.faces_per_epoch))
    order = np.empty(plan.faces_per_epoch, dtype=np.int64)
    for label in classes:
        members, places = plan.indices_N[plan.labels_N == label], np.flatnonzero(drawn == label)
        rounds = [draw.permutation(members) for _ in range(-(-len(places) // len(members)))]
        order[places] = np.concatenate(rounds)[: len(places)] if rounds else []
    return order


def _order_by_shards(plan: EpochSampler, by: ShardOrder, draw: np.random.Generator) -> Indices:
    """Shards are dealt to streams in a random order; each micro-batch has an equal part of each stream."""
    shards = draw.permutation(np.unique(by.shards_N))
    rank_of = np.zeros(int(shards.max()) + 1, dtype=np.int64)
    rank_of[shards] = np.arange(len(shards))
    ranks_N = rank_of[by.shards_N]
    parts = []
    for stream in range(by.streams):
        members = np.flatnonzero(ranks_N % by.streams == stream)
        shuffled = _shuffle_in_window(
            ranks_N[members] // by.streams, draw, window=max(1, by.window // by.streams)
        )
        parts.append(plan.indices_N[members[shuffled]])
    # Contiguous parts of each micro-batch: rank_slice gives a process the same streams each time.
    return _interleave(parts, share=plan.micro_size // by.streams)


def _shuffle_in_window(ranks_N: Indices, draw: np.random.Generator, *, window: int) -> Indices:
    """int64 [N]: places in an order that moves through the shards, of which ``window`` are mixed at any time.

    Each face gets a time that is uniform within ``window`` shards around its own; times before the begin or after the end are
    reflected, so that the first and the last faces come from several shards too.

    Args:
        ranks_N: position of each face's shard in the epoch, from 0.
    """
    count = int(ranks_N.max(initial=0)) + 1
    times_N = draw.random(len(ranks_N))
    if window < count:
        times_N = np.abs(ranks_N + 0.5 + window * (times_N - 0.5))
        times_N = np.where(times_N > count, 2 * count - times_N, times_N)
    # Sorted by time and not cut into windows: neighbouring windows overlap, so no batch border lies
    # between two sets of shards.
    return np.argsort(times_N, kind="stable")


def _interleave(parts: list[Indices], *, share: int) -> Indices:
    """Rounds of ``share`` faces of each part; what is left over when the shortest has no more comes at the end, in proportion."""
    rounds = min(len(part) for part in parts) // share
    body = np.stack([part[: rounds * share].reshape(rounds, share) for part in parts], axis=1)
    rest = [part[rounds * share :] for part in parts]
    # Stable below: parts of equal length have equal shares, and numpy's default sort may order ties
    # differently on another processor.
    shares = np.concatenate([(np.arange(len(part)) + 0.5) / max(len(part), 1) for part in rest])
    return np.concatenate(
        [body.reshape(-1), np.concatenate(rest)[np.argsort(shares, kind="stable")]]
    )
