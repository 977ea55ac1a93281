"""OpenVINO IR: the ONNX graph for faces of the stored size, as an .xml file with its .bin beside it."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_ignite.checkpoint.atomic_io import storage_errors
from fer_ignite.imports import require_library
from fer_ignite.inference.metadata import INPUT, KEY, OUTPUT, ExportMetadata

__all__ = ["open_openvino", "openvino_bytes"]


def openvino_bytes(onnx: bytes, record: ExportMetadata, *, half: bool) -> tuple[bytes, bytes]:
    """The .xml and the .bin file of an ONNX file's graph, the record in the runtime information.

    The sides are fixed to ``record.side_px``: OpenVINO's Resize differs from ONNX's antialiased one by up to 0.2 in a
    probability where faces have other sizes.

    Args:
        half: weights stored as fp16.
    Raises:
        ConfigError: openvino is missing.
        StorageError: the temporary folder is full.
    """
    openvino = _library()
    side = record.side_px
    with storage_errors(tempfile.gettempdir()), tempfile.TemporaryDirectory() as name:
        source, target = Path(name) / "model.onnx", Path(name) / "model.xml"
        source.write_bytes(onnx)
        model = openvino.convert_model(source)
        # -1: the batch stays free.
        model.reshape({INPUT: [-1, side, side, record.channels]})
        model.set_rt_info(record.to_json(), KEY)
        # compress_to_fp16 in any case: save_model's default rounds the weights.
        openvino.save_model(model, target, compress_to_fp16=half)
        return target.read_bytes(), target.with_suffix(".bin").read_bytes()


def open_openvino(path: Path) -> tuple[Callable[[NDArray[np.uint8]], NDArray[np.float32]], str]:
    """faces_BHWC -> probabilities_BK of a file that this program has just written, in fp32 on the CPU, and its record."""
    openvino = _library()
    core = openvino.Core()
    model = core.read_model(path)
    # Without the hint OpenVINO computes in bf16 on processors that have it, and the check compares fp32.
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def answer(faces_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        probabilities_BK: NDArray[np.float32] = np.array(compiled({INPUT: faces_BHWC})[OUTPUT])
        return probabilities_BK

    return answer, str(model.get_rt_info(KEY).value)


def _library() -> Any:
    os.environ.setdefault("OPENVINO_TELEMETRY_ENABLED", "0")  # nothing of a run is sent anywhere
    require_library("openvino", extra="openvino", purpose="--format openvino")
    import openvino

    return openvino
