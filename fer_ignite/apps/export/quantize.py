"""Static int8 quantisation: weights per channel, activations calibrated on train images.

Convolutions and matrix products are quantised, which is where the time goes; the preparation, the normalisations that
stayed and the softmax remain fp32.
"""

# Dimensions: N faces, H W pixels, C channels.

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_ignite.apps.export.graph_formats import describe
from fer_ignite.checkpoint.atomic_io import storage_errors
from fer_ignite.imports import optional_library
from fer_ignite.inference.metadata import INPUT, ExportMetadata

__all__ = ["quantize_static"]

_OPERATIONS = ["Conv", "Gemm", "MatMul"]
_BATCH = 32


def quantize_static(
    content: bytes, faces_NHWC: NDArray[np.uint8], *, record: ExportMetadata
) -> bytes:
    """The ONNX file ``content`` in int8.

    Args:
        faces_NHWC: from the train split; the ranges of activations are theirs.
        record: of the new file.
    Raises:
        ConfigError: a library is missing.
        StorageError: the temporary folder is full.
    Source: onnxruntime.quantization; 7-bit weights (reduce_range), as products of 8 bits may overflow on CPUs without
        VNNI, for no measured loss.
    """
    quantization = optional_library("onnxruntime.quantization", extra="export", purpose="--int8")
    onnx = optional_library("onnx", extra="export", purpose="--int8")
    with storage_errors(tempfile.gettempdir()), tempfile.TemporaryDirectory() as folder, _quiet():
        plain, small = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        plain.write_bytes(content)
        quantization.quantize_static(
            plain,
            small,
            _reader(quantization, faces_NHWC),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_OPERATIONS,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        model = onnx.load(small)
    describe(model, record)
    return bytes(model.SerializeToString())


def _reader(quantization: Any, faces_NHWC: NDArray[np.uint8]) -> Any:
    batches = (faces_NHWC[start : start + _BATCH] for start in range(0, len(faces_NHWC), _BATCH))

    class Faces(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            batch_BHWC = next(batches, None)
            return None if batch_BHWC is None else {INPUT: batch_BHWC}

    return Faces()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # The quantiser recommends its own pre-processing, which the exporter has done, through the root logger.
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
