"""``fer-ignite predict``: expressions in image files, photographs and videos."""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from fer_ignite.checkpoint.atomic_io import is_storage_failure, shown
from fer_ignite.cli.shared_options import (
    checkpoint_options,
    choice_option,
    count_option,
    faces_option,
)
from fer_ignite.cli.values import FiniteRange, require_writable, with_weights
from fer_ignite.errors import ConfigError, StorageError
from fer_ignite.terminal import progress, status

if TYPE_CHECKING:
    from fer_ignite.inference.predictor import Predictor

__all__ = ["command"]


class _PredictCommand(click.Command):
    """The command; ``--faces`` alone means ``--faces always``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Not by click's flag_value: it takes the next word, here a picture's name, for the value.
        given = []
        for place, word in enumerate(args):
            given.append(word)
            if word == "--faces" and (args[place + 1 :] or [""])[0] not in (
                "auto",
                "never",
                "always",
            ):
                given.append("always")
        return super().parse_args(ctx, given)


@click.command("predict", cls=_PredictCommand, short_help="Name the expressions in image files.")
@click.argument("words", nargs=-1, required=True, metavar="[CHECKPOINT] SOURCES...")
@choice_option(
    "--format",
    "form",
    choices=("table", "csv", "jsonl"),
    default="table",
    text="Format of the rows.",
)
@count_option("--topk", 3, text="Expressions per file.")
@count_option("--batch-size", 256, text="Faces per batch.")
@checkpoint_options
@click.option(
    "--predictions",
    "predictions_file",
    metavar="OUT.csv",
    help="Also write a line per face there: id, predicted, a probability per class. Of pictures alone, and not "
    "with --faces always or --save-annotated.",
)
@click.option("--out", metavar="FILE", help="Write there instead of to the terminal.")
@faces_option(
    "auto finds the faces of whole photographs, of videos (.mp4 .mov .avi .mkv .webm) and webcam:0; never takes "
    "each picture as one face; always searches in every picture."
)
@click.option(
    "--detector",
    metavar="NAME",
    help="mtcnn, or your own package.module:function.  [default: mtcnn]",
)
@click.option(
    "--margin",
    type=FiniteRange(-0.4, 2),
    help="Share of a box added on each side.  [default: the detector's]",
)
@click.option(
    "--frame-stride",
    type=click.IntRange(1),
    metavar="N",
    help="Look at every N-th frame of videos.  [default: 1]",
)
@click.option(
    "--smooth-seconds",
    type=FiniteRange(0),
    metavar="SECONDS",
    help="Smooth over time in videos; 0 = off.  [default: 0.5]",
)
@click.option(
    "--save-annotated",
    metavar="FOLDER",
    help="Write pictures and videos with the faces marked there.",
)
def command(
    words: Sequence[str],
    form: str,
    *,
    topk: int,
    batch_size: int,
    tta: str | None,
    device: str,
    model: str | None,
    predictions_file: str | None,
    out: str | None,
    faces: str,
    weights: str | None,
    **search: Any,
) -> int:
    """Name the expressions in SOURCES: image files, folders and globs of faces or photographs, videos, webcam:0.

    CHECKPOINT is a run's folder, a checkpoint of it, or an .onnx file that `fer-ignite export` has written: that one needs
    onnxruntime and no torch. It holds the preprocessing of its training. Without a CHECKPOINT the shipped network is used, and
    a line says so. A file that can't be read is named and doesn't stop the rest; the exit code is 2 if no file at all could be
    read.
    """
    # Their defaults are None, so that a flag that was given can be told from one that was not.
    given = [name for name, value in search.items() if value is not None]
    if given and faces == "never":
        flag = "--" + given[0].replace("_", "-")
        raise ConfigError(f"{flag} is about finding faces; leave --faces never out.")
    require_writable("--out", out)
    require_writable("--predictions", predictions_file)
    from fer_ignite.apps.faces.video_source import is_video, is_webcam
    from fer_ignite.cli.sources import find_files, split_words

    checkpoint, sources = split_words(words, faces=faces != "never")
    checkpoint = with_weights(checkpoint, weights)
    files = list(find_files(sources, faces=faces != "never"))
    with_boxes = (
        faces == "always"
        or search["save_annotated"] is not None
        or any(is_video(file) or is_webcam(file) for file in files)
    )
    if predictions_file and with_boxes:
        raise ConfigError(
            "--predictions is written for pictures with --faces auto or never, without --save-annotated, videos and "
            "webcams; leave it out and use --format csv --topk 99 --out FILE."
        )
    sizes: dict[str, Any] = {"topk": topk, "batch_size": batch_size}
    load = functools.partial(_load_predictor, checkpoint, device=device, model=model, tta=tta)
    # In both branches the network is loaded before _target empties an older --out file.
    if with_boxes:
        from fer_ignite.cli.predict_faces import open_face_rows, write_face_rows

        face_rows, topk = open_face_rows(load, files, faces=faces, **sizes, **search)
        with _target(out) as write:
            readable = write_face_rows(face_rows, write, form=form, topk=topk)
    else:
        from fer_ignite.cli.predict_files import write_predictions

        predictor = load()
        # Rows on the terminal show the progress by themselves.
        quiet = not out and sys.stdout.isatty()
        with progress(len(files), "predict", quiet=quiet) as bar, _target(out) as write:
            readable = write_predictions(
                predictor,
                files,
                write=write,
                form=form,
                faces=faces,
                detector=search["detector"],
                margin=search["margin"],
                predictions_file=predictions_file,
                bar=bar,
                **sizes,
            )
    return 0 if readable else 2


def _load_predictor(checkpoint: str | None, **options: Any) -> "Predictor":
    from fer_ignite.weights import shipped_checkpoint

    with status("loading the network"):
        from fer_ignite.inference.predictor import open_predictor

        predictor = open_predictor(checkpoint or shipped_checkpoint(), **options)
    if checkpoint is None:
        click.echo(
            f"network     {shipped_checkpoint().name}, which ships with the package; to use another, name it first",
            err=True,
        )
    return predictor


@contextlib.contextmanager
def _target(out: str | None) -> Iterator[Callable[[str], Any]]:
    if out is None:
        yield sys.stdout.write
        # A closed pipe or a full disk is met here, where main() handles it, and not at the interpreter's exit.
        sys.stdout.flush()
        return
    try:
        with open(out, "w", encoding="utf-8", newline="") as target:
            yield target.write
    except OSError as error:
        # Rows are written as they come, so not through a temporary file.
        if not is_storage_failure(error) or error.filename not in (None, out):
            raise
        raise StorageError(
            f"{shown(out)} can't be written: {error.strerror}. It has the first rows; make room and give the command again."
        ) from error
