"""Charts as inline SVG, coloured by the page's style sheet.

Elements are built as a tree, so that whatever names hold is escaped. Each chart has a title and a description in words.
"""

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

from fer_ignite.metrics.calibration import Calibration

__all__ = ["Series", "Svg", "line_chart", "reliability_chart", "share_chart"]

WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34


class Svg(str):
    """Markup of our own making; templates with autoescape take it as it is."""

    def __html__(self) -> str:
        return self


@dataclass(frozen=True)
class Series:
    """One line of a chart; ``style`` is the place of its colour and dashes in the page's style."""

    name: str
    points: Sequence[tuple[float, float]]
    style: int = 0


@dataclass(frozen=True)
class Scale:
    """From values to places, linearly."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def line_chart(
    key: str,
    title: str,
    *,
    series: Sequence[Series],
    x_label: str,
    percent: bool = False,
    whole: bool = True,
) -> Svg:
    """Lines over a shared axis; no chart, an empty string, where no series has a point.

    Args:
        key: unique on the page; names the chart's title and description for screen readers.
        percent: values are shares, shown in per cent.
        whole: only whole numbers are marked on the other axis.
    """
    values = [y for line in series for _, y in line.points]
    places = [x for line in series for x, _ in line.points]
    if not values:
        return Svg("")
    ticks = nice_ticks(min(values), max(values))
    # A single place: a scale of no width would divide by zero.
    first, last = (
        (min(places), max(places)) if len(set(places)) > 1 else (places[0] - 0.5, places[0] + 0.5)
    )
    # The curve fills the whole width: round values beyond its ends would lie outside of the frame.
    x_ticks = [
        tick for tick in nice_ticks(first, last, most=6, whole=whole) if first <= tick <= last
    ]
    across = Scale(first, last, LEFT + 6, WIDTH - RIGHT - 4)
    up = Scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    svg = _canvas(
        key,
        title,
        description="; ".join(_describe_line(line, percent) for line in series if line.points),
    )
    _axes(svg, across, up=up, x_ticks=x_ticks, y_ticks=ticks, x_label=x_label, percent=percent)
    for line in series:
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line.points)
        ET.SubElement(svg, "polyline", {"points": path, "class": f"line s{line.style % 8}"})
        # More dots would cover the line, and each one adds its own tooltip to the page.
        if len(line.points) <= 40:
            for x, y in line.points:
                text = f"{line.name}, {x:g}: {_shown(y, percent)}"
                _dot(svg, across(x), up(y), radius=2.4, style=line.style % 8, text=text)
    return _text(svg)


def reliability_chart(key: str, before: Calibration, *, after: Calibration | None) -> Svg:
    """Accuracy over confidence, with 95 % intervals, before and after the temperature; the diagonal is perfect."""
    title = "Accuracy by confidence"
    description = f"calibration error {100 * before.error:.1f} per cent"
    if after is not None:
        description += (
            f" as trained, {100 * after.error:.1f} per cent at temperature {after.temperature:.2f}"
        )
    svg = _canvas(key, title, description=description + "; the diagonal is perfect calibration")
    ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    across, up = Scale(0, 1, LEFT, WIDTH - RIGHT), Scale(0, 1, HEIGHT - BOTTOM, TOP)
    _axes(
        svg,
        across,
        up=up,
        x_ticks=ticks,
        y_ticks=ticks,
        x_label="confidence in %",
        percent=True,
        x_percent=True,
    )
    _line(svg, (across(0), up(0)), (across(1), up(1)), kind="diagonal")
    # Drawn 3 px apart: the bins of both lie at similar confidences, and the intervals would overlap.
    for style, shift, side in ((1, -1.5, before), (0, 1.5, after)):
        if side is None:
            continue
        xs = [across(point.confidence) + shift for point in side.bins]
        for x, point in zip(xs, side.bins, strict=True):
            low, high = (up(bound) for bound in point.interval)
            _line(svg, (x, low), (x, high), kind=f"whisker s{style}")
        path = " ".join(
            f"{x:.1f},{up(point.accuracy):.1f}" for x, point in zip(xs, side.bins, strict=True)
        )
        ET.SubElement(svg, "polyline", {"points": path, "class": f"line s{style}"})
        for x, point in zip(xs, side.bins, strict=True):
            text = f"{point.count} faces, {100 * point.confidence:.0f} % sure, {100 * point.accuracy:.0f} % right"
            _dot(svg, x, up(point.accuracy), radius=3, style=style, text=text)
    return _text(svg)


def share_chart(
    key: str, title: str, *, rows: Sequence[tuple[str, Sequence[tuple[float, float, float]]]]
) -> Svg:
    """Shares with intervals, a row per name, a mark per value: (share, low, high), in the order of the page's styles."""
    marks = max((len(values) for _, values in rows), default=1)
    step = 14 * marks + 12
    height = TOP + step * len(rows) + BOTTOM
    # Wider than LEFT: class names stand there, in place of numbers.
    left = 100
    description = "; ".join(
        f"{name} " + " and ".join(f"{100 * share:.0f}" for share, _, _ in values)
        for name, values in rows
    )
    svg = _canvas(key, title, description=f"in per cent: {description}", height=height)
    across = Scale(0, 1, left, WIDTH - RIGHT)
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = across(tick)
        _line(svg, (x, TOP), (x, height - BOTTOM), kind="grid")
        _write(
            svg,
            f"{100 * tick:g} %",
            x=x,
            y=height - BOTTOM + 16,
            anchor="end" if tick == 1 else "middle",
        )
    for place, (name, values) in enumerate(rows):
        middle = TOP + step * (place + 0.5)
        _write(
            svg,
            name if len(name) <= 14 else name[:13] + "…",
            x=left - 8,
            y=middle + 4,
            anchor="end",
            kind="name",
        )
        for mark, (share, low, high) in enumerate(values):
            y = middle + (mark - (len(values) - 1) / 2) * 14
            _line(svg, (across(low), y), (across(high), y), kind=f"whisker s{mark % 8}")
            text = f"{name}: {100 * share:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
            _dot(svg, across(share), y, radius=4, style=mark % 8, text=text)
    return _text(svg)


