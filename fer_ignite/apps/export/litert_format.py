"""LiteRT (TFLite): a flatbuffer for one face of the stored size, with the record in an archive behind it."""

# Dimensions: B images, H W pixels, C channels, K expressions, R S sides before and after a resize.

import contextlib
import copy
import io
import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fer_ignite.apps.export.inference_module import InferenceModule
from fer_ignite.checkpoint.atomic_io import storage_errors
from fer_ignite.errors import ConfigError, first_line
from fer_ignite.imports import require_library
from fer_ignite.inference.metadata import KEY, ExportMetadata

__all__ = ["litert_bytes", "open_litert"]

_RECORD = f"{KEY}.json"


class FixedSideModule(InferenceModule):
    """The same for faces of ``record.side_px`` alone: the antialiased resize, which LiteRT lacks, as two matrix products."""

    weights_SR: Tensor

    def __init__(self, network: nn.Module, record: ExportMetadata) -> None:
        super().__init__(network, record)
        self.is_resized = record.side_px != self.resize_px
        one_11RR = torch.eye(record.side_px)[None, None]
        size = (self.resize_px, record.side_px)
        # Resizing is linear: the resized columns of the identity are the weights of any column.
        weights_11SR = F.interpolate(one_11RR, size=size, mode="bilinear", antialias=True)
        self.register_buffer("weights_SR", weights_11SR[0, 0])

    def resize(self, images_BCHW: Tensor) -> Tensor:
        if not self.is_resized:
            return images_BCHW
        return self.weights_SR @ images_BCHW @ self.weights_SR.T


def litert_bytes(network: nn.Module, record: ExportMetadata) -> bytes:
    """A .tflite file that takes uint8 faces_1HWC of ``record.side_px`` and gives probabilities_1K; the record is in it.

    Raises:
        ConfigError: litert-torch is missing, or the network can't be converted.
        StorageError: the temporary folder is full.
    Source: a file that belongs to a TFLite model is in a zip archive behind the flatbuffer (TensorFlow Lite metadata).
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # the converter's notes on its own parts
    require_library("litert_torch", extra="litert", purpose="--format litert")
    import litert_torch

    side = record.side_px
    example = torch.zeros(1, side, side, record.channels, dtype=torch.uint8)
    # litert-torch 0.10 takes constants that are not contiguous (channels_last) for each other: its issues 1061 and 1238
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    module = FixedSideModule(plain, record).eval()
    with storage_errors(tempfile.gettempdir()), tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.tflite"
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                litert_torch.convert(module, (example,)).export(str(path))
        # For storage_errors around it: a full disk is no fault of the network.
        except OSError:
            raise
        except Exception as error:  # the converter's errors have no common base
            reason = first_line(error)
            raise ConfigError(
                f"--format litert: the network {record.network.get('model')} can't be converted ({reason}); use --format onnx."
            ) from None
        entry = zipfile.ZipInfo(_RECORD)  # of a fixed date: the same network gives the same bytes
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(entry, record.to_json())
        return path.read_bytes()


def open_litert(path: Path) -> tuple[Callable[[NDArray[np.uint8]], NDArray[np.float32]], str]:
    """faces_BHWC -> probabilities_BK of a file that this program has just written, face by face, and its record."""
    require_library("ai_edge_litert", extra="litert", purpose="--format litert")
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    [taken], [given] = interpreter.get_input_details(), interpreter.get_output_details()

    def answer(faces_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows = []
        for face_HWC in faces_BHWC:
            interpreter.set_tensor(taken["index"], face_HWC[None])
            interpreter.invoke()
            rows.append(interpreter.get_tensor(given["index"])[0])
        probabilities_BK: NDArray[np.float32] = np.stack(rows)
        return probabilities_BK

    with zipfile.ZipFile(path) as archive:
        return answer, archive.read(_RECORD).decode()
