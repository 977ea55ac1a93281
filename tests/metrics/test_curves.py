"""Precision-recall and ROC curves, against values worked out by hand and by counting pairs."""

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from fer_ignite.metrics.curves import THRESHOLDS, ThresholdCounts, class_curves


def test_a_small_ranking_by_hand():
    curves = class_curves(np.array([0.9, 0.8, 0.7, 0.4]), np.array([True, False, True, False]))
    assert curves.recall_T.tolist() == [0.5, 0.5, 1.0, 1.0]
    assert curves.precision_T.tolist() == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])
    assert curves.false_positive_rate_T.tolist() == [0.0, 0.5, 0.5, 1.0]
    assert curves.average_precision == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert curves.roc_auc == pytest.approx(0.75)


def test_the_area_is_the_share_of_pairs_in_the_right_order_and_ties_count_half():
    draw = np.random.default_rng(0)
    scores_N = draw.integers(0, 12, 300) / 12
    positive_N = draw.random(300) < 0.2 + 0.5 * scores_N
    higher = np.sign(scores_N[positive_N][:, None] - scores_N[~positive_N][None, :])
    curves = class_curves(scores_N, positive_N)
    assert curves.roc_auc == pytest.approx(((higher + 1) / 2).mean())
    assert len(curves.recall_T) == 12 and curves.recall_T[-1] == 1


def test_a_class_without_faces_has_no_curve():
    assert class_curves(np.ones(3), np.zeros(3, dtype=bool)) is None
    assert class_curves(np.ones(3), np.ones(3, dtype=bool)) is None


def batch(logits_BK, labels_B):
    return {"y_pred": logits_BK, "y": labels_B}


def test_threshold_counts_are_those_of_counting_at_each_threshold():
    draw = torch.Generator().manual_seed(3)
    logits_NK = 3 * torch.randn(200, 4, generator=draw)
    labels_N = torch.randint(4, (200,), generator=draw)
    counter = Engine(lambda engine, part: batch(*part))
    ThresholdCounts(4, device=torch.device("cpu")).attach(counter, "counts")
    parts = [(logits_NK[:150], labels_N[:150]), (logits_NK[:0], labels_N[:0])]
    counts_2KT = counter.run([*parts, (logits_NK[150:], labels_N[150:])]).metrics["counts"]
    bucket_NK = (logits_NK.softmax(dim=1) * (THRESHOLDS - 1)).floor()
    for k in range(4):
        own_N = labels_N == k
        for t in (0, 1, 37, THRESHOLDS - 1):
            passed_N = bucket_NK[:, k] >= t
            expected = [int((passed_N & own_N).sum()), int((passed_N & ~own_N).sum())]
            assert counts_2KT[:, k, t].tolist() == expected
    assert counts_2KT[:, :, 0].sum(0).tolist() == [200] * 4


def test_a_face_that_is_certain_passes_the_highest_threshold():
    metric = ThresholdCounts(2, device=torch.device("cpu"))
    metric.update((torch.tensor([[200.0, -200.0]]), torch.tensor([0])))
    assert metric.compute()[0, 0].tolist() == [1] * THRESHOLDS
    assert metric.compute()[1, 1].tolist() == [1] + [0] * (THRESHOLDS - 1)
