import numpy as np
import pytest
import torch

from fer_ignite.metrics.calibration import build_calibration, calibration_error
from fer_ignite.metrics.intervals import f1_intervals, wilson_interval


def test_wilson_s_interval_is_the_solution_of_its_equation():
    """Its ends are the shares p for which |hits / n - p| is z standard errors at p."""
    for hits, count in ((3, 10), (57, 70), (0, 12), (12, 12)):
        for end in wilson_interval(hits, count):
            if 0 < end < 1:
                assert abs(hits / count - end) == pytest.approx(
                    1.959964 * np.sqrt(end * (1 - end) / count), abs=1e-6
                )
    assert (
        wilson_interval(0, 12)[0] == 0
        and wilson_interval(12, 12)[1] == 1
        and wilson_interval(0, 0) == (0, 1)
    )


def test_f1_s_interval_holds_it_and_narrows_with_more_faces():
    matrix_KK = np.array([[40, 10], [20, 30]])
    f1_K = [2 * 40 / (50 + 60), 2 * 30 / (50 + 40)]
    few_K2, many_K2 = f1_intervals(matrix_KK), f1_intervals(100 * matrix_KK)
    for k in range(2):
        assert few_K2[k, 0] < many_K2[k, 0] < f1_K[k] < many_K2[k, 1] < few_K2[k, 1]
    widths = (few_K2[:, 1] - few_K2[:, 0]) / (many_K2[:, 1] - many_K2[:, 0])
    assert widths == pytest.approx([10, 10], rel=0.15)  # the square root of 100
    assert f1_intervals(np.zeros((2, 2), dtype=np.int64)).tolist() == [[0, 1], [0, 1]]


def test_confidence_is_binned_with_all_faces_and_the_published_error():
    torch.manual_seed(0)
    logits_NK, labels_N = 2 * torch.randn(300, 5), torch.randint(5, (300,))
    found = build_calibration(logits_NK, labels_N, temperature=2.0, bins=15)
    assert sum(part.count for part in found.bins) == 300
    assert all(
        part.low - 1e-9 <= part.confidence <= part.high + 1e-9 and part.count > 0
        for part in found.bins
    )
    gap = sum(part.count / 300 * abs(part.accuracy - part.confidence) for part in found.bins)
    assert (
        found.error
        == pytest.approx(gap)
        == pytest.approx(calibration_error(logits_NK, labels_N, temperature=2.0))
    )
