"""Expected calibration error and temperature scaling."""

# Dimensions: N faces, K expressions.

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fer_ignite.metrics.intervals import wilson_interval
from fer_ignite.metrics.temperature_bounds import TEMPERATURES

__all__ = [
    "Calibration",
    "ConfidenceBin",
    "build_calibration",
    "calibration_error",
    "fit_temperature",
]


def calibration_error(
    logits_NK: Tensor, labels_N: Tensor, *, temperature: float = 1.0, bins: int = 15
) -> float:
    """Expected calibration error in [0, 1]: mean distance of confidence from accuracy over equal-width bins.

    Args:
        temperature: changes the confidence only; the predicted label comes from the logits.
    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017.
    """
    confidence_N, hits_N, bin_N = _binned(logits_NK, labels_N, temperature=temperature, bins=bins)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(
        0, bin_N, confidence_N - hits_N.double()
    )
    return float(gaps.abs().sum() / max(len(labels_N), 1))


def _binned(
    logits_NK: Tensor, labels_N: Tensor, *, temperature: float, bins: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Confidence float64 [N], hits bool [N], and the bin of each face, int64 [N] from 0."""
    # The label comes from the logits: rounding in the softmax could make two probabilities equal.
    hits_N = logits_NK.argmax(dim=1) == labels_N
    confidence_N = (logits_NK.double() / temperature).softmax(dim=1).amax(dim=1)
    # Bins are open below and closed above, as in the paper; a confidence of 0 belongs to the first.
    bin_N = (confidence_N * bins).ceil().long().clamp(1, bins) - 1
    return confidence_N, hits_N, bin_N


def fit_temperature(logits_NK: Tensor, labels_N: Tensor) -> float | None:
    """The temperature within ``TEMPERATURES`` for which softmax(logits / T) has the least cross-entropy on these faces.

    Args:
        logits_NK: finite.
    Returns:
        None where no temperature is shown to be better than 1: the mean gain in cross-entropy is not larger than its standard
        error. The network is then used uncalibrated.
    Source: Guo et al., 2017. Convex in 1 / T, hence with one minimum, which ternary search finds.
    """
    logits_NK = logits_NK.double()

    def losses_N(temperature: float) -> Tensor:
        return nn.functional.cross_entropy(logits_NK / temperature, labels_N, reduction="none")

    low, high = (math.log(bound) for bound in TEMPERATURES)
    # Over log T, so that T and 1 / T are alike; 60 thirds leave 3e-11 of the interval.
    for _ in range(60):
        third = (high - low) / 3
        if float(losses_N(math.exp(low + third)).mean()) < float(
            losses_N(math.exp(high - third)).mean()
        ):
            high -= third
        else:
            low += third
    # exp(log(bound)) can round past the bound, and a stored temperature past it would count as
    # none.
    temperature = min(max(math.exp((low + high) / 2), TEMPERATURES[0]), TEMPERATURES[1])
    # A temperature fitted to few faces follows their noise: it has to gain more than one standard error.
    gain_N = losses_N(1.0) - losses_N(temperature)
    if len(gain_N) < 2 or not float(gain_N.mean()) > float(gain_N.std()) / math.sqrt(len(gain_N)):
        return None
    return temperature


@dataclass(frozen=True)
class ConfidenceBin:
    """One bin: faces in it, their mean confidence, the share that was right, and that share's 95 % interval."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Calibration:
    """Reliability at one temperature; ``bins`` leaves out empty ones."""

    temperature: float
    error: float
    bins: tuple[ConfidenceBin, ...]


def build_calibration(
    logits_NK: Tensor, labels_N: Tensor, *, temperature: float, bins: int = 10
) -> Calibration:
    """Confidence against accuracy over equal-width bins.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017.
    """
    confidence_N, hits_N, bin_N = _binned(logits_NK, labels_N, temperature=temperature, bins=bins)
    found = []
    for place in range(bins):
        inside_N = bin_N == place
        count = int(inside_N.sum())
        if count:
            right = int(hits_N[inside_N].sum())
            mean = float(confidence_N[inside_N].mean())
            found.append(
                ConfidenceBin(
                    place / bins,
                    (place + 1) / bins,
                    count,
                    mean,
                    right / count,
                    wilson_interval(right, count),
                )
            )
    return Calibration(
        temperature, calibration_error(logits_NK, labels_N, temperature=temperature), tuple(found)
    )
