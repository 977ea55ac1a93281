"""How sure a figure is: intervals, calibration, and whether one network is really better than another."""

# Dimensions: N faces, K expressions, R bootstrap rounds.

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fer_ignite.data.plan import generator

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


def calibration_error(chances_NK: Tensor, labels_N: Tensor, *, bins: int = 15) -> float:
    """Expected calibration error in [0, 1]: mean distance of confidence from accuracy over equal-width bins.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017.
    """
    confidence_N, predicted_N = chances_NK.double().max(dim=1)
    hits_N = (predicted_N == labels_N).double()
    bin_N = (confidence_N * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_N, confidence_N - hits_N)
    return float(gaps.abs().sum() / max(len(labels_N), 1))


def fit_temperature(logits_NK: Tensor, labels_N: Tensor) -> float:
    """The temperature T > 0 for which softmax(logits / T) has the least cross-entropy on these faces.

    Source: Guo et al., 2017. One convex problem in 1 / T, solved by Newton's method.
    """
    logits_NK, inverse = logits_NK.double(), 1.0
    wanted_N = logits_NK.gather(1, labels_N[:, None])[:, 0]
    for _ in range(50):
        chances_NK = (logits_NK * inverse).softmax(dim=1)
        mean_N = (chances_NK * logits_NK).sum(dim=1)
        slope = float((mean_N - wanted_N).mean())
        curve = float(((chances_NK * logits_NK**2).sum(dim=1) - mean_N**2).mean())
        if curve < 1e-12 or abs(slope) < 1e-10:
            break
        # Damped, and kept positive: far from the solution Newton's step can overshoot.
        inverse = min(max(inverse - slope / curve, inverse / 4), inverse * 4)
    return 1.0 / inverse


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for one value)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
