"""Whether confidence can be believed: how often the network is right, by how sure it says it is."""

# Dimensions: N faces, K expressions, M bins.

from dataclasses import dataclass

from torch import Tensor

from fer_ignite.report.intervals import wilson_interval
from fer_ignite.statistics import calibration_error

__all__ = ["Calibration", "Confidence", "calibration_of"]


@dataclass(frozen=True)
class Confidence:
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
    bins: tuple[Confidence, ...]


def calibration_of(logits_NK: Tensor, labels_N: Tensor, *, temperature: float, bins: int = 10) -> Calibration:
    """Confidence against accuracy over equal-width bins.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017.
    """
    confidence_N = (logits_NK.double() / temperature).softmax(dim=1).amax(dim=1)
    hits_N = logits_NK.argmax(dim=1) == labels_N
    bin_N = (confidence_N * bins).ceil().long().clamp(1, bins) - 1
    found = []
    for place in range(bins):
        inside_N = bin_N == place
        count = int(inside_N.sum())
        if count:
            right = int(hits_N[inside_N].sum())
            mean = float(confidence_N[inside_N].mean())
            found.append(
                Confidence(place / bins, (place + 1) / bins, count, mean, right / count, wilson_interval(right, count))
            )
    return Calibration(temperature, calibration_error(logits_NK, labels_N, temperature=temperature), tuple(found))
