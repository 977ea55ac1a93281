"""Learning curves of one or several runs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fer_ignite.apps.report.charts import Series, Svg, line_chart

__all__ = ["history_charts", "shared_charts"]

History = Sequence[Mapping[str, Any]]


def history_charts(history: History) -> list[dict[str, Any]]:
    """Accuracy, loss and learning rate over epochs: ``title``, ``svg`` and ``legend`` [(name, style)]."""
    accuracy, loss = (_pair(history, name) for name in ("accuracy", "loss"))
    recall = Series("validation UAR", points(history, "val_uar"), 2)
    charts = [
        _chart("curve-accuracy", "Accuracy in %", series=[*accuracy, recall], percent=True),
        _chart("curve-loss", "Loss", series=loss),
        _chart(
            "curve-lr", "Learning rate", series=[Series("learning rate", points(history, "lr"), 0)]
        ),
    ]
    return [chart for chart in charts if chart["svg"]]


def shared_charts(names: Sequence[str], histories: Sequence[History]) -> list[dict[str, Any]]:
    """The same measure of several runs on one pair of axes, over epochs and over time."""
    wanted = (
        ("val_accuracy", "Validation accuracy in %", "epoch", True),
        ("val_accuracy", "Validation accuracy in % over time", "elapsed_seconds", True),
        ("val_loss", "Validation loss", "epoch", False),
        ("train_loss", "Training loss", "epoch", False),
    )
    charts = []
    for field, title, over, percent in wanted:
        series = [
            Series(name, points(history, field, over=over), place)
            for place, (name, history) in enumerate(zip(names, histories, strict=True))
        ]
        charts.append(
            _chart(f"shared-{field}-{over}", title, series=series, percent=percent, over=over)
        )
    return [chart for chart in charts if chart["svg"]]


def _pair(history: History, name: str) -> list[Series]:
    return [
        Series("validation", points(history, f"val_{name}"), 0),
        Series("training", points(history, f"train_{name}"), 1),
    ]


def points(history: History, field: str, *, over: str = "epoch") -> list[tuple[float, float]]:
    """(epoch or minutes, value) of the epochs that have a finite value."""
    scale = 60 if over == "elapsed_seconds" else 1
    # An epoch without a validation has no val_ figures, and one NaN would make all places of the chart NaN.
    pairs = ((_finite(line.get(over)), _finite(line.get(field))) for line in history)
    return [(x / scale, y) for x, y in pairs if x is not None and y is not None]


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _chart(
    key: str, title: str, *, series: Sequence[Series], percent: bool = False, over: str = "epoch"
) -> dict[str, Any]:
    x_label = "minutes" if over == "elapsed_seconds" else "epoch"
    svg: Svg = line_chart(
        key, title, series=series, x_label=x_label, percent=percent, whole=over == "epoch"
    )
    return {
        "title": title,
        "svg": svg,
        "legend": [(line.name, line.style % 8) for line in series if line.points],
    }
