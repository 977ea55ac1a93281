"""Prediction with an exported ONNX file; needs onnxruntime, numpy and Pillow."""

# Dimensions: B images of a batch, H W pixels, C channels, K expressions.

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer_ignite.data.images import printable, require_faces
from fer_ignite.errors import (
    NONFINITE_OUTPUTS,
    CheckpointError,
    ConfigError,
    NonFiniteError,
    one_line,
)
from fer_ignite.imports import optional_library, split_names
from fer_ignite.inference.metadata import INPUT, KEY, OUTPUT, ExportMetadata

if TYPE_CHECKING:
    from fer_ignite.inference.predictor import Prediction

__all__ = ["VIEWS", "OnnxModel", "is_onnx", "refuse_onnx"]

# All views of a batch go through the graph at once; this many images at a time keep its memory where training's is.
_IMAGES_AT_ONCE = 256
# Repeats data/augment/tta.py, which imports torch.
VIEWS = {"none": 1, "flip": 2, "shift10": 10, "shift18": 18}


def is_onnx(path: str | Path) -> bool:
    """Whether the name is an ONNX file's."""
    names = split_names(str(path))  # several are an ensemble, which is made of checkpoints
    return len(names) == 1 and names[0].lower().endswith(".onnx")


def refuse_onnx(path: str | Path, purpose: str) -> None:
    """Refuses an ONNX file where a checkpoint is needed.

    Args:
        purpose: what needs it, at the start of the sentence.
    Raises:
        CheckpointError: the name is an ONNX file's.
    """
    if is_onnx(path):
        raise CheckpointError(
            f"{purpose}: {printable(path)} is an exported file; name the checkpoint that it was exported from."
        )


class OnnxModel:
    """A file that ``fer-ignite export --format onnx`` has written.

    Args:
        device: auto, cpu or cuda; auto is CUDA where the installed onnxruntime has it.
    Attributes:
        classes, channels, side_px, resize_mode: how single faces are to be read, from the file.
    Raises:
        CheckpointError: the file is missing, broken, or holds no record of fer-ignite's.
        ConfigError: onnxruntime is not installed, or has no such device.
    """

    def __init__(self, path: str | Path, *, device: str = "auto") -> None:
        runtime = optional_library(
            "onnxruntime", extra="export", purpose="predicting with an .onnx file"
        )
        self.session = _opened(runtime, path, providers=_providers(runtime, device))
        if device == "cuda" and "CUDAExecutionProvider" not in self.session.get_providers():
            # onnxruntime falls back to the CPU by itself.
            raise ConfigError(
                "--device cuda: onnxruntime can't load its CUDA part; install the CUDA and cuDNN versions that it needs, or leave "
                "--device out."
            )
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.record = ExportMetadata.from_json(metadata.get(KEY), name=printable(path))
        self.classes = self.record.classes
        self.channels, self.side_px = self.record.channels, self.record.side_px
        self.resize_mode = str(self.record.preprocessing["resize_mode"])

    def predict(
        self, images: Any, *, faces: str = "auto", batch_size: int = 256
    ) -> "list[Prediction]":
        """Names the expressions of one picture or of several, as :meth:`LoadedModel.predict` does."""
        from fer_ignite.inference.predictor import predict

        count = len(self.classes)
        return list(predict(self, images, topk=count, faces=faces, batch_size=batch_size))

    def __repr__(self) -> str:
        colour = "gray" if self.channels == 1 else "RGB"
        return f"OnnxModel: {', '.join(self.classes)}; {self.side_px} px {colour} faces"

    def probabilities(self, faces_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 [B, K] of uint8 faces of any side.

        Raises:
            DataError: another type, dtype, shape or number of channels.
        """
        require_faces(faces_BHWC, channels=self.channels, kind="numpy array")
        size = max(1, _IMAGES_AT_ONCE // VIEWS.get(self.record.tta, 1))
        parts = [
            self.session.run([OUTPUT], {INPUT: faces_BHWC[start : start + size]})[0]
            for start in range(0, len(faces_BHWC), size)
        ]
        probabilities_BK: NDArray[np.float32] = np.concatenate(parts)
        if not np.isfinite(probabilities_BK).all():
            raise NonFiniteError(NONFINITE_OUTPUTS)
        return probabilities_BK


def _opened(runtime: Any, path: str | Path, *, providers: list[str]) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors; they become exceptions anyway
    # onnxruntime has threads of its own and doesn't read OMP_NUM_THREADS.
    requested = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    options.intra_op_num_threads = int(requested) if requested.isdecimal() else 0  # 0: one per core
    if not os.path.isfile(path):
        raise CheckpointError(
            f"there is no file {printable(path)}; name one that `fer-ignite export` has written."
        )
    try:
        session = runtime.InferenceSession(os.fspath(path), options, providers=providers)
    except Exception as error:  # the runtime's exceptions share no base
        raise CheckpointError(
            f"{printable(path)} can't be used by onnxruntime ({one_line(error, most=200)}); export the checkpoint again."
        ) from None
    ends = [
        [value.name for value in values] for values in (session.get_inputs(), session.get_outputs())
    ]
    if ends != [[INPUT], [OUTPUT]]:
        raise CheckpointError(
            f"{printable(path)} takes {ends[0]} and gives {ends[1]}; fer-ignite's exports take {INPUT}, give {OUTPUT}."
        )
    return session


def _providers(runtime: Any, device: str) -> list[str]:
    known = runtime.get_available_providers()
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            f"--device {device}: an .onnx file runs on cpu or cuda; leave it out or name one of these."
        )
    has_cuda = "CUDAExecutionProvider" in known
    if device == "cuda" and not has_cuda:
        raise ConfigError(
            "--device cuda: the installed onnxruntime has no CUDA; install onnxruntime-gpu instead."
        )
    # The CPU stays in the list, for operators that CUDA has no kernel for.
    return [
        *(["CUDAExecutionProvider"] if has_cuda and device != "cpu" else []),
        "CPUExecutionProvider",
    ]
