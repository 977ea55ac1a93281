"""Precision-recall and ROC curves of one class against the others."""

# Dimensions: N faces, B of a batch, K expressions, T thresholds (of ClassCurves: the different scores).

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["THRESHOLDS", "ClassCurves", "ThresholdCounts", "class_curves"]

THRESHOLDS = 101  # 0, 0.01 ... 1


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
    # The last place of each run of equal scores: no threshold parts them.
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


class ThresholdCounts(Metric):
    """Faces of each class, and of the others, that each threshold of the class's probability lets through.

    ``update`` takes (logits [B, K], labels [B]), B >= 0; ``compute`` gives int64 [2, K, T]: true positives and false
    positives at the thresholds t / (T - 1). Counts add up over processes, so any number of them gives the same.
    """

    _state_dict_all_req_keys = ("_counts",)

    def __init__(self, num_classes: int, *, device: torch.device) -> None:
        # Before Ignite's own __init__, which calls reset().
        self._shape = (2, num_classes, THRESHOLDS)
        super().__init__(lambda out: (out["y_pred"], out["y"]), device=device)

    @reinit__is_reduced
    def reset(self) -> None:
        self._counts = torch.zeros(self._shape, dtype=torch.int64, device=self._device)

    @reinit__is_reduced
    def update(self, output: Sequence[Tensor]) -> None:
        logits_BK, labels_B = output
        buckets_BK = (logits_BK.softmax(dim=1) * (THRESHOLDS - 1)).long().clamp(0, THRESHOLDS - 1)
        classes_K = torch.arange(self._shape[1], device=labels_B.device)
        other_BK = (labels_B[:, None] != classes_K).long()
        places_BK = (other_BK * self._shape[1] + classes_K) * THRESHOLDS + buckets_BK
        # One count on the device over all classes and thresholds, in place of a comparison with
        # each threshold.
        counts = torch.bincount(places_BK.flatten(), minlength=self._counts.numel())
        self._counts += counts.view(self._shape).to(self._counts.device)

    @sync_all_reduce("_counts")
    def compute(self) -> Tensor:
        # From the faces between two thresholds to those at or above each.
        return self._counts.flip(2).cumsum(2).flip(2).cpu()
