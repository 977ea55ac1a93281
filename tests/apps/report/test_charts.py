import xml.etree.ElementTree as ET

import pytest

from fer_ignite.apps.report.charts import Series, line_chart, nice_ticks, share_chart
from fer_ignite.apps.report.curves import history_charts, points, shared_charts

HOSTILE = "</svg><script>alert(1)</script>\"'&"


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.18, 0.65), (1, 16), (3, 3), (0, 0), (-2, 5e6), (1.1949, 1.1951), (1e-9, 2e-9)],
)
def test_ticks_are_round_and_enclose_the_values(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12 and 2 <= len(ticks) <= 8
    step = ticks[1] - ticks[0]
    assert f"{step:.4e}"[0] in "125"


def test_a_chart_is_well_formed_says_what_it_shows_and_stays_within_its_frame():
    svg = ET.fromstring(
        line_chart(
            "k", "Loss", series=[Series("val", [(1, 2.0), (2, 1.5), (3, 1.75)])], x_label="epoch"
        )
    )
    assert (
        svg.find("title").text == "Loss"
        and "val: from 2 to 1.75 over 3 points" in svg.find("desc").text
    )
    assert svg.get("aria-labelledby").split() == [
        svg.find("title").get("id"),
        svg.find("desc").get("id"),
    ]
    (line,) = svg.findall("polyline")
    pairs = [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
    _, _, width, height = map(float, svg.get("viewBox").split())
    assert all(0 <= x <= width and 0 <= y <= height for x, y in pairs)
    assert pairs[1][1] > pairs[2][1] > pairs[0][1]  # the smaller, the lower: y points down


def test_names_never_become_markup():
    for chart in (
        line_chart("k", HOSTILE, series=[Series(HOSTILE, [(1, 1)])], x_label=HOSTILE),
        share_chart("k", HOSTILE, rows=[(HOSTILE, [(0.5, 0.4, 0.6)])]),
    ):
        assert "<script" not in chart
        assert {element.tag for element in ET.fromstring(chart).iter()} <= {
            "svg",
            "title",
            "desc",
            "line",
            "text",
            "polyline",
            "circle",
        }


def test_what_is_not_finite_or_missing_has_no_point():
    history = [
        {"epoch": 1, "val_loss": float("nan")},
        {"epoch": 2},
        {"epoch": 3, "val_loss": 1.0},
        {"epoch": 4, "val_loss": None},
    ]
    assert points(history, "val_loss") == [(3, 1.0)]
    assert [chart["title"] for chart in history_charts(history)] == ["Loss"]
    assert history_charts([]) == [] and shared_charts(["a"], [[]]) == []
