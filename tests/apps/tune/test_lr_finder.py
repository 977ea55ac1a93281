import math
import random
from itertools import pairwise

import pytest

from fer_ignite.apps.tune.lr_finder import find_lr
from fer_ignite.errors import ConfigError, FerError

# A network that learns within some steps.
LEARNS = {"model_args": {}, "augment": False, "smoothing": 0.0}


@pytest.fixture
def find(tiny, tmp_path):
    """(settings, **options) -> what the finder says of a tiny run, its picture in tmp_path."""
    return lambda settings, **options: find_lr(
        tiny(**{**LEARNS, **settings}),
        plot=str(tmp_path / "curve.png"),
        **{"iterations": 40, "start_lr": 1e-4, **options},
    )


@pytest.mark.slow
def test_the_rate_rises_evenly_by_ratio_until_the_loss_explodes(find, tmp_path):
    random.seed(3)
    found = find({})
    assert random.random() == random.Random(3).random()  # the caller's, not the run's
    lrs, losses = found["curve"]["lr"], found["curve"]["loss"]
    ratio = (10 / 1e-4) ** (1 / 40)
    assert lrs[0] == pytest.approx(1e-4 * ratio) and len(lrs) == len(losses)
    assert [b / a for a, b in pairwise(lrs[1:])] == pytest.approx(
        [ratio] * (len(lrs) - 2), rel=1e-3
    )
    assert 1e-4 < found["suggestion"] <= found["lowest"] and found["suggestion"] in lrs
    assert (
        all(map(math.isfinite, losses))
        and found["iterations"] == len(lrs) <= 40
        and max(lrs) < 10.01
    )
    # Only the picture is left: no run's folder, nothing beside it.
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_parts_with_a_rate_of_their_own_rise_in_proportion(find):
    found = find(
        {
            "lr": 0.01,
            "backbone_lr": 0.001,
            "opt": "rmsprop",
            "model_ema": True,
            "grad_accum_steps": 2,
            "precision": "bf16",
        }
    )
    # 80 micro-batches; the reported rates are those of --lr, whose own part begins at start_lr.
    assert (
        found["curve"]["lr"][0] == pytest.approx(1e-4 * (10 / 1e-4) ** (1 / 80))
        and found["iterations"] <= 40
    )


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_test_as_divergence(find):
    found = find({"opt": "sgd"}, end_lr=1000.0)
    assert found["diverged"] and all(map(math.isfinite, found["curve"]["loss"]))


def test_a_loss_that_does_not_fall_has_no_suggestion(find):
    with pytest.raises(FerError, match="there is no suggestion"):
        find({"opt": "sgd"}, start_lr=100.0, end_lr=1000.0, iterations=20)


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        ({}, {"start_lr": 1.0, "end_lr": 0.1}, "0 < start < end"),
        ({"nproc": 2}, {}, "works in one process"),
        ({"nnodes": 2}, {}, "works on one machine"),
        ({"folds": 3}, {}, "choose it with --fold"),
        ({"resume": "auto"}, {}, "--init-from"),
    ],
)
def test_what_can_t_be_looked_at_is_refused(find, tmp_path, settings, options, said):
    with pytest.raises(ConfigError, match=said):
        find(settings, **options)
    assert list(tmp_path.iterdir()) == []
