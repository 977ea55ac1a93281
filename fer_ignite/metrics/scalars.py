"""Single numbers among the metrics of an evaluation, whether of Python, NumPy or torch."""

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["as_number", "scalar_metrics"]


def as_number(value: Any) -> float | None:
    """The value as a float where it is one real number, also of NumPy or a tensor without dimensions; else None."""
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim == 0:
        value = value.item()
    # numpy.float32 and numpy.int64 are registered as Real; they are neither float nor int.
    return float(value) if isinstance(value, Real) else None


def scalar_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are single numbers, as floats, by name."""
    numbers = {name: as_number(value) for name, value in metrics.items()}
    return {name: number for name, number in numbers.items() if number is not None}
