"""Prediction on pictures, files or in memory, with a checkpoint or an export."""

# Dimensions: B images of a batch, H W pixels, C channels, K expressions.

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fer_ignite.data.images import fit_image, printable, require_faces
from fer_ignite.data.pictures import iter_pictures, read_picture
from fer_ignite.errors import ConfigError, DataError
from fer_ignite.inference.onnx import VIEWS, OnnxModel, is_onnx
from fer_ignite.inference.photographs import MOST_LOOKS, FaceBox, FacePicker

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fer_ignite.inference.loaded_model import LoadedModel

__all__ = ["Prediction", "Predictor", "open_predictor", "predict"]

logger = logging.getLogger("fer_ignite")


@dataclass(frozen=True, repr=False)
class Prediction:
    """A network's prediction for one face.

    Attributes:
        file: the file's path, or what the picture in memory is called.
        top: the most probable expressions with their probabilities, the most probable first.
        error: why there is nothing, where that is so.
        face: number of the face in its picture, from 1, in reading order; 0: the picture is the face.
        box: where the face is in its picture; None: the picture is the face.
    """

    file: str
    top: tuple[tuple[str, float], ...] = ()
    error: str | None = None
    face: int = 0
    box: FaceBox | None = None

    @property
    def label(self) -> str | None:
        """The most probable expression; None where there is nothing."""
        return self.top[0][0] if self.top else None

    @property
    def probability(self) -> float | None:
        """That expression's probability."""
        return self.top[0][1] if self.top else None

    @property
    def probabilities(self) -> dict[str, float]:
        """The probabilities by the expressions' names, the most probable first."""
        return dict(self.top)

    def __repr__(self) -> str:
        if self.error is not None:
            return f"Prediction({self.file}: {self.error})"
        shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in self.top[:3])
        place = ""
        if self.box is not None:
            left, top, width, height = self.box
            place = f", face {self.face} ({width:.0f} x {height:.0f} px at {left:.0f}, {top:.0f})"
        return f"Prediction({self.file}{place}: {shares})"


