"""Statistics against closed forms and counts done by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fer_ignite.metrics.calibration import calibration_error, fit_temperature
from fer_ignite.metrics.intervals import (
    accuracy_interval,
    mcnemar,
    mean_and_spread,
    paired_interval,
)


def hits(*runs):
    return np.concatenate([np.full(count, value, dtype=bool) for value, count in runs])


def test_the_interval_is_the_normal_one_for_many_faces():
    low, high = accuracy_interval(hits((True, 7000), (False, 3000)))
    width = 1.96 * math.sqrt(0.7 * 0.3 / 10_000)
    assert low == pytest.approx(0.7 - width, abs=0.001)
    assert high == pytest.approx(0.7 + width, abs=0.001)


def test_equal_networks_have_an_interval_of_zero_width_around_zero():
    same = hits((True, 50), (False, 50))
    assert paired_interval(same, same) == (0.0, 0.0)


def test_a_paired_interval_ignores_faces_that_both_get_right():
    a = hits((True, 900), (True, 60), (False, 40))
    b = hits((True, 900), (False, 60), (True, 40))
    low, high = paired_interval(a, b)
    # variance of the difference of two multinomial shares p, q: (p + q - (p - q)^2) / n
    width = 1.96 * math.sqrt((0.06 + 0.04 - 0.02**2) / 1000)
    assert low == pytest.approx(0.02 - width, abs=0.003)
    assert high == pytest.approx(0.02 + width, abs=0.003)


def test_mcnemar_is_the_two_sided_binomial_test_of_the_discordant_faces():
    a = hits((True, 8), (False, 2), (True, 90))
    b = hits((False, 8), (True, 2), (True, 90))
    expected = 2 * sum(math.comb(10, k) for k in range(3)) / 2**10
    assert mcnemar(a, b) == pytest.approx(expected)
    assert mcnemar(a, a) == 1.0


def test_calibration_error_of_a_network_that_is_half_as_good_as_it_thinks():
    logits = torch.tensor([[100.0, 0.0]] * 10)
    labels = torch.tensor([0] * 5 + [1] * 5)
    assert calibration_error(logits, labels) == pytest.approx(0.5)
    # At temperature 100 / ln 3 the same labels are given with a confidence of 3 / 4.
    assert calibration_error(logits, labels, temperature=100 / math.log(3)) == pytest.approx(0.25)


def test_confidences_that_come_true_have_no_calibration_error():
    logits = torch.tensor([[0.8, 0.2]] * 10).log()
    labels = torch.tensor([0] * 8 + [1] * 2)
    assert calibration_error(logits, labels) == pytest.approx(0.0, abs=1e-7)


def test_the_fitted_temperature_undoes_a_known_one():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 5, generator=draw, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=draw)[:, 0]
    fitted = fit_temperature(3 * logits, labels)
    assert fitted == pytest.approx(3.0, rel=0.06)
    losses = [
        float(F.cross_entropy(3 * logits / (fitted * factor), labels)) for factor in (0.9, 1, 1.1)
    ]
    assert losses[1] == min(losses)


@pytest.mark.parametrize("scale", [1e-6, 0.01, 0.2])
def test_a_network_at_chance_with_small_logits_is_not_calibrated(scale):
    draw = torch.Generator().manual_seed(1)
    logits = scale * torch.randn(70, 7, generator=draw)
    assert fit_temperature(logits, torch.arange(70) % 7) is None


@pytest.mark.parametrize("scale", [30, 1e4])
def test_a_sure_network_at_chance_gets_the_highest_temperature_and_no_higher(scale):
    draw = torch.Generator().manual_seed(1)
    assert fit_temperature(
        scale * torch.randn(700, 7, generator=draw), torch.arange(700) % 7
    ) == pytest.approx(20)


def test_a_network_that_is_always_right_and_unsure_gets_the_lowest_temperature_and_no_lower():
    labels = torch.arange(70) % 7
    assert fit_temperature(F.one_hot(labels, 7).float(), labels) == pytest.approx(0.05)


def test_no_temperature_is_fitted_where_one_is_the_best_or_a_single_face_is_all_there_is():
    draw = torch.Generator().manual_seed(2)
    logits = torch.randn(4000, 5, generator=draw, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=draw)[:, 0]
    assert fit_temperature(logits, labels) is None
    assert fit_temperature(logits[:1], labels[:1]) is None


def test_mean_and_sample_deviation():
    assert mean_and_spread([1.0, 3.0]) == (2.0, pytest.approx(math.sqrt(2)))
    assert mean_and_spread([4.0]) == (4.0, 0.0)
