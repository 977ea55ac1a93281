"""Images on which an export is compared: the validation split, other data, or drawn faces."""

# Dimensions: N faces in all, B images of a batch, H W pixels, C channels.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fer_ignite.data.classes import match_classes
from fer_ignite.data.dataset import FaceDataset
from fer_ignite.data.drawn_faces import draw_faces
from fer_ignite.data.fetchers import IndexBatch
from fer_ignite.data.open import find_cache, open_dataset
from fer_ignite.data.sampler import generator
from fer_ignite.errors import DataError, FerError
from fer_ignite.inference.evaluation_data import split_warning
from fer_ignite.inference.loaded_model import LoadedModel
from fer_ignite.inference.request import EvaluateRequest, evaluation_config

__all__ = ["Reference", "reference_faces"]

_DRAWN = 350
_BATCH = 128


@dataclass(frozen=True)
class Reference:
    """Faces to compare a checkpoint and its export on.

    Attributes:
        source: what they are, in words.
        indices_N: places of the validation faces; ``labels_N`` in the checkpoint's numbers, None for drawn faces.
        notes: why these are not the checkpoint's own faces, or not all of them, and why its figures may be too good.
        published: the same for a model card, without the machine's paths.
    """

    source: str
    indices_N: NDArray[np.int64]
    labels_N: NDArray[np.int64] | None
    channels: int
    faces: FaceDataset | None = None
    notes: Sequence[str] = ()
    published: Sequence[str] = ()

    def batches(self) -> Iterator[NDArray[np.uint8]]:
        """uint8 [B, H, W, C], all faces once, in order."""
        starts = range(0, len(self.indices_N), _BATCH)
        if self.faces is not None:
            yield from _read(
                self.faces, [self.indices_N[start : start + _BATCH] for start in starts]
            )
            return
        for start in starts:
            # Not --data demo's seed 0, on whose faces the checkpoint may have been trained.
            pixels_BHWC, _labels = draw_faces(
                min(_BATCH, len(self.indices_N) - start), seed=1, start=start
            )
            yield np.repeat(pixels_BHWC, self.channels, axis=3)

    def train_faces(self, count: int, *, seed: int) -> NDArray[np.uint8]:
        """uint8 [N, H, W, C]: up to ``count`` faces drawn from the train split.

        Raises:
            DataError: there is none.
        """
        if self.faces is None or not len(self.faces.indices["train"]):
            raise DataError(
                f"--int8 is calibrated on train faces, and {self.source} has none; name the training's data with --data."
            )
        chosen = self.faces.train_indices(drop_train_duplicates=False, limit=count, seed=seed)
        return np.concatenate(list(_read(self.faces, [chosen])))


def reference_faces(network: LoadedModel, request: EvaluateRequest, *, limit: int) -> Reference:
    """The validation faces of ``request.data``, or of the checkpoint's own data where that can still be read.

    Args:
        limit: how many at most; more are thinned out by a seeded draw.
    Raises:
        DataError, ConfigError: ``request.data`` or ``request.votes`` can't be used.
    """
    try:
        return _real_faces(network, request, limit=limit)
    except FerError as error:
        # What was named is not replaced by drawn faces.
        if request.data is not None or request.votes is not None:
            raise
        note = f"the checkpoint's own data can't be read ({str(error).rstrip('.')}); name it with --data"
    count = min(_DRAWN, limit)
    published = "checked on drawn faces: the checkpoint's own data was not at hand"
    return Reference(
        f"{count} drawn faces",
        np.arange(count),
        None,
        network.preprocessing.channels,
        notes=[note],
        published=[published],
    )


def _real_faces(network: LoadedModel, request: EvaluateRequest, *, limit: int) -> Reference:
    config = evaluation_config(request, network.checkpoint)
    dataset_cache, fingerprint = find_cache(config)
    faces = open_dataset(config, None if dataset_cache is None else str(dataset_cache))
    channels = network.preprocessing.channels
    if faces.channels != channels:
        raise DataError(
            f"{faces.source} has faces of {faces.channels} channel(s), the network takes {channels}; name other data with --data."
        )
    indices_N = faces.indices["val"]
    if not len(indices_N):
        raise DataError(f"{faces.source} has no faces in val; name data that has, with --data.")
    match = match_classes(faces.classes, network.classes)
    # Faces of other classes have no label in the checkpoint's numbers to be right about.
    known_N = match.places_K[faces.targets.labels_N[indices_N]] >= 0
    if not known_N.any():
        raise DataError(
            f"{faces.source}: none of the classes in val is one of the network's ({', '.join(network.classes)}); name other data "
            "with --data."
        )
    indices_N = indices_N[known_N]
    if limit < len(indices_N):
        indices_N = np.sort(generator(config.seed, "limit").permutation(indices_N)[:limit])
    # In the checkpoint's numbers: the data may list its classes in another order.
    labels_N = match.places_K[faces.targets.labels_N[indices_N]]
    notes, published = [], []
    known = network.checkpoint.get("data", {}).get("fingerprint")
    if request.data is None and fingerprint is not None and fingerprint != known:
        notes.append(f"{faces.source} has changed since the training")
        published.append("the data that it was checked on has changed since the training")
    shared = []
    if dropped := int((~known_N).sum()):
        shared.append(
            f"{dropped} validation faces of classes that the network doesn't know were left out"
        )
    if warning := split_warning(config, faces, networks=network.networks, split="val"):
        shared.append(warning.rstrip("."))
    return Reference(
        faces.source, indices_N, labels_N, channels, faces, [*notes, *shared], [*published, *shared]
    )


def _read(faces: FaceDataset, parts: list[NDArray[np.int64]]) -> Iterator[NDArray[np.uint8]]:
    requests = (IndexBatch(indices_B, 0, 0, np.arange(len(indices_B))) for indices_B in parts)
    for images in faces.fetcher(torch.device("cpu"), seed=0).batches(requests):
        if images.is_floating_point():
            raise DataError(
                f"{faces.source} gives finished tensors, an export takes 8-bit faces; name other data with --data."
            )
        yield images.numpy()