class Predictor(Protocol):
    """Interface of a network for prediction; it needs no torch.

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
    """A checkpoint's network as a predictor; ``tta`` None = the run's."""

    def __init__(self, network: LoadedModel, tta: str | None) -> None:
        network.require_images()
        preprocessing = network.preprocessing
        self.network, self.tta = network, tta or network.config.tta
        self.classes, self.channels = network.classes, preprocessing.channels
        # The side that the training stored its faces at: predict then agrees with evaluate.
        self.side_px, self.resize_mode = (
            preprocessing.stored_px or preprocessing.resize_px,
            preprocessing.resize_mode,
        )

    def probabilities(self, faces_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        # Not at the top: an .onnx file is predicted with where torch is not installed.
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
    files: Any,
    *,
    topk: int = 3,
    faces: str = "auto",
    batch_size: int = 256,
    tta: str | None = None,
    detector: str | None = None,
    margin: float | None = None,
    most_looks: int | None = MOST_LOOKS,
    on_batch: Callable[[int], None] = lambda done: None,
    warn: Callable[[str], Any] = logger.warning,
) -> Iterator[Prediction]:
    """Names the expressions in pictures, in batches, in the pictures' order.

    Args:
        checkpoint: a checkpoint, a run's folder, an ``.onnx`` file that was exported from one, or either opened already.
        files: one picture or several: a path (a str or a Path is one file), a PIL image, a uint8 array [H, W] or [H, W, 3]
            (RGB), a uint8 tensor [H, W] or [C, H, W]; an array [N, H, W, C] or a tensor [N, C, H, W] is several.
        topk: how many expressions per face, most probable first.
        faces: "auto": the faces of whole photographs are found and cut out; "never": each picture is one face; "always":
            faces are searched in every picture.
        tta: views to average; None = the run's. Of checkpoints; an ``.onnx`` file and an open predictor have their own.
        detector, margin, most_looks: see :class:`FacePicker`.
        on_batch: called with the number of pictures of each batch that is done.
        warn: see :class:`FacePicker`.
    Returns:
        An iterator of one :class:`Prediction` per face; a file that can't be read doesn't stop the rest. A picture without a
        face, where faces were searched, gives one with an error.
    Raises:
        ConfigError: an argument of another type, or a number below 1.
        DataError: a picture in memory of another shape or dtype.
        CheckpointError: see :func:`open_predictor`.
    """
    for name, value in (("topk", topk), ("batch_size", batch_size)):
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name}={value!r} is no whole number of at least 1.")
    if tta is not None and tta not in VIEWS:
        raise ConfigError(f"tta={tta!r} is unknown; allowed are {', '.join(VIEWS)}.")
    pictures = iter_pictures(files)
    predictor = _open_model(checkpoint, tta)
    picker = FacePicker(
        faces,
        usual_px=predictor.side_px,
        warn=warn,
        detector=detector,
        margin=margin,
        most_looks=most_looks,
    )
    # A function of its own: a generator would check no argument before its first face is taken.
    return _predict(
        predictor, pictures, picker=picker, topk=topk, batch_size=batch_size, on_batch=on_batch
    )


def _predict(
    predictor: Predictor,
    pictures: Iterable[tuple[str, Any]],
    *,
    picker: FacePicker,
    topk: int,
    batch_size: int,
    on_batch: Callable[[int], None],
) -> Iterator[Prediction]:
    # Faces, not pictures, fill a batch: a photograph may have many, or none.
    count = max(1, min(topk, len(predictor.classes)))
    waiting: list[tuple[Prediction, Any]] = []
    done = 0
    for name, picture in pictures:
        waiting += _find_faces(name, picture, predictor=predictor, picker=picker)
        done += 1
        if len(waiting) >= batch_size:
            yield from _predict_batch(predictor, waiting, count=count)
            on_batch(done)
            waiting, done = [], 0
    if waiting:
        yield from _predict_batch(predictor, waiting, count=count)
        on_batch(done)


def _open_model(checkpoint: Any, tta: str | None) -> Predictor:
    if isinstance(checkpoint, (str, Path)):
        return open_predictor(checkpoint, tta=tta)
    # By an attribute: isinstance needs the class, whose module imports torch.
    if hasattr(checkpoint, "preprocessing"):
        return _CheckpointPredictor(checkpoint, tta)
    if tta is not None:
        raise ConfigError(
            f"tta={tta!r}: an open predictor has views of its own; leave it out, or give it where the network is opened or exported."
        )
    if not all(
        hasattr(checkpoint, name)
        for name in ("classes", "channels", "side_px", "resize_mode", "probabilities")
    ):
        raise ConfigError(
            f"predict takes a checkpoint's path or a loaded network, not {type(checkpoint).__name__}."
        )
    return checkpoint  # type: ignore[no-any-return]


def _find_faces(
    name: str, picture: Any, *, predictor: Predictor, picker: FacePicker
) -> list[tuple[Prediction, Any]]:
    """The picture's faces without predictions yet, and their pixels; None for what can't be read or has no face."""
    try:
        image = read_picture(name, picture)
    except DataError as error:
        # A bad file among many must not stop the rest; a picture in memory is a wrong argument.
        if not isinstance(picture, (str, Path)):
            raise
        return [(Prediction(name, error=str(error)), None)]
    channels = "gray" if predictor.channels == 1 else "rgb"
    found = picker.pick(name, image)
    if not found:
        return [(Prediction(name, error=f"{printable(name)}: no face is found in it."), None)]
    return [
        (
            Prediction(name, face=0 if box is None else number, box=box),
            fit_image(face, predictor.side_px, mode=predictor.resize_mode, channels=channels),
        )
        for number, (face, box) in enumerate(found, 1)
    ]


def _predict_batch(
    predictor: Predictor, faces: Sequence[tuple[Prediction, Any]], *, count: int
) -> Iterator[Prediction]:
    read = [pixels for _, pixels in faces if pixels is not None]
    tops: Iterator[Any] = iter(())
    if read:
        probabilities_BK = predictor.probabilities(np.stack(read))
        # Stable: of equal probabilities the first class comes first, as in argmax.
        places_BK = np.argsort(-probabilities_BK, axis=1, kind="stable")[:, :count]
        tops = zip(
            np.take_along_axis(probabilities_BK, places_BK, axis=1).tolist(),
            places_BK.tolist(),
            strict=True,
        )
    for prediction, pixels in faces:
        if pixels is None:
            yield prediction
        else:
            probabilities, labels = next(tops)
            named = zip(labels, probabilities, strict=True)
            yield replace(prediction, top=tuple((predictor.classes[k], p) for k, p in named))
