"""Precision-recall and ROC curves, against values worked out by hand and by counting pairs."""

import numpy as np
import pytest

from fer_ignite.metrics.curves import class_curves


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
