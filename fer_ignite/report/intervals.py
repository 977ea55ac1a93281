"""How sure the figures of one expression are: an interval for a share, and one for F1."""

# Dimensions: K expressions, R bootstrap rounds.

import math

import numpy as np
from numpy.typing import NDArray

from fer_ignite.data.plan import generator

__all__ = ["f1_intervals", "wilson_interval"]

ROUNDS = 2000
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


def f1_intervals(confusion_KK: NDArray[np.int64], *, seed: int = 0) -> NDArray[np.float64]:
    """95 % percentile bootstrap intervals of each expression's F1, float64 [K, 2].

    Args:
        confusion_KK: counts, rows true.
    Source: Efron, 1979; resampling faces is drawing the matrix's cells from a multinomial distribution.
    """
    count = int(confusion_KK.sum())
    classes = len(confusion_KK)
    if count == 0:
        return np.tile([0.0, 1.0], (classes, 1))
    shares = confusion_KK.reshape(-1) / count
    draws_RKK = generator(seed, "bootstrap").multinomial(count, shares, size=ROUNDS).reshape(-1, classes, classes)
    hits_RK = np.diagonal(draws_RKK, axis1=1, axis2=2)
    f1_RK = 2 * hits_RK / np.maximum(draws_RKK.sum(axis=1) + draws_RKK.sum(axis=2), 1)
    return np.quantile(f1_RK, [0.025, 0.975], axis=0).T
