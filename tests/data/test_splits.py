"""Who trains, who selects, who judges."""

import numpy as np
import pytest

from fer_ignite.data.samples import UNDECIDED
from fer_ignite.data.splits import assign_splits, assign_val_split, joined_units, report_duplicates
from fer_ignite.errors import DataError

LABELS = np.repeat(np.arange(3), (700, 200, 100))
ALONE = np.arange(1000)


def test_every_class_is_split_in_the_same_proportions():
    splits = assign_splits(LABELS, ALONE, shares=(0.8, 0.1, 0.1), seed=0)
    for label, size in enumerate((700, 200, 100)):
        counts = np.bincount(splits[label == LABELS], minlength=3)
        assert np.abs(counts - np.array([0.8, 0.1, 0.1]) * size).max() <= 2
    assert np.bincount(splits).tolist() == [800, 100, 100]


def test_the_seed_alone_decides():
    first, again, other = (
        assign_splits(LABELS, ALONE, shares=(0.8, 0.1, 0.1), seed=seed) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_units_stay_together():
    units = np.random.default_rng(0).integers(0, 50, 1000)
    splits = assign_splits(LABELS, units, shares=(0.6, 0.2, 0.2), seed=3)
    assert all(len(set(splits[units == unit])) == 1 for unit in range(50))
    assert np.abs(np.bincount(splits) / 1000 - [0.6, 0.2, 0.2]).max() < 0.06


@pytest.mark.parametrize(
    ("units", "expected"), [(1, {0}), (2, {0, 1}), (3, {0, 1, 2}), (4, {0, 1, 2})]
)
def test_few_units_give_train_first_and_then_a_unit_each(units, expected):
    splits = assign_splits(
        np.zeros(units, dtype=np.int64), np.arange(units), shares=(0.8, 0.1, 0.1), seed=0
    )
    assert set(splits.tolist()) == expected


@pytest.mark.parametrize("sizes", [(98, 1, 1), (5, 5, 90), (50, 50), (40, 1), (7,)])
@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.1), (0.1, 0.45, 0.45), (0.2, 0.8, 0.0)])
def test_train_keeps_the_largest_unit_where_units_are_very_unequal(sizes, shares):
    units = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.zeros(len(units), dtype=np.int64)
    for seed in range(6):
        splits = assign_splits(labels, units, shares=shares, seed=seed)
        counts = np.bincount(splits, minlength=3)
        assert counts[0] > 0 and bool(counts[1]) == (len(sizes) > 1)
        assert bool(counts[2]) == (shares[2] > 0 and len(sizes) > 2)
        if shares[0] == 0.8:
            assert counts[0] == max(sizes)


@pytest.mark.parametrize(
    ("shares", "expected"), [((0.0, 0.0, 1.0), [0, 0, 100]), ((0.0, 1.0, 0.0), [0, 100, 0])]
)
@pytest.mark.parametrize("sizes", [(1,) * 100, (60, 10, 10, 10, 10)])
def test_train_gets_nothing_where_its_share_is_0(sizes, shares, expected):
    units = np.repeat(np.arange(len(sizes)), sizes)
    splits = assign_splits(np.arange(100) % 7, units, shares=shares, seed=0)
    assert np.bincount(splits, minlength=3).tolist() == expected


def test_rare_classes_stay_in_train():
    labels = np.array([0] * 98 + [1, 2])
    assert assign_splits(labels, np.arange(100), shares=(0.8, 0.1, 0.1), seed=0)[98:].tolist() == [
        0,
        0,
    ]


def decide(splits, **changes):
    wanted = {"split": None, "val_fraction": 0.1, "seed": 0, "grouped": False} | changes
    return assign_val_split(LABELS, np.array(splits, dtype=np.uint8), units_N=ALONE, **wanted)


def test_val_is_taken_from_train_and_never_from_test():
    given = np.where(np.arange(1000) % 5 == 0, 2, 0)
    splits, story = decide(given)
    assert np.array_equal(splits == 2, given == 2) and (splits == 1).sum() == 80
    assert (
        story
        == "train, test: as the source says; val: 10 % of train, stratified, equal images together, seed 0"
    )
    assert "val" not in decide(given, val_fraction=0)[1]


def test_a_source_with_val_is_left_as_it_is():
    given = np.arange(1000) % 3
    assert np.array_equal(decide(given)[0], given)


def test_images_without_a_split_beside_others_with_one_are_refused():
    given = np.where(np.arange(1000) < 7, UNDECIDED, np.arange(1000) % 3)
    with pytest.raises(DataError, match=r"^7 of the 1,000 images are in no split"):
        decide(given)


def test_no_roles_give_the_default_and_say_so():
    splits, story = decide([UNDECIDED] * 1000)
    assert np.bincount(splits).tolist() == [800, 100, 100] and "--split sets it" in story
    splits, story = decide([UNDECIDED] * 1000, split=(0.5, 0.5, 0.0))
    assert np.bincount(splits).tolist() == [500, 500] and "50/50/0 %" in story


def test_a_split_for_data_that_has_roles_is_refused():
    with pytest.raises(DataError, match="drop --split"):
        decide(np.zeros(1000), split=(0.8, 0.1, 0.1))


def test_copies_are_counted_within_and_across_roles():
    #                  train train val  test  train test  val
    copies = np.array([0, 0, 0, 1, 2, 3, 3])
    labels = np.array([5, 5, 5, 1, 1, 2, 4])
    splits = np.array([0, 0, 1, 2, 0, 2, 1], dtype=np.uint8)
    report, leaks = report_duplicates(copies, labels, splits_N=splits)
    assert report == {
        "groups": 2,
        "images": 5,
        "contradicting_groups": 1,
        "contradicting_images": 2,
        "train_in_val": 2,
        "train_in_test": 0,
        "val_in_train": 1,
        "val_in_test": 1,
        "test_in_train": 0,
        "test_in_val": 1,
    }
    assert leaks.tolist() == [True, True, False, False, False, False, True]


def test_a_chain_of_copies_and_groups_is_one_unit():
    # 0 and 1 are copies, 1 and 2 of one person, 3 alone.
    assert joined_units(np.array([0, 0, 1, 2]), np.array([5, 6, 6, 7])).tolist() == [0, 0, 0, 3]
