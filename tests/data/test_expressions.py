"""The expression vocabulary."""

import pytest

from fer_ignite.data.expressions import (
    EXPRESSIONS,
    NUMBERED_CLASSES,
    are_numbers,
    find_expression,
    other_spellings,
)

ROWS = {
    "angry": "anger angry mad AN 怒り",
    "disgust": "disgust disgusted DI 嫌悪",
    "fear": "fear fearful afraid scared FE 恐怖",
    "happy": "happiness happy joy HA 喜び",
    "sad": "sadness sad SA 悲しみ",
    "surprise": "surprise surprised SU 驚き",
    "neutral": "neutral neutrality NE 中立",
    "contempt": "contempt contemptuous",
}


@pytest.mark.parametrize(
    ("word", "meaning"), [(word, name) for name, words in ROWS.items() for word in words.split()]
)
def test_every_word_means_its_expression_in_any_case_and_with_a_number_before(word, meaning):
    forms = (word, word.upper(), word.title(), f" {word} ", f"0_{word}", f"1-{word}", f"03. {word}")
    assert {find_expression(form) for form in forms} == {meaning}


@pytest.mark.parametrize(
    "word", ["", "0", "7", "gloomy", "angryhappy", "none", "uncertain", "_", "1_2"]
)
def test_other_words_and_numbers_mean_nothing(word):
    assert find_expression(word) is None


def test_numbers_are_recognised_as_such():
    assert are_numbers(["0", "1", "06"]) and are_numbers(["1.0", "2.0"])
    assert not are_numbers(["0", "angry"]) and not are_numbers([]) and not are_numbers(["0_angry"])


def test_published_numberings_hold_each_expression_once():
    for numbering in NUMBERED_CLASSES.values():
        assert len(set(numbering.values())) == len(numbering)
        assert set(numbering.values()) <= set(EXPRESSIONS)
    assert NUMBERED_CLASSES["rafdb"][1] == "surprise" and NUMBERED_CLASSES["rafdb"][7] == "neutral"
    assert NUMBERED_CLASSES["affectnet"][7] == "contempt"


def test_only_names_that_are_another_word_are_listed():
    assert other_spellings(["anger", "happy", "gloomy", "3"]) == "anger = angry"
