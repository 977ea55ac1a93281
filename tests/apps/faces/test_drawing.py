"""Boxes and labels on pictures, read back as pixels."""

import numpy as np
import pytest

from fer_ignite.apps.faces.detection import Box
from fer_ignite.apps.faces.drawing import draw_faces_on_image
from fer_ignite.apps.faces.face_reader import FaceReading
from fer_ignite.data.expressions import EXPRESSIONS

GRAY = 30


@pytest.fixture
def blank():
    return np.full((300, 400, 3), GRAY, np.uint8)


def reading(expression, *, left=100, top=100, side=80):
    return FaceReading(Box(left, top, side, side, 1.0), {expression: 0.9, "other": 0.1})


def outline(drawn, *, left=100, top=100, side=80):
    """The colour in the middle of a box's lower edge, where no label can be."""
    return tuple(drawn[top + side, left + side // 2].tolist())


def label_pixels(before, after, colour):
    changed = (before != after).any(axis=2)
    return changed & (after == np.array(colour)).all(axis=2)


def test_every_expression_has_a_colour_of_its_own(blank):
    colours = {outline(draw_faces_on_image(blank, [reading(name)])) for name in EXPRESSIONS}
    assert len(colours) == len(EXPRESSIONS) and (GRAY,) * 3 not in colours


def test_synonyms_have_the_colour_of_their_expression(blank):
    happy, happiness, word = (
        outline(draw_faces_on_image(blank, [reading(name)]))
        for name in ("happy", "Happiness", "bored")
    )
    assert happy == happiness != word


def test_a_neighbours_box_does_not_cover_a_label(blank):
    """The second box's edge runs through the first one's label; the label is drawn last."""
    first = reading("happy", left=100, top=100)
    second = reading("sad", left=110, top=60, side=120)
    alone = draw_faces_on_image(blank, [second])
    both = draw_faces_on_image(blank, [second, first])
    sad = outline(alone, left=110, top=60, side=120)
    happy = outline(both)
    inside_the_label = (slice(86, 98), slice(108, 114))  # where the second box's left edge was
    assert (alone[inside_the_label] == sad).all(axis=2).any()
    assert not (both[inside_the_label] == sad).all(axis=2).any()
    assert (both[inside_the_label] == happy).all(axis=2).any()


def test_several_faces_are_numbered_and_a_single_one_is_not(blank):
    """A number makes the label wider."""
    alone = draw_faces_on_image(blank, [reading("happy")])
    two = draw_faces_on_image(blank, [reading("happy"), reading("sad", left=250, top=200)])
    happy = outline(alone)
    row = slice(80, 99)
    wide = label_pixels(blank, two, happy)[row].any(axis=0).sum()
    narrow = label_pixels(blank, alone, happy)[row].any(axis=0).sum()
    assert wide > narrow + 5


def test_labels_stay_inside_the_picture(blank):
    """At the right border the label moves left, at the top it goes inside the box."""
    drawn = draw_faces_on_image(blank, [reading("surprise", left=370, top=2, side=28)])
    colour = tuple(drawn[30, 384].tolist())
    found = np.argwhere((drawn == np.array(colour)).all(axis=2))
    assert found[:, 1].min() < 330 and drawn.shape == blank.shape
