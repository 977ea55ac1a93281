"""Arithmetic of the forward pass: fp32, fp16 or bf16, and what ``auto`` means on a device."""

import contextlib
from typing import Any

import torch

from fer_ignite.errors import ConfigError

__all__ = ["PRECISIONS", "autocast", "resolve_precision"]

PRECISIONS = ("auto", "fp32", "fp16", "bf16")
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def resolve_precision(precision: str, device: torch.device) -> str:
    """``auto`` becomes ``bf16`` where the device computes in it natively, else ``fp32``; the rest stays as given.

    Raises:
        ConfigError: another word.
    Source: on CPUs bfloat16 pays with AVX512-BF16 or AMX only; on CUDA from compute capability 8.0.
    """
    if precision not in PRECISIONS:
        raise ConfigError(
            f"precision={precision!r} is unknown; allowed are {', '.join(PRECISIONS)}."
        )
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp32"
    if device.type == "cpu":
        native = (
            torch.backends.cpu.get_cpu_capability() == "AVX512"
            # torch has no public call for it
            and torch.cpu._is_avx512_bf16_supported()
        )
        return "bf16" if native else "fp32"
    return "fp32"


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The forward pass's context for ``fp32``, ``fp16`` or ``bf16``."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])
