"""Prediction on image files of one face each, with a checkpoint or an export."""

# Dimensions: B images of a batch, H W pixels, C channels, K expressions.

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fer_ignite.data.images import fit_image, read_image, require_faces
from fer_ignite.errors import ConfigError, DataError
from fer_ignite.inference.onnx import VIEWS, OnnxModel, is_onnx
from fer_ignite.inference.photographs import PhotographCheck

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fer_ignite.inference.loaded_model import LoadedModel

__all__ = ["Prediction", "Predictor", "open_predictor", "predict"]

logger = logging.getLogger("fer_ignite")


@dataclass(frozen=True)
class Prediction:
    """What a network says about one file; ``error`` says why there is nothing, where that is so."""

    file: str
    top: tuple[tuple[str, float], ...] = ()
    error: str | None = None


class Predictor(Protocol):
    """What prediction needs of a network, and what of torch it doesn't.

    Attributes:
        channels: 1 gray, 3 colour.
        side_px, resize_mode: how single faces are fitted before they are given to it.
    """

    classes: tuple[str, ...]
    channels: int
    side_px: int
    resize_mode: str

    def probabilities(self, faces_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 [B, K] of uint8 faces."""


class _CheckpointPredictor:
    """A checkpoint's network as a recogniser; ``tta`` None = the run's."""

    def __init__(self, network: LoadedModel, tta: str | None) -> None:
        preprocessing = network.preprocessing
        self.network, self.tta = network, tta or network.config.tta
        self.classes, self.channels = network.classes, preprocessing.channels
        self.side_px, self.resize_mode = (
            preprocessing.stored_px or preprocessing.resize_px,
            preprocessing.resize_mode,
        )

    def probabilities(self, faces_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        require_faces(faces_BHWC, channels=self.channels, kind="numpy array")
        probabilities_BK: NDArray[np.float32] = self.network.probabilities(
            torch.from_numpy(faces_BHWC), tta=self.tta
        ).numpy()
        return probabilities_BK


def open_predictor(
    path: str | Path, *, device: str = "auto", model: str | None = None, tta: str | None = None
) -> Predictor:
    """A checkpoint's network, or an exported ONNX file, for which torch is not imported.

    Args:
        model: the user's ``module:Class`` again, where the run used one.
        tta: views to average; None = the run's.
    Raises:
        CheckpointError: the file can't be used.
        ConfigError: ``model`` or ``tta`` for an ONNX file, inside of which both are fixed; onnxruntime is missing.
    """
    if not is_onnx(path):
        try:
            from fer_ignite.inference.loaded_model import load_model
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{path} is no .onnx file, and a checkpoint needs {error.name}, which is not installed."
            ) from None
        return _CheckpointPredictor(load_model(path, device=device, model=model), tta)
    given = {"--model": model, "--tta": tta}
    for flag in (flag for flag, value in given.items() if value is not None):
        raise ConfigError(
            f"{flag}: network and views are fixed inside an .onnx file; give {flag} to `fer-ignite export` instead."
        )
    return OnnxModel(path, device=device)


def predict(
    checkpoint: str | Path | LoadedModel | Predictor,
    files: str | Path | Iterable[str | Path],
    *,
    topk: int = 3,
    batch_size: int = 256,
    tta: str | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
    warn: Callable[[str], Any] = logger.warning,
) -> Iterator[Prediction]:
    """Names the expressions in face images, in batches, in the files' order.

    Args:
        checkpoint: a checkpoint, an ``.onnx`` file that was exported from one, or either opened already.
        files: image files of one face each, a str or a Path is one file; read and fitted as the training's were.
        topk: how many expressions per file, most probable first.
        tta: views to average; None = the run's. Of paths and networks; a recogniser has its own.
        warn: called with one sentence, once, where a file seems to be a whole photograph; the file is answered all the same.
    Returns:
        An iterator of one :class:`Prediction` per file; a file that can't be read doesn't stop the rest.
    Raises:
        ConfigError: an argument of another type, or a number below 1.
        CheckpointError: see :func:`open_predictor`.
    """
    for name, value in (("topk", topk), ("batch_size", batch_size)):
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name}={value!r} is no whole number of at least 1.")
    if tta is not None and tta not in VIEWS:
        raise ConfigError(f"tta={tta!r} is unknown; allowed are {', '.join(VIEWS)}.")
    paths = [files] if isinstance(files, (str, Path)) else files
    if isinstance(paths, (bytes, bytearray)) or not isinstance(paths, Iterable):
        raise ConfigError(
            f"files takes a path or several, not {type(files).__name__}; give a str, a Path or a list of them."
        )
    return _predict(
        _open_model(checkpoint, tta),
        paths,
        topk=topk,
        batch_size=batch_size,
        on_batch=on_batch,
        warn=warn,
    )


def _predict(
    predictor: Predictor,
    files: Iterable[str | Path],
    *,
    topk: int,
    batch_size: int,
    on_batch: Callable[[int], None],
    warn: Callable[[str], Any],
) -> Iterator[Prediction]:
    watch = PhotographCheck(warn)
    count = max(1, min(topk, len(predictor.classes)))
    waiting: list[tuple[str, Any]] = []
    for file in files:
        if not isinstance(file, (str, Path)):
            raise ConfigError(
                f"files holds {type(file).__name__} where a path is needed; give str or Path, not pixels."
            )
        waiting.append((str(file), _read_face(file, predictor, watch)))
        if len(waiting) == batch_size:
            yield from _predict_batch(predictor, waiting, count)
            on_batch(len(waiting))
            waiting = []
    if waiting:
        yield from _predict_batch(predictor, waiting, count)
        on_batch(len(waiting))


def _open_model(checkpoint: Any, tta: str | None) -> Predictor:
    if isinstance(checkpoint, (str, Path)):
        return open_predictor(checkpoint, tta=tta)
    if hasattr(checkpoint, "preprocessing"):
        return _CheckpointPredictor(checkpoint, tta)
    if not all(
        hasattr(checkpoint, name)
        for name in ("classes", "channels", "side_px", "resize_mode", "probabilities")
    ):
        raise ConfigError(
            f"predict takes a checkpoint's path or a loaded network, not {type(checkpoint).__name__}."
        )
    return checkpoint  # type: ignore[no-any-return]


def _read_face(file: str | Path, predictor: Predictor, watch: PhotographCheck) -> Any:
    try:
        channels = "gray" if predictor.channels == 1 else "rgb"
        image = read_image(file)
        watch.look(file, image, usual_px=predictor.side_px)
        return fit_image(image, predictor.side_px, predictor.resize_mode, channels)
    except DataError as error:
        return error


def _predict_batch(
    predictor: Predictor, faces: Sequence[tuple[str, Any]], count: int
) -> Iterator[Prediction]:
    read = [pixels for _, pixels in faces if not isinstance(pixels, DataError)]
    tops: Iterator[Any] = iter(())
    if read:
        probabilities_BK = predictor.probabilities(np.stack(read))
        places_BK = np.argsort(-probabilities_BK, axis=1, kind="stable")[:, :count]
        tops = zip(
            np.take_along_axis(probabilities_BK, places_BK, axis=1).tolist(),
            places_BK.tolist(),
            strict=True,
        )
    for file, pixels in faces:
        if isinstance(pixels, DataError):
            yield Prediction(file, error=str(pixels))
        else:
            probabilities, labels = next(tops)
            yield Prediction(
                file,
                tuple(
                    (predictor.classes[k], p) for k, p in zip(labels, probabilities, strict=True)
                ),
            )
