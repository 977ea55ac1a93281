import re
from html.parser import HTMLParser

import numpy as np
import pytest

from fer_ignite.apps.demo.analyzer import Analysis, Face
from fer_ignite.apps.demo.examples import draw_examples
from fer_ignite.apps.demo.html import MAX_FACES, analysis_html, examples_html
from fer_ignite.apps.faces.detection import Box

PICTURE_HW3 = np.zeros((60, 80, 3), np.uint8)


class Tags(HTMLParser):
    """The tags of a piece of HTML with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def of(self, name):
        return [attributes for tag, attributes in self.found if tag == name]


def test_every_expression_has_a_bar_as_long_as_its_share_and_the_share_in_figures():
    text = analysis_html(Analysis("", PICTURE_HW3, (Face({"happy": 0.75, "sad": 0.25}),)))
    assert re.findall(r"width:([\d.]+)%", text) == ["75.0", "25.0"]
    assert re.findall(r'fer-share">([\d.]+ %)', text) == ["75.0 %", "25.0 %"]
    assert Tags(text).of("section")[0]["aria-label"] == "happy, 75\N{NO-BREAK SPACE}%"


def test_every_face_has_a_numbered_box_in_the_picture_s_own_pixels():
    faces = tuple(Face({"happy": 1.0}, Box(10 * i, 5, 8, 9)) for i in range(3))
    tags = Tags(analysis_html(Analysis("", PICTURE_HW3, faces)))
    assert [(box["x"], box["y"], box["width"], box["height"]) for box in tags.of("rect")] == [
        (f"{10 * i:.1f}", "5.0", "8.0", "9.0") for i in range(3)
    ]
    assert tags.of("svg")[0]["viewbox"] == "0 0 80 60"
    assert "3 numbered face boxes" in tags.of("svg")[0]["aria-label"]


@pytest.mark.parametrize(
    "box",
    [
        Box(-20, -20, 30, 30),
        Box(70, 50, 300, 300),
        Box(500, 500, 9, 9),
        Box(5, 5, 0, 0),
        Box(-9, -9, 3, 3),
    ],
)
def test_boxes_that_reach_over_the_border_still_show_something(box):
    assert (
        len(Tags(analysis_html(Analysis("", PICTURE_HW3, (Face({"happy": 1.0}, box),)))).of("img"))
        == 1
    )


def test_names_never_become_markup():
    text = analysis_html(
        Analysis(
            "", PICTURE_HW3, (Face({"<script>alert(1)</script>": 0.5, '" onload="alert(1)': 0.5}),)
        )
    )
    tags = Tags(text)
    assert tags.of("script") == [] and not any(
        "onload" in attributes for _, attributes in tags.found
    )


def test_of_a_crowd_not_all_are_listed_and_that_is_said():
    faces = tuple(Face({"happy": 1.0}, Box(i, 0, 5, 5)) for i in range(MAX_FACES + 3))
    text = analysis_html(Analysis("", PICTURE_HW3, faces))
    assert (
        len(Tags(text).of("section")) == MAX_FACES and len(Tags(text).of("rect")) == MAX_FACES + 3
    )
    assert "3 more faces" in text


def test_what_is_no_picture_has_no_details():
    assert analysis_html(Analysis("evil.png: no image data.")) == ""


def test_the_examples_are_buttons_named_by_what_was_drawn():
    examples = draw_examples()
    tags = Tags(examples_html(examples))
    assert [button["data-index"] for button in tags.of("button")] == [
        str(i) for i in range(len(examples))
    ]
    assert all(example.image().size == (192, 192) for example in examples)
    assert len({example.expression for example in examples}) == len(examples) == 7
