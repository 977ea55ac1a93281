"""Label-error scores from out-of-fold probabilities."""

# Dimensions: N images, K expressions.

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fer_ignite.imports import optional_library

__all__ = ["LabelIssues", "auroc", "find_label_issues", "label_issue_score"]

SCORES = ("surprise", "self_confidence", "margin")
_FLOOR = 1e-6  # bfloat16 networks say 0 where they mean little

Probabilities = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class LabelIssues:
    """Score and verdict of each label.

    Attributes:
        score_N: float64 in [0, 1], 1 the most doubtful; NaN for images that were not judged.
        listed_N: bool, probably wrong.
        predicted_N: int64, the label that the network would give; -1 where it was not predicted.
    """

    score_N: NDArray[np.float64]
    listed_N: NDArray[np.bool_]
    predicted_N: Labels


def find_label_issues(
    probabilities_NK: Probabilities,
    labels_N: Labels,
    *,
    scored_N: NDArray[np.bool_],
    label_method: str = "own",
) -> LabelIssues:
    """Scores the labels of all images that were classified.

    Args:
        probabilities_NK: float32 probabilities; rows of images that were not judged are ignored.
        label_method: "own" lists labels whose surprise exceeds the expected one; "cleanlab" takes both the list and the
            score from that package.
    Raises:
        ConfigError: cleanlab is requested and not installed.
    """
    score_N = np.full(len(labels_N), np.nan)
    listed_N = np.zeros(len(labels_N), dtype=np.bool_)
    predicted_N = np.full(len(labels_N), -1, dtype=np.int64)
    if not scored_N.any():
        return LabelIssues(score_N, listed_N, predicted_N)
    probabilities_JK, labels_J = probabilities_NK[scored_N], labels_N[scored_N]
    predicted_N[scored_N] = probabilities_JK.argmax(axis=1)
    if label_method == "cleanlab":
        score_N[scored_N], listed_N[scored_N] = _score_with_cleanlab(probabilities_JK, labels_J)
    else:
        score_N[scored_N] = label_issue_score(probabilities_JK, labels_J)
        listed_N[scored_N] = score_N[scored_N] > 0.5
    # A label that the network itself would give is not called wrong.
    return LabelIssues(score_N, listed_N & (predicted_N != labels_N), predicted_N)


def label_issue_score(
    probabilities_NK: Probabilities, labels_N: Labels, *, kind: str = "surprise"
) -> NDArray[np.float64]:
    """How doubtful each label is, in [0, 1].

    Args:
        kind: "surprise": s / (s + h) with s = -log p(label) and h the entropy, which is the surprise that the network
            expects: above one half the label surprises more than expected. "self_confidence": 1 - p(label).
            "margin": (1 + largest other p - p(label)) / 2.
    Source: the three ideas are those of confident learning (Northcutt, Jiang, Chuang, JAIR 2021, arXiv:1911.00068) and
        of Kuan and Mueller, "Model-agnostic label quality scoring", 2022; s and h are put together in our own way.
    """
    probabilities_NK = probabilities_NK.astype(np.float64)
    rows = np.arange(len(labels_N))
    own_N = probabilities_NK[rows, labels_N]
    if kind == "self_confidence":
        return np.asarray(1 - own_N)
    if kind == "margin":
        others_NK = probabilities_NK.copy()
        others_NK[rows, labels_N] = -1
        return np.asarray((1 + others_NK.max(axis=1) - own_N) / 2)
    sure_NK = np.clip(probabilities_NK, _FLOOR, 1)
    surprise_N = -np.log(sure_NK[rows, labels_N])
    expected_N = -(sure_NK * np.log(sure_NK)).sum(axis=1)
    return np.asarray(surprise_N / np.maximum(surprise_N + expected_N, _FLOOR))


def auroc(scores_N: NDArray[np.float64], wrong_N: NDArray[np.bool_]) -> float:
    """Probability that a wrong label has a higher score than a right one, ties counted half; NaN where one kind lacks.

    Source: Mann and Whitney, 1947: the mean rank of the wrong ones says it.
    """
    wrong, right = int(wrong_N.sum()), int((~wrong_N).sum())
    if not wrong or not right:
        return float("nan")
    _, place_N, count_V = np.unique(scores_N, return_inverse=True, return_counts=True)
    rank_V = np.cumsum(count_V) - (count_V - 1) / 2
    return float((rank_V[place_N][wrong_N].sum() - wrong * (wrong + 1) / 2) / (wrong * right))


def _score_with_cleanlab(
    probabilities_JK: Probabilities, labels_J: Labels
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    filters = optional_library("cleanlab.filter", extra="audit", purpose="--label-method cleanlab")
    rank = optional_library("cleanlab.rank", extra="audit", purpose="--label-method cleanlab")
    probabilities_JK = probabilities_JK / probabilities_JK.sum(axis=1, keepdims=True)
    quality_J = rank.get_label_quality_scores(
        labels_J, probabilities_JK, method="normalized_margin"
    )
    # n_jobs=1: cleanlab's default starts a process per core.
    listed_J = filters.find_label_issues(labels_J, probabilities_JK, filter_by="both", n_jobs=1)
    return 1 - np.asarray(quality_J, dtype=np.float64), np.asarray(listed_J, dtype=np.bool_)
