"""Train and validation loaders: fetch, augment, normalise and mix batches.

A stream begins at any iteration at no cost, because nothing in it is state: batch i is a function of (seed, i). A
process augments its own slice only; a mix-up partner that lies in another process's slice is read and augmented here
as it is there.
"""

# Dimensions: N faces of a split, B faces of this process's slice, C channels, H W pixels, K expressions.

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fer_ignite.data.augment.geometry import to_device
from fer_ignite.data.augment.mixup import shares
from fer_ignite.data.augment.pipeline import (
    AugmentParams,
    AugmentSpec,
    augment,
    mix,
    mixup_partners,
    normalise,
    resize_center_crop,
    sample_params,
)
from fer_ignite.data.fetchers import Fetcher, IndexBatch
from fer_ignite.data.image_size_schedule import ImageSizeSchedule
from fer_ignite.data.sampler import EpochSampler, MicroBatch, generator
from fer_ignite.errors import ConfigError

__all__ = ["Batch", "EvalBatch", "EvalLoader", "Preprocessing", "Targets", "TrainLoader"]

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Preprocessing:
    """How stored faces become the network's input; travels in every checkpoint.

    Args:
        image_px: side of the input.
        resize_px: side to which faces are resized before the crop to ``image_px``.
        stored_px: side at which single faces are stored; they are never enlarged for it.
        mean, std: per channel, in [0, 1].
        finished_tensors: samples came as float tensors, which are used as they are; how they were made is not known.
    """

    image_px: int
    resize_px: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stored_px: int = 0
    resize_mode: str = "squash"
    finished_tensors: bool = False

    def at_side(self, side_px: int) -> "Preprocessing":
        """The same for inputs of another side; the share that the crop takes stays."""
        if side_px == self.image_px:
            return self
        return replace(
            self, image_px=side_px, resize_px=round(self.resize_px * side_px / self.image_px)
        )

    def plain(self, images: Tensor, *, channels_last: bool = True) -> Tensor:
        """float32 [B, C, image_px, image_px], normalised and not augmented, out of uint8 [B, H, W, C] or float faces."""
        # A user's finished tensors are normalised already; a second normalisation would be silent.
        if images.is_floating_point():
            return images
        images_BCHW = resize_center_crop(images, self.image_px, resize_px=self.resize_px)
        return self.finish(images_BCHW, channels_last=channels_last)

    def finish(self, images_BCHW: Tensor, *, channels_last: bool = True) -> Tensor:
        """Normalised; gray is expanded to the network's channels."""
        # Without channels_last a step on CPU runs at 0.61 of the speed (docs/performance.md).
        images_BCHW = normalise(images_BCHW, self.mean, std=self.std, channels=self.channels)
        return (
            images_BCHW.contiguous(memory_format=torch.channels_last)
            if channels_last
            else images_BCHW
        )

    def unnormalise(self, images_BCHW: Tensor) -> Tensor:
        """Undoes :meth:`finish`'s normalisation: values in [0, 1] again, to be looked at."""
        mean, std = (
            torch.tensor(values, device=images_BCHW.device).view(1, -1, 1, 1)
            for values in (self.mean, self.std)
        )
        return images_BCHW * std + mean


@dataclass
class Batch:
    """A process's slice of one micro-batch.

    An empty slice carries two stand-in faces of weight 0, so that every process takes part in the backward pass.

    Attributes:
        images_BCHW: float32, normalised.
        targets_BK: float32 distributions over the expressions.
        labels_B: int64; a mixed image has the label of its larger part.
        weights_B: float32, in the loss: 1 for a face where --data-weights says nothing else, and 0 for a stand-in.
        count: faces in it, stand-ins not counted.
        micro_count: faces of the micro-batch, over all processes.
        step_size: faces of the whole optimizer step, over all processes.
        is_first_micro, is_last_micro: whether the optimizer step begins, ends with it.
        indices_B: places in the data.
    """

    images_BCHW: Tensor
    targets_BK: Tensor
    weights_B: Tensor
    count: int
    micro_count: int
    step_size: int
    is_first_micro: bool
    is_last_micro: bool
    indices_B: Indices
    labels_B: Tensor


@dataclass
class EvalBatch:
    """A process's share of an evaluation; B may be 0. ``labels_B`` int64, ``targets_BK`` float32."""

    images_BCHW: Tensor
    labels_B: Tensor
    targets_BK: Tensor
    indices_B: Tensor


