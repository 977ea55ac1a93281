"""What is drawn for a batch: repeatable, within its range, aligned whatever is switched on."""

import math
from dataclasses import fields

import numpy as np
import pytest

from fer_ignite.data.augment.params import AugmentSpec, mixup_partners, sample_params
from fer_ignite.errors import ConfigError

FULL = AugmentSpec(
    hflip=0.5,
    vflip=0.25,
    rotate_deg=15,
    scale=0.2,
    translate=0.1,
    shear_deg=8,
    brightness=0.3,
    contrast=0.4,
    reprob=0.25,
    mixup=0.4,
    cutmix=1.0,
)


def numbers(*key):
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def test_the_same_generator_draws_the_same():
    first, second = (
        sample_params(FULL, numbers(1, 2), count=50),
        sample_params(FULL, numbers(1, 2), count=50),
    )
    assert all(
        np.array_equal(getattr(first, field.name), getattr(second, field.name))
        for field in fields(first)
    )


def test_every_number_lies_in_its_range_and_fills_it():
    drawn = sample_params(FULL, numbers(0), count=4000)
    for name, low, high in [
        ("angle_deg", -15, 15),
        ("scale", 0.8, 1.2),
        ("shift_x", -0.1, 0.1),
        ("shift_y", -0.1, 0.1),
        ("shear_deg", -8, 8),
        ("brightness", 0.7, 1.3),
        ("contrast", 0.6, 1.4),
        ("erase_area", 0.02, 0.33),
        ("erase_ratio", 0.3, 3.3),
        ("crop_x", 0, 1),
        ("share", 0, 1),
    ]:
        values = getattr(drawn, name)
        assert low <= values.min() < low + 0.02 * (high - low), name
        assert high - 0.02 * (high - low) < values.max() <= high, name


@pytest.mark.parametrize(
    ("name", "expected"), [("hflip", 0.5), ("vflip", 0.25), ("erase", 0.25), ("cut", 0.5)]
)
def test_shares_of_images_are_as_requested(name, expected):
    count = 10_000
    spread = math.sqrt(expected * (1 - expected) / count)
    assert (
        abs(getattr(sample_params(FULL, numbers(3), count=count), name).mean() - expected)
        < 4 * spread
    )


def test_parameters_differ_between_the_images_of_a_batch():
    assert len(set(sample_params(FULL, numbers(0), count=64).angle_deg.tolist())) == 64


def test_nothing_is_changed_by_default():
    drawn = sample_params(AugmentSpec(), numbers(0), count=9)
    assert (
        not (drawn.hflip | drawn.vflip | drawn.erase).any()
        and not drawn.share.any()
        and not drawn.angle_deg.any()
    )
    assert (
        (drawn.scale == 1).all() and (drawn.brightness == 1).all() and (drawn.contrast == 1).all()
    )


def test_switching_one_thing_off_leaves_all_other_draws_and_the_generator_alone():
    whole, less = numbers(7), numbers(7)
    with_mixing = sample_params(FULL, whole, count=30)
    without = sample_params(AugmentSpec(rotate_deg=15, hflip=0.5), less, count=30)
    assert np.array_equal(with_mixing.angle_deg, without.angle_deg)
    assert np.array_equal(with_mixing.hflip, without.hflip)
    assert whole.random() == less.random()


def test_take_picks_rows_in_order():
    drawn = sample_params(FULL, numbers(0), count=10)
    chosen = drawn.take([7, 2])
    assert chosen.angle_deg.tolist() == [drawn.angle_deg[7], drawn.angle_deg[2]]
    assert chosen.partner.tolist() == [drawn.partner[7], drawn.partner[2]]
    assert len(drawn.take(slice(3, 8))) == 5 and len(drawn.take([])) == 0


@pytest.mark.parametrize("count", [2, 3, 128])
def test_everyone_has_one_partner_and_is_one_partner(count):
    partner_B = mixup_partners(sample_params(FULL, numbers(count), count=count))
    assert sorted(partner_B.tolist()) == list(range(count))
    assert (partner_B != np.arange(count)).all()


@pytest.mark.parametrize("count", [0, 1])
def test_a_batch_too_small_for_partners_is_not_mixed(count):
    drawn = sample_params(FULL, numbers(0), count=count)
    assert len(drawn) == count and not drawn.share.any()


def test_mixup_shares_follow_the_beta_distribution():
    share_B = sample_params(AugmentSpec(mixup=0.4), numbers(0), count=20_000).share
    # Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1))
    assert abs(share_B.mean() - 0.5) < 0.01
    assert abs(share_B.var() - 1 / (4 * 1.8)) < 0.005


@pytest.mark.parametrize(
    "wrong",
    [{"hflip": 1.5}, {"rotate_deg": -1}, {"scale": 1.0}, {"mixup": -0.1}, {"padding": "mirror"}],
)
def test_a_setting_out_of_range_is_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        AugmentSpec(**wrong)
