"""How sure a figure is: intervals, calibration, and whether one network is really better than another."""

# Dimensions: N faces, K expressions, R bootstrap rounds.

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fer_ignite.data.plan import generator
from fer_ignite.temperature import TEMPERATURES

__all__ = ["accuracy_interval", "calibration_error", "fit_temperature", "mcnemar", "mean_and_spread", "paired_interval"]

ROUNDS = 2000


def accuracy_interval(hits_N: NDArray[np.bool_], *, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the share of hits, in [0, 1].

    Source: Efron, "Bootstrap methods", 1979; resampling N faces is drawing Binomial(N, share) hits.
    """
    count = len(hits_N)
    draws_R = generator(seed, "bootstrap").binomial(count, hits_N.mean(), size=ROUNDS) / count
    low, high = np.quantile(draws_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_interval(
    hits_a_N: NDArray[np.bool_], hits_b_N: NDArray[np.bool_], *, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of accuracy(a) - accuracy(b) over the same faces.

    A resampled face brings both networks' answers: only the numbers of faces that one of them alone gets right matter.
    """
    count = len(hits_a_N)
    shares = [(hits_a_N & ~hits_b_N).mean(), (~hits_a_N & hits_b_N).mean()]
    draws_R3 = generator(seed, "bootstrap").multinomial(count, [*shares, 1 - sum(shares)], size=ROUNDS)
    low, high = np.quantile((draws_R3[:, 0] - draws_R3[:, 1]) / count, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mcnemar(hits_a_N: NDArray[np.bool_], hits_b_N: NDArray[np.bool_]) -> float:
    """Exact two-sided p-value for equal error rates of two networks on the same faces, in (0, 1].

    Source: McNemar, 1947; the discordant faces are Binomial(n, 1/2) under equal rates.
    """
    a_only, b_only = int((hits_a_N & ~hits_b_N).sum()), int((~hits_a_N & hits_b_N).sum())
    n, k = a_only + b_only, min(a_only, b_only)
    if n == 0:
        return 1.0
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(k + 1)]
    return min(1.0, 2 * math.fsum(math.exp(value) for value in logs))


def calibration_error(logits_NK: Tensor, labels_N: Tensor, *, temperature: float = 1.0, bins: int = 15) -> float:
    """Expected calibration error in [0, 1]: mean distance of confidence from accuracy over equal-width bins.

    Args:
        temperature: changes the confidence only; the predicted label comes from the logits.
    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017.
    """
    hits_N = (logits_NK.argmax(dim=1) == labels_N).double()
    confidence_N = (logits_NK.double() / temperature).softmax(dim=1).amax(dim=1)
    bin_N = (confidence_N * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_N, confidence_N - hits_N)
    return float(gaps.abs().sum() / max(len(labels_N), 1))


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
    for _ in range(60):
        third = (high - low) / 3
        if float(losses_N(math.exp(low + third)).mean()) < float(losses_N(math.exp(high - third)).mean()):
            high -= third
        else:
            low += third
    temperature = min(max(math.exp((low + high) / 2), TEMPERATURES[0]), TEMPERATURES[1])
    gain_N = losses_N(1.0) - losses_N(temperature)
    if len(gain_N) < 2 or not float(gain_N.mean()) > float(gain_N.std()) / math.sqrt(len(gain_N)):
        return None
    return temperature


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for one value)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