@dataclass
class Targets:
    """Labels of all faces, as distributions on demand.

    Args:
        labels_N: int64, positions in the class list.
        soft_NK: float32 distributions where the data has votes, else None.
    """

    labels_N: Indices
    num_classes: int
    soft_NK: NDArray[np.float32] | None = None

    def labels(self, indices_B: Indices, device: torch.device) -> Tensor:
        return torch.from_numpy(self.labels_N[indices_B]).to(device, non_blocking=True)

    def distributions(self, indices_B: Indices, device: torch.device) -> Tensor:
        """float32 [B, K]."""
        if self.soft_NK is not None:
            return torch.from_numpy(self.soft_NK[indices_B]).to(device, non_blocking=True)
        one_hot_BK = np.zeros((len(indices_B), self.num_classes), dtype=np.float32)
        one_hot_BK[np.arange(len(indices_B)), self.labels_N[indices_B]] = 1
        return torch.from_numpy(one_hot_BK).to(device, non_blocking=True)


@dataclass
class TrainLoader:
    """Endless batches from the engine's current iteration on; ``len()`` is an epoch's number of batches.

    Args:
        iteration: () -> iterations done so far, called when iteration begins.
        spec: augmentation, or None.
        batch_transform: a user's (images_BCHW, numpy generator) -> images_BCHW, after augmentation, before mixing.
        sizes: the images' side over the run; None: always the network's.
        loss_weights_N: float32, of every face of the data in the loss; None: 1.
    """

    fetcher: Fetcher
    plan: EpochSampler
    targets: Targets
    preprocessing: Preprocessing
    device: torch.device
    spec: AugmentSpec | None = None
    rank: int = 0
    world: int = 1
    iteration: Callable[[], int] = lambda: 0
    batch_transform: Callable[[Tensor, np.random.Generator], Tensor] | None = None
    channels_last: bool = True
    sizes: ImageSizeSchedule | None = None
    loss_weights_N: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return self.plan.iterations_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        # The DataLoader takes requests ahead of the batches, so each part waits in a list until its images come.
        waiting: list[_Part] = []

        def requests() -> Iterator[IndexBatch]:
            # Read late: a resume loads the engine's state after the loader is built. Ignite resumes
            # an epoch with the loader's first batch, so the place is taken from the engine here.
            iteration = self.iteration()
            while True:
                part = self._part(self.plan.micro_batch(iteration))
                waiting.append(part)
                yield part.request
                iteration += 1

        for images in self.fetcher.batches(requests()):
            yield self._batch(waiting.pop(0), images)

    def _part(self, micro: MicroBatch) -> "_Part":
        positions = micro.positions(self.rank, self.world)
        count = len(positions)
        # A rank without images has to run forward and backward too: DistributedDataParallel waits for its gradients.
        # Two images of weight 0, as batch normalisation refuses a single value per channel.
        if not count:
            positions = np.array([micro.start, micro.start], dtype=np.int64)
        drawn = None
        needed = positions
        if self.spec is not None:
            # Drawn for the whole batch on each rank: an image has one augmentation, whichever rank it falls to.
            drawn = sample_params(
                self.spec,
                # By optimizer step: the same with another grad_accum_steps.
                generator(self.plan.seed, "augment", micro.epoch, micro.step),
                count=len(micro.indices_W),
            )
            if self.spec.mixes:
                # A partner in another rank's slice is fetched and augmented here too, after the own images.
                needed = np.concatenate(
                    [positions, np.setdiff1d(mixup_partners(drawn)[positions], positions)]
                )
        # Per-sample transforms are seeded by these positions: a partner is transformed here as in
        # its own process.
        request = IndexBatch(micro.indices_W[needed], micro.epoch, micro.step, needed)
        return _Part(micro, positions, count, needed, drawn, request)

    def _batch(self, part: "_Part", images: Tensor) -> Batch:
        micro, drawn = part.micro, part.drawn
        targets_BK = self.targets.distributions(micro.indices_W[part.needed], self.device)
        # Labels, not the argmax of the targets: of soft votes that may be another class.
        labels_W = self.targets.labels_N[micro.indices_W]
        labels_B = labels_W[part.positions]
        preprocessing = self.preprocessing
        if self.sizes is not None:
            preprocessing = preprocessing.at_side(self.sizes.side_px(self.plan, micro))
        if images.is_floating_point():
            images_BCHW = images
        elif drawn is None or self.spec is None:
            images_BCHW = preprocessing.plain(images, channels_last=self.channels_last)
        else:
            images_BCHW = augment(
                images,
                drawn.take(part.needed),
                spec=self.spec,
                out_px=preprocessing.image_px,
                resize_px=preprocessing.resize_px,
            )
            images_BCHW = preprocessing.finish(images_BCHW, channels_last=self.channels_last)
        if self.batch_transform is not None:
            # By rank: the user's function is called once per slice, so its draws can't be
            # independent of the world size.
            draws = generator(
                self.plan.seed, "batch", micro.epoch, micro.step, micro.start, self.rank
            )
            images_BCHW = self.batch_transform(images_BCHW, draws)
        if drawn is not None and self.spec is not None and self.spec.mixes:
            # Images came in the order of `needed`: places below `own` are this slice's.
            own = len(part.positions)
            places = {int(position): place for place, position in enumerate(part.needed)}
            others = to_device(
                np.array([places[int(p)] for p in mixup_partners(drawn)[part.positions]]),
                self.device,
            )
            own_draws = drawn.take(part.positions)
            images_BCHW, targets_BK = mix(
                images_BCHW[:own],
                images_BCHW[others],
                targets_BK=targets_BK[:own],
                partner_targets_BK=targets_BK[others],
                draws=own_draws,
            )
            partner_is_larger_B = (
                shares(own_draws, (images_BCHW.shape[2], images_BCHW.shape[3])) > 0.5
            )
            labels_B = np.where(partner_is_larger_B, labels_W[mixup_partners(own_draws)], labels_B)
        weights_B = torch.full((len(part.positions),), float(part.count > 0), device=self.device)
        if self.loss_weights_N is not None:
            weights_B *= to_device(
                self.loss_weights_N[micro.indices_W[part.positions]], self.device
            )
        return Batch(
            images_BCHW,
            targets_BK,
            weights_B,
            part.count,
            micro.stop - micro.start,
            len(micro.indices_W),
            micro.is_first_micro,
            micro.is_last_micro,
            micro.indices_W[part.positions][: part.count],
            to_device(labels_B, self.device),
        )


