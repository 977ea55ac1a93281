"""Confidence intervals and paired tests for accuracy, shares and F1."""

# Dimensions: N faces, K expressions, R bootstrap rounds.

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fer_ignite.data.sampler import generator

__all__ = [
    "accuracy_interval",
    "f1_intervals",
    "mcnemar",
    "mean_and_spread",
    "paired_interval",
    "wilson_interval",
]

ROUNDS = 2000
_SEED = 0  # the same faces have the same interval, in every run
_TAILS = (0.025, 0.975)
Z_95 = 1.959963984540054  # the normal distribution's 97.5 % quantile


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """95 % score interval of a share, in [0, 1]; (0, 1) where nothing was counted.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    if count == 0:
        return 0.0, 1.0
    share, weight = hits / count, Z_95**2 / count
    middle = (share + weight / 2) / (1 + weight)
    reach = Z_95 * math.sqrt(share * (1 - share) / count + weight / (4 * count)) / (1 + weight)
    # At the ends the two terms are equal, up to rounding.
    return middle - reach if hits else 0.0, middle + reach if hits < count else 1.0


def f1_intervals(confusion_KK: NDArray[np.int64]) -> NDArray[np.float64]:
    """95 % percentile bootstrap intervals of each expression's F1, float64 [K, 2].

    Args:
        confusion_KK: counts, rows true.
    Source: Efron, 1979; resampling faces is drawing the matrix's cells from a multinomial distribution.
    """
    count = int(confusion_KK.sum())
    classes = len(confusion_KK)
    if count == 0:
        return np.tile([0.0, 1.0], (classes, 1))
    # K x K numbers per round instead of N resampled faces: the same distribution at a cost that N does not enter.
    shares = confusion_KK.reshape(-1) / count
    draws_RKK = (
        generator(_SEED, "bootstrap")
        .multinomial(count, shares, size=ROUNDS)
        .reshape(-1, classes, classes)
    )
    hits_RK = np.diagonal(draws_RKK, axis1=1, axis2=2)
    f1_RK = 2 * hits_RK / np.maximum(draws_RKK.sum(axis=1) + draws_RKK.sum(axis=2), 1)
    return np.quantile(f1_RK, _TAILS, axis=0).T


def accuracy_interval(hits_N: NDArray[np.bool_]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the share of hits, in [0, 1].

    Source: Efron, "Bootstrap methods", 1979; resampling N faces is drawing Binomial(N, share) hits.
    """
    count = len(hits_N)
    draws_R = generator(_SEED, "bootstrap").binomial(count, hits_N.mean(), size=ROUNDS) / count
    low, high = np.quantile(draws_R, _TAILS)
    return float(low), float(high)


def paired_interval(
    hits_a_N: NDArray[np.bool_], hits_b_N: NDArray[np.bool_]
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of accuracy(a) - accuracy(b) over the same faces.

    A resampled face brings both networks' answers: only the numbers of faces that one of them alone gets right matter.
    """
    count = len(hits_a_N)
    shares = [(hits_a_N & ~hits_b_N).mean(), (~hits_a_N & hits_b_N).mean()]
    draws_R3 = generator(_SEED, "bootstrap").multinomial(
        count, [*shares, 1 - sum(shares)], size=ROUNDS
    )
    low, high = np.quantile((draws_R3[:, 0] - draws_R3[:, 1]) / count, _TAILS)
    return float(low), float(high)


def mcnemar(hits_a_N: NDArray[np.bool_], hits_b_N: NDArray[np.bool_]) -> float:
    """Exact two-sided p-value for equal error rates of two networks on the same faces, in (0, 1].

    Source: McNemar, 1947; the discordant faces are Binomial(n, 1/2) under equal rates.
    """
    a_only, b_only = int((hits_a_N & ~hits_b_N).sum()), int((~hits_a_N & hits_b_N).sum())
    n, k = a_only + b_only, min(a_only, b_only)
    # Without discordant faces there is no evidence against equal rates.
    if n == 0:
        return 1.0
    # Logarithms: from about 1,030 discordant faces on the binomial coefficients overflow a float64.
    logs = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2)
        for i in range(k + 1)
    ]
    return min(1.0, 2 * math.fsum(math.exp(value) for value in logs))


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for one value)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
