"""Asking a checkpoint about image files of one face each, in batches."""

# Dimensions: B images of a batch, K expressions.

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer_ignite.data.images import fit_image, read_image
from fer_ignite.data.stream import Preparation
from fer_ignite.errors import DataError
from fer_ignite.network import Network, load_network

__all__ = ["Prediction", "predict"]


@dataclass(frozen=True)
class Prediction:
    """What a network says about one file; ``error`` says why there is nothing, where that is so."""

    file: str
    top: tuple[tuple[str, float], ...] = ()
    error: str | None = None


def predict(
    checkpoint: str | Path | Network, files: Iterable[str | Path], *, topk: int = 3, batch_size: int = 256,
    tta: str | None = None, on_batch: Callable[[int], None] = lambda done: None,
) -> Iterator[Prediction]:  # fmt: skip
    """Names the expressions in face images, in batches, in the files' order.

    Args:
        files: image files of one face each; read and fitted as the training's were.
        topk: how many expressions per file, most probable first.
        tta: views to average; None = the run's.
    Yields:
        One :class:`Prediction` per file; a file that can't be read doesn't stop the rest.
    """
    network = checkpoint if isinstance(checkpoint, Network) else load_network(checkpoint)
    count = max(1, min(topk, len(network.classes)))
    waiting: list[tuple[str, Any]] = []
    for file in files:
        waiting.append((str(file), _read_face(file, network.preparation)))
        if len(waiting) == batch_size:
            yield from _predict_batch(network, waiting, count, tta)
            on_batch(len(waiting))
            waiting = []
    if waiting:
        yield from _predict_batch(network, waiting, count, tta)
        on_batch(len(waiting))


def _read_face(file: str | Path, preparation: Preparation) -> Any:
    try:
        channels = "gray" if preparation.channels == 1 else "rgb"
        return fit_image(read_image(file), preparation.stored_px or preparation.resize_px, preparation.resize_mode, channels)
    except DataError as error:
        return error


def _predict_batch(network: Network, faces: Sequence[tuple[str, Any]], count: int, tta: str | None) -> Iterator[Prediction]:
    read = [pixels for _, pixels in faces if not isinstance(pixels, DataError)]
    tops: Iterator[Any] = iter(())
    if read:
        chances_BK = network.probabilities(torch.from_numpy(np.stack(read)), tta=tta or network.config.tta)
        values, places = chances_BK.topk(count, dim=1)
        tops = iter(zip(values.tolist(), places.tolist(), strict=True))
    for file, pixels in faces:
        if isinstance(pixels, DataError):
            yield Prediction(file, error=str(pixels))
        else:
            chances, labels = next(tops)
            yield Prediction(file, tuple((network.classes[k], p) for k, p in zip(labels, chances, strict=True)))