@dataclass(frozen=True)
class _Part:
    """The index batch of one batch: own positions first, then partners that lie elsewhere."""

    micro: MicroBatch
    positions: Indices
    count: int
    needed: Indices
    drawn: AugmentParams | None
    request: IndexBatch


@dataclass
class EvalLoader:
    """Every face of a split once, over all processes.

    The split is cut into the same batches for any number of processes, which are dealt out in turn: a face's logits
    do not depend on who computes them. Every process makes the same number of rounds; the last may be empty for some.

    Args:
        corrupt: (uint8 [B, H, W, C], indices [B]) -> the same, before the preprocessing; None: faces as they are.
    """

    fetcher: Fetcher
    indices_N: Indices
    targets: Targets
    preprocessing: Preprocessing
    device: torch.device
    batch_size: int = 512
    rank: int = 0
    world: int = 1
    channels_last: bool = True
    corrupt: Callable[[Tensor, Indices], Tensor] | None = None

    def __len__(self) -> int:
        # Rounded up twice: the last batch may be short, and the last round may be empty for some ranks.
        # Equal on all ranks: Ignite refuses a loader of length 0, and one rank that raised would
        # leave the others waiting for its metrics.
        batches = -(-len(self.indices_N) // self.batch_size)
        return -(-batches // self.world)

    def __iter__(self) -> Iterator[EvalBatch]:
        mine = self._places()
        # The fetcher gets no requests for empty batches; _batch() makes those.
        full = [indices for indices in mine if len(indices)]
        requests = (IndexBatch(indices, 0, 0, np.arange(len(indices))) for indices in full)
        images = self.fetcher.batches(requests)
        for indices in mine:
            yield self._batch(indices, next(images) if len(indices) else None)

    def _places(self) -> Sequence[Indices]:
        # A start behind the end gives an empty slice.
        starts = [(turn * self.world + self.rank) * self.batch_size for turn in range(len(self))]
        return [self.indices_N[start : start + self.batch_size] for start in starts]

    def _batch(self, indices_B: Indices, images: Any) -> EvalBatch:
        if images is None:
            shape = (
                0,
                self.preprocessing.channels,
                self.preprocessing.image_px,
                self.preprocessing.image_px,
            )
            # Of a batch's shape: step and metrics then run on this rank as on the others.
            images_BCHW = torch.zeros(shape, device=self.device)
        else:
            if self.corrupt is not None:
                if images.is_floating_point():
                    raise ConfigError(
                        "faces that a user's code has made into tensors can't be corrupted; leave --robustness out."
                    )
                images = self.corrupt(images, indices_B)
            images_BCHW = self.preprocessing.plain(images, channels_last=self.channels_last)
        return EvalBatch(
            images_BCHW,
            self.targets.labels(indices_B, self.device),
            self.targets.distributions(indices_B, self.device),
            torch.from_numpy(np.asarray(indices_B, dtype=np.int64)).to(self.device),
        )
