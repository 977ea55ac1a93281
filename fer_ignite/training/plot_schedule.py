"""Plot of a learning-rate schedule."""

from collections.abc import Callable
from pathlib import Path

__all__ = ["plot_schedule"]


def plot_schedule(
    schedule: Callable[[int], float], steps: int, *, path: str | Path, lr: float = 1.0
) -> None:
    """Draws ``lr x schedule(step)`` for each step into ``path``; the suffix sets the format.

    matplotlib is imported here, and drawn without a display.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(range(steps), [lr * schedule(step) for step in range(steps)])
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("learning rate" if lr != 1 else "factor of the learning rate")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.savefig(path)
