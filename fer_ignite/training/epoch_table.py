"""One row per epoch, fitted to the terminal's width."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fer_ignite.metrics.classification import SCORES

__all__ = ["EpochTable", "format_duration"]

_GAP = "  "


class _Column(NamedTuple):
    """A column; the lower its rank, the longer it stays when the terminal is narrow."""

    title: str
    width: int
    rank: int
    text: Callable[[Mapping[str, Any]], str]
    group: str = ""  # above the title


def format_duration(seconds: float) -> str:
    """9.3s, 4:07 or 1:02:33."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes}:{whole:02}"


class EpochTable:
    """Header and rows of the epochs' results; shares are in per cent, ``*`` marks the best epoch so far.

    Args:
        epochs: of the whole run.
        monitor: the metric that chooses the best epoch; a column where it is not one of the standard ones.
        width: columns of the terminal; None = as many as the row needs.
    """

    def __init__(self, epochs: int, monitor: str, *, width: int | None) -> None:
        self.epochs, self.monitor, self.width = epochs, monitor, width
        self._columns: list[_Column] = []
        self._names: tuple[str, ...] | None = None

    def header(self, values: Mapping[str, Any], logged: Sequence[str]) -> list[str]:
        """The two lines of titles, the first time and whenever the columns change; else none.

        Args:
            values: an epoch's line of history.jsonl.
            logged: names of the values that handlers log per epoch.
        """
        names = (*logged, *(("gpu_gib",) if "gpu_gib" in values else ()))
        if names == self._names:
            return []
        self._names = names
        self._columns = self._fit(self._all(values, logged))
        groups = self._join(column.group.rjust(column.width) for column in self._columns)
        titles = self._join(column.title.rjust(column.width) for column in self._columns)
        return [groups.rstrip(), titles]

    def row(self, values: Mapping[str, Any]) -> str:
        """One epoch, after :meth:`header`.

        Args:
            values: the epoch's line of history.jsonl, with ``remaining_s``, and ``gpu_gib`` on a GPU.
        """
        cells = self._join(column.text(values).rjust(column.width) for column in self._columns)
        return f"{cells}{'  *' if values.get('is_best') else ''}"

    def _join(self, cells: Any) -> str:
        return _GAP.join(cells)

    def _fit(self, columns: list[_Column]) -> list[_Column]:
        def needed() -> int:
            return sum(column.width + len(_GAP) for column in columns) + 1  # the mark

        while self.width is not None and needed() > self.width and len(columns) > 1:
            columns.remove(max(columns, key=lambda column: column.rank))
        return columns

    def _all(self, values: Mapping[str, Any], logged: Sequence[str]) -> list[_Column]:
        digits = len(str(self.epochs))
        epoch_width = max(5, 2 * digits + 1)
        columns = [
            _Column("epoch", epoch_width, 0, lambda line: f"{line['epoch']}/{self.epochs}"),
            _Column("loss", 6, 3, _number("train_loss"), "train"),
            _Column("acc", 7, 8, _share("train_accuracy")),
            _Column("loss", 6, 2, _number("val_loss"), "val"),
            _Column("acc", 7, 1, _share("val_accuracy")),
            _Column("UAR", 7, 5, _share("val_uar")),
        ]
        if self.monitor not in ("loss", "accuracy", "uar"):
            key, share = f"val_{self.monitor}", self.monitor in SCORES
            text = _share(key) if share else _number(key)
            columns.append(_Column(self.monitor, max(7, len(self.monitor)), 2, text))
        columns += [_Column(name, max(7, len(name)), 4, _number(name)) for name in logged]
        columns += [
            _Column("lr", 8, 9, lambda line: f"{line['lr']:.3g}"),
            _Column("time", 5, 6, lambda line: format_duration(line["epoch_seconds"])),
            _Column("ETA", 7, 7, lambda line: _remaining(line.get("remaining_s"))),
            _Column("image/s", 7, 11, lambda line: f"{line['images_per_second']:,.0f}"),
        ]
        if "gpu_gib" in values:
            columns.append(_Column("GPU GiB", 7, 10, lambda line: f"{line['gpu_gib']:.1f}"))
        return columns


def _number(name: str) -> Callable[[Mapping[str, Any]], str]:
    def text(line: Mapping[str, Any]) -> str:
        value = line.get(name)
        return "-" if value is None else f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"

    return text


def _share(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda line: f"{100 * line[name]:.2f}%" if name in line else "-"


def _remaining(seconds: float | None) -> str:
    return "-" if seconds is None else format_duration(seconds)
