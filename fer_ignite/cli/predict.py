"""``fer-ignite predict``: expressions in image files; a table, csv or JSON lines."""

import csv
import glob
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from fer_ignite.errors import ConfigError

__all__ = ["command"]


@click.command("predict", short_help="Name the expressions in image files.")
@click.argument("words", nargs=-1, required=True, metavar="[CHECKPOINT] SOURCES...")
@click.option("--format", "form", type=click.Choice(["table", "csv", "jsonl"]), default="table", show_default=True)
@click.option("--topk", type=click.IntRange(1), default=3, show_default=True, help="Expressions per file.")
@click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True, help="Images per batch.")
@click.option("--tta", type=click.Choice(["none", "flip", "ten", "many"]), help="Views averaged.  [default: the run's]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True)
@click.option("--model", metavar="MODULE:CLASS", help="The run's own network class again, where it had one.")
@click.option("--out", metavar="FILE", help="Write there instead of to the terminal.")
def command(
    words: Sequence[str], form: str, topk: int, batch_size: int, tta: str | None, device: str,
    model: str | None, out: str | None,
) -> int:  # fmt: skip
    """Name the expressions in SOURCES: image files of one face each, folders, globs.

    CHECKPOINT is a run's, or an .onnx file that `fer-ignite export` has written: that one needs onnxruntime and no torch.
    Without it the network that ships with the package is asked. The training's own preparation comes out of it. A file
    that can't be read is named and doesn't stop the rest; the exit code is then 2 if no file at all could be read.
    """
    if out is not None:
        from fer_ignite.cli.options import require_writable  # needs the configuration's libraries, the rest of predict doesn't

        require_writable("--out", out)
    checkpoint, sources = split_words(words)
    files = list(find_images(sources))
    from fer_ignite.prediction import open_recogniser, predict

    recogniser = open_recogniser(checkpoint, device=device, model=model, tta=tta)
    predictions = predict(recogniser, files, topk=topk, batch_size=batch_size)
    count = min(topk, len(recogniser.classes))
    readable = 0
    target: Any = open(out, "w", encoding="utf-8", newline="") if out else sys.stdout  # noqa: SIM115
    try:
        if form == "csv":
            target.write(_csv_line(["file", *(f"{what}_{i}" for i in range(1, count + 1) for what in ("label", "p")), "error"]))
        for prediction in predictions:
            readable += prediction.error is None
            target.write(_FORMS[form](prediction, count))
            if prediction.error is not None and form == "table":
                click.echo(f"fer-ignite: {prediction.error}", err=True)
        target.flush()
    finally:
        if out:
            target.close()
    return 0 if readable else 2


def split_words(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The checkpoint, the shipped one where none is named, and the sources.

    Raises:
        ConfigError: a checkpoint and nothing to look at.
    """
    from fer_ignite.data.images import FORMAT_OF_SUFFIX

    first, *rest = words
    if Path(first).is_dir() or Path(first).suffix.lower() in FORMAT_OF_SUFFIX or glob.has_magic(first):
        from fer_ignite.weights import shipped_checkpoint

        return str(shipped_checkpoint()), words
    if not rest:
        raise ConfigError(f"{printable(first)} alone is nothing to look at; name image files, folders or globs after it.")
    return first, rest


def find_images(sources: Sequence[str]) -> Iterator[str]:
    """The image files that paths, folders and globs mean, sorted within each.

    Raises:
        ConfigError: a source that is nothing of these, or holds no image file.
    """
    from fer_ignite.data.images import FORMAT_OF_SUFFIX

    for source in sources:
        path = Path(source)
        if path.is_dir():
            found = [str(file) for file in sorted(path.rglob("*")) if file.suffix.lower() in FORMAT_OF_SUFFIX]
            if not found:
                raise ConfigError(f"{printable(source)} holds no image file; name a folder with images.")
        elif path.exists():
            found = [source]
        else:
            found = sorted(file for file in glob.glob(source, recursive=True) if Path(file).is_file())
            if not found:
                raise ConfigError(f"there is no file {printable(source)}; name image files, folders or globs.")
        yield from found


def printable(text: str) -> str:
    """A path on one line, whatever its name holds."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _table(prediction: Any, count: int) -> str:
    if prediction.error is not None:
        return f"{printable(prediction.file)}  -\n"
    shares = "  ".join(f"{name} {100 * p:5.1f} %" for name, p in prediction.top)
    return f"{printable(prediction.file)}  {shares}\n"


def _json_line(prediction: Any, count: int) -> str:
    values: dict[str, Any] = {"file": prediction.file}
    if prediction.error is not None:
        values["error"] = prediction.error
    else:
        values |= {"label": prediction.top[0][0], "probabilities": dict(prediction.top)}
    return json.dumps(values) + "\n"


def _csv(prediction: Any, count: int) -> str:
    cells = [cell for name, p in prediction.top for cell in (name, f"{p:.6f}")]
    cells += [""] * (2 * count - len(cells))
    return _csv_line([_harmless(printable(prediction.file)), *cells, prediction.error or ""])


def _csv_line(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _harmless(cell: str) -> str:
    # A spreadsheet runs what begins like a formula.
    return "'" + cell if cell[:1] in ("=", "+", "-", "@") else cell


_FORMS = {"table": _table, "csv": _csv, "jsonl": _json_line}
