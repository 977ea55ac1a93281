"""Plots of curves and of the confusion matrix, from a run's files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_ignite.checkpoint.atomic_io import write_output

__all__ = ["draw_confusion", "draw_curves"]

_TRAIN, _VAL = "#7f8c9b", "#1f6fb2"


def _save(figure: Any, path: Path) -> None:
    write_output(path, lambda file: figure.savefig(file, format="png", dpi=110))


def draw_curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss, accuracy and learning rate over epochs, training and validation side by side.

    Args:
        history: a run's lines, with ``epoch, train_loss, val_loss, train_accuracy, val_accuracy, lr``.
    """
    # Not pyplot, which keeps every figure of the process open and looks for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    for axes, name, factor in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
        for side, color in (("train", _TRAIN), ("val", _VAL)):
            points = [
                (line["epoch"], line[f"{side}_{name}"] * factor)
                for line in history
                if f"{side}_{name}" in line
            ]
            if points:
                axes.plot(
                    *zip(*points, strict=True), color=color, label=side, marker="o", markersize=3
                )
        axes.set(xlabel="epoch", title="loss" if name == "loss" else "accuracy in %")
        if axes.lines:
            axes.legend(frameon=False)
    rate.plot([line["epoch"] for line in history], [line["lr"] for line in history], color=_VAL)
    rate.set(xlabel="epoch", title="learning rate")
    for axes in (loss, accuracy, rate):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    _save(figure, path)


def draw_confusion(
    confusion: Sequence[Sequence[int]], classes: Sequence[str], *, path: Path, title: str = ""
) -> None:
    """The confusion matrix: shares of each true expression as colour and per cent, counts at the margin.

    Args:
        confusion: counts [K][K], rows true, columns predicted.
    """
    from matplotlib.figure import Figure

    side = 2.4 + 0.62 * len(classes)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    shares = [[count / max(sum(row), 1) for count in row] for row in confusion]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, row in enumerate(shares):
        for j, share in enumerate(row):
            axes.text(
                j,
                i,
                f"{100 * share:.0f}",
                ha="center",
                va="center",
                color="white" if share > 0.5 else "#20303f",
            )
    axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right")
    axes.set_yticks(
        range(len(classes)),
        [f"{name} ({sum(row)})" for name, row in zip(classes, confusion, strict=True)],
    )
    axes.set(xlabel="predicted", ylabel="true (count)", title=title or "% of each true expression")
    _save(figure, path)
