"""Classes go by name."""

import numpy as np
import pytest

from fer_ignite.data.classes import map_classes, parse_classes, relabel
from fer_ignite.errors import ConfigError, DataError

KNOWN = ("angry", "happy", "sad")


def test_equal_sets_in_another_order_are_mapped_by_name():
    assert map_classes(("sad", "angry", "happy"), KNOWN).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (("angry", "happy"), "missing sad"),
        (("angry", "happy", "sad", "fear"), "unknown fear"),
        (("angry", "joy", "sad"), "missing happy; unknown joy"),
    ],
)
def test_a_difference_is_told_by_name(found, words):
    with pytest.raises(DataError, match=words):
        map_classes(found, KNOWN)


def test_names_are_ordered_renamed_merged_and_left_out():
    plan = parse_classes("sad, calm=happy", KNOWN)
    labels, soft = relabel(
        plan, KNOWN, np.array([0, 1, 2]), np.array([[0.5, 0.25, 0.25]] * 3, dtype=np.float32)
    )
    assert list(plan) == ["sad", "calm"] and labels.tolist() == [-1, 1, 0]
    assert soft is not None and soft[0].tolist() == [0.5, 0.5]
    merged, _ = relabel(
        parse_classes("good=happy,bad=angry+sad", KNOWN), KNOWN, np.array([0, 1, 2]), None
    )
    assert merged.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("happy,", ConfigError),
        ("happy", ConfigError),
        ("a=happy+happy,sad", ConfigError),
        ("happy,happy", ConfigError),
        ("happy,joy", DataError),
        ("=happy,sad", ConfigError),
        ("a=happy+,sad", ConfigError),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(text, error):
    with pytest.raises(error):
        parse_classes(text, KNOWN)
