from decimal import Decimal

import numpy as np
import pytest
import torch

from fer_ignite.metrics.scalars import as_number, scalar_metrics


@pytest.mark.parametrize(
    "value",
    [2, 2.0, np.float32(2), np.float64(2), np.int64(2), np.array(2.0), torch.tensor(2)],
    ids=repr,
)
def test_a_single_number_of_any_library_is_a_float(value):
    number = as_number(value)
    assert number == 2.0 and type(number) is float


@pytest.mark.parametrize(
    "value", [None, "2", 2j, Decimal(2), [2], np.ones(1), torch.ones(2, 2), torch.tensor(2j)]
)
def test_anything_else_is_no_number(value):
    assert as_number(value) is None


def test_metrics_that_are_no_single_numbers_are_left_out():
    metrics = {"a": np.float32(0.5), "confusion_matrix": torch.ones(2, 2), "b": 1}
    assert scalar_metrics(metrics) == {"a": 0.5, "b": 1.0}