def nice_ticks(low: float, high: float, *, most: int = 5, whole: bool = False) -> list[float]:
    """Round values that enclose low and high: 1, 2 or 5 times a power of ten apart; at least two."""
    # equal up to what a line could show
    if not high - low > 1e-9 * max(abs(low), abs(high), 1e-300):
        low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    # Without the tolerance a step that fits but for rounding would be passed over.
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, step)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, max(last, first + 1) + 1)]


def _canvas(key: str, title: str, *, description: str, height: float = HEIGHT) -> ET.Element:
    named = {"role": "img", "aria-labelledby": f"{key}-title {key}-description", "class": "chart"}
    svg = ET.Element("svg", {"viewBox": f"0 0 {WIDTH} {height:g}", **named})
    ET.SubElement(svg, "title", {"id": f"{key}-title"}).text = title
    ET.SubElement(svg, "desc", {"id": f"{key}-description"}).text = description
    return svg


def _axes(
    svg: ET.Element,
    across: Scale,
    *,
    up: Scale,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_label: str,
    percent: bool,
    x_percent: bool = False,
) -> None:
    for tick in y_ticks:
        _line(svg, (LEFT, up(tick)), (WIDTH - RIGHT, up(tick)), kind="grid")
        _write(svg, _shown(tick, percent, short=True), x=LEFT - 6, y=up(tick) + 4, anchor="end")
    for tick in x_ticks:
        _write(
            svg,
            _shown(tick, x_percent, short=True),
            x=across(tick),
            y=HEIGHT - BOTTOM + 16,
            anchor="middle",
        )
    _write(svg, x_label, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 3, anchor="middle")


def _line(
    svg: ET.Element, start: tuple[float, float], end: tuple[float, float], *, kind: str
) -> None:
    ends = {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1]}
    placed = {name: f"{value:.1f}" for name, value in ends.items()}
    ET.SubElement(svg, "line", {**placed, "class": kind})


def _dot(svg: ET.Element, x: float, y: float, *, radius: float, style: int, text: str) -> None:
    place = {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": f"{radius:g}"}
    dot = ET.SubElement(svg, "circle", {**place, "class": f"dot s{style}"})
    ET.SubElement(dot, "title").text = text


def _write(
    svg: ET.Element, text: str, *, x: float, y: float, anchor: str, kind: str = "tick"
) -> None:
    ET.SubElement(
        svg, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "class": kind}
    ).text = text


def _shown(value: float, percent: bool, *, short: bool = False) -> str:
    if percent:
        return f"{100 * value:g}" if short else f"{100 * value:.1f} %"
    return f"{value:.4g}"


def _describe_line(line: Series, percent: bool) -> str:
    first, last = line.points[0][1], line.points[-1][1]
    return f"{line.name}: from {_shown(first, percent)} to {_shown(last, percent)} over {len(line.points)} points"


def _text(svg: ET.Element) -> Svg:
    return Svg(ET.tostring(svg, encoding="unicode"))
