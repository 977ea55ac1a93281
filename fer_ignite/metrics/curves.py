"""Precision-recall and ROC curves of one class against the others."""

# Dimensions: N faces, T thresholds (different scores).

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClassCurves", "class_curves"]


@dataclass(frozen=True)
class ClassCurves:
    """Curves of a class, one point per threshold, from the strictest to the most lenient.

    Attributes:
        recall_T, precision_T: precision-recall curve.
        false_positive_rate_T: with ``recall_T`` the ROC curve.
        average_precision: sum of precision times gain in recall, without interpolation.
        roc_auc: area under the ROC curve, by trapezoids.
    """

    recall_T: NDArray[np.float64]
    precision_T: NDArray[np.float64]
    false_positive_rate_T: NDArray[np.float64]
    average_precision: float
    roc_auc: float


def class_curves(
    scores_N: NDArray[np.floating], positive_N: NDArray[np.bool_]
) -> ClassCurves | None:
    """The curves of a class; None where it has no face, or no other class has one.

    Args:
        scores_N: the class's probability, or any score that rises with it; equal scores share one threshold.
        positive_N: whether the face is of the class.
    """
    positives, negatives = int(positive_N.sum()), int((~positive_N).sum())
    if not positives or not negatives:
        return None
    order = np.argsort(-scores_N, kind="stable")
    hits_N, sorted_N = np.cumsum(positive_N[order]), scores_N[order]
    last_T = np.append(np.flatnonzero(np.diff(sorted_N)), len(sorted_N) - 1)
    hits_T = hits_N[last_T].astype(np.float64)
    named_T = last_T + 1.0
    recall_T, precision_T = hits_T / positives, hits_T / named_T
    false_T = (named_T - hits_T) / negatives
    rise_T = np.diff(recall_T, prepend=0.0)
    before_T = np.concatenate([[0.0], recall_T[:-1]])
    area = (np.diff(false_T, prepend=0.0) * (recall_T + before_T) / 2).sum()
    return ClassCurves(
        recall_T, precision_T, false_T, float((rise_T * precision_T).sum()), float(area)
    )
