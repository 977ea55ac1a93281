"""Formats that hold weights alone: safetensors and state dict."""

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fer_ignite.apps.export.half_precision import halve_state, widen_state
from fer_ignite.checkpoint.format import load_weights_file
from fer_ignite.imports import optional_library
from fer_ignite.inference.metadata import KEY, ExportMetadata

__all__ = ["open_safetensors", "open_state_dict", "safetensors_bytes", "state_dict_bytes"]

State = dict[str, Tensor]


def safetensors_bytes(state: Mapping[str, Tensor], record: ExportMetadata, *, half: bool) -> bytes:
    """A safetensors file, the record in its metadata.

    Raises:
        ConfigError: the library is missing.
    """
    library = optional_library("safetensors.torch", extra="export", purpose="--format safetensors")
    # safetensors refuses tensors that share memory or are not contiguous, as those of channels_last are.
    return bytes(library.save(_own(state, half=half), metadata={KEY: record.to_json()}))


def open_safetensors(path: Path) -> tuple[State, str]:
    """The state in fp32, and the record."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return widen_state({name: file.get_tensor(name) for name in file.keys()}), file.metadata()[  # noqa: SIM118
            KEY
        ]


def state_dict_bytes(state: Mapping[str, Tensor], record: ExportMetadata, *, half: bool) -> bytes:
    """For torch's loader with ``weights_only=True``: ``{"state_dict": tensors by name, "fer_ignite": the record}``."""
    buffer = io.BytesIO()
    torch.save({"state_dict": _own(state, half=half), KEY: record.to_json()}, buffer)
    return buffer.getvalue()


def open_state_dict(path: Path) -> tuple[State, str]:
    """The state in fp32, and the record."""
    # Not torch.load, which also reads the older pickle format; this one takes torch's zip format only.
    content = load_weights_file(path)
    return widen_state(content["state_dict"]), content[KEY]


def _own(state: Mapping[str, Tensor], *, half: bool) -> State:
    """Tensors with memory of their own in the plain layout, which both formats ask for or are smaller with."""
    chosen = halve_state(state) if half else state
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in chosen.items()
    }
