"""Plot of a learning-rate schedule."""

from collections.abc import Callable
from pathlib import Path

from fer_ignite.checkpoint.atomic_io import write_output
from fer_ignite.errors import ConfigError

__all__ = ["plot_schedule"]


def plot_schedule(
    schedule: Callable[[int], float], steps: int, *, path: str | Path, lr: float = 1.0
) -> None:
    """Draws ``lr x schedule(step)`` for each step into ``path``; the suffix sets the format, png without one.

    matplotlib is imported here, and drawn without a display.

    Raises:
        ConfigError: matplotlib draws no such format.
        StorageError: the file can't be written; an older one stays.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    formats = FigureCanvasAgg(figure).get_supported_filetypes()
    suffix = Path(path).suffix[1:].lower() or "png"
    if suffix not in formats:
        raise ConfigError(
            f"{path}: .{suffix} is no format of a plot; allowed are {', '.join(sorted(formats))}."
        )
    axes = figure.add_subplot()
    axes.plot(range(steps), [lr * schedule(step) for step in range(steps)])
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("learning rate" if lr != 1 else "factor of the learning rate")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    write_output(path, lambda file: figure.savefig(file, format=suffix))
