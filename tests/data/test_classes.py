"""Class names: matching by name and meaning, renaming and merging."""

import numpy as np
import pytest

from fer_ignite.data.classes import match_classes, parse_classes, relabel, require_known_classes
from fer_ignite.errors import ConfigError, DataError

KNOWN = ("angry", "happy", "sad")


def test_equal_sets_in_another_order_are_matched_by_name():
    match = match_classes(("sad", "angry", "happy"), KNOWN)
    assert match.places_K.tolist() == [2, 0, 1]
    assert (match.unknown, match.absent, match.renamed) == ((), (), "")


def test_other_words_for_an_expression_are_matched_and_named():
    match = match_classes(("Anger", "0_happiness", "SA", "contempt"), KNOWN)
    assert match.places_K.tolist() == [0, 1, 2, -1]
    assert match.renamed == "Anger = angry, 0_happiness = happy, SA = sad"
    assert match.unknown == ("contempt",) and match.absent == ()
    with pytest.raises(
        DataError, match=r"doesn't know contempt \(it knows angry, happy, sad\); do x\."
    ):
        require_known_classes(match, remedy="do x")


def test_several_names_of_one_expression_meet_in_one_class():
    match = match_classes(("mad", "angry"), KNOWN)
    assert match.places_K.tolist() == [0, 0] and match.absent == ("happy", "sad")


def test_a_name_that_may_be_two_of_the_networks_classes_is_refused():
    with pytest.raises(
        DataError, match=r"happiness may be any of the network's happy, joy; .*--classes"
    ):
        match_classes(("happiness", "sad"), ("happy", "joy", "sad"))
    assert match_classes(("joy", "happy"), ("happy", "joy", "sad")).places_K.tolist() == [1, 0]


def test_numbers_are_matched_with_the_same_numbers_alone():
    assert match_classes(("1", "0"), ("0", "1")).places_K.tolist() == [1, 0]
    with pytest.raises(
        DataError,
        match=r"the data's classes are numbers \(0, 1\).*--layout rafdb\|fer2013\|affectnet.*--classes 'angry=0",
    ):
        match_classes(("0", "1"), KNOWN)
    with pytest.raises(DataError, match=r"the network's classes are numbers \(0, 1\)"):
        match_classes(KNOWN, ("0", "1"))


def test_composed_and_decomposed_letters_are_one_name():
    composed, decomposed = "col\u00e8re", "cole\u0300re"
    assert match_classes((decomposed, "peur"), ("peur", composed)).places_K.tolist() == [1, 0]
    assert parse_classes(f"peur,{composed}", (decomposed, "peur")) == {
        "peur": ("peur",),
        composed: (decomposed,),
    }


def test_names_are_ordered_renamed_merged_and_left_out():
    plan = parse_classes("sad, calm=happy", KNOWN)
    labels, soft = relabel(
        plan,
        KNOWN,
        labels_N=np.array([0, 1, 2]),
        soft_NK=np.array([[0.5, 0.25, 0.25]] * 3, dtype=np.float32),
    )
    assert list(plan) == ["sad", "calm"] and labels.tolist() == [-1, 1, 0]
    assert soft is not None and soft[0].tolist() == [0.5, 0.5]
    merged, _ = relabel(
        parse_classes("good=happy,bad=angry+sad", KNOWN),
        KNOWN,
        labels_N=np.array([0, 1, 2]),
        soft_NK=None,
    )
    assert merged.tolist() == [1, 0, 1]


def test_classes_may_be_named_by_another_word_for_the_same_expression():
    assert parse_classes("anger, joy", KNOWN) == {"anger": ("angry",), "joy": ("happy",)}
    assert parse_classes("calm=sadness+joy, mad", KNOWN) == {
        "calm": ("sad", "happy"),
        "mad": ("angry",),
    }


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("happy,", ConfigError),
        ("happy", ConfigError),
        ("a=happy+happy,sad", ConfigError),
        ("happy,happy", ConfigError),
        ("happy,joy", ConfigError),  # one class of the data under two names
        ("happy,wonder", DataError),
        ("=happy,sad", ConfigError),
        ("a=happy+,sad", ConfigError),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(text, error):
    with pytest.raises(error):
        parse_classes(text, KNOWN)
