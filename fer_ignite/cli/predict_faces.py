"""``fer-ignite predict`` with ``--faces always``, ``--save-annotated`` or videos: one row per detected face, as table, csv or JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import click

from fer_ignite.apps.faces.analyze import FaceRow, iter_face_rows
from fer_ignite.apps.faces.annotated_output import AnnotatedOutput
from fer_ignite.apps.faces.detection import open_detector
from fer_ignite.apps.faces.face_reader import FaceReader
from fer_ignite.apps.faces.opencv import load_opencv
from fer_ignite.cli.rows import csv_line, describe_box, top_cells, top_columns
from fer_ignite.data.exclude_list import formula_safe
from fer_ignite.data.images import printable
from fer_ignite.inference.photographs import FacePicker
from fer_ignite.inference.predictor import Predictor

__all__ = ["open_face_rows", "write_face_rows"]

_BOX = ("left", "top", "width", "height", "score")


def open_face_rows(
    predictor: Callable[[], Predictor],
    files: Sequence[str],
    *,
    faces: str,
    topk: int,
    batch_size: int,
    detector: str | None,
    margin: float | None,
    frame_stride: int | None,
    smooth_seconds: float | None,
    save_annotated: str | None,
) -> tuple[Iterator[FaceRow], int]:
    """The rows, and how many expressions each has; what is missing is reported before a network is read.

    Args:
        faces: "always" searches in every picture; "auto" takes face crops as they are. Videos are always searched.
    Raises:
        ConfigError: a library, the detector or the folder can't be used.
    """
    load_opencv()
    found, annotated_output = (
        open_detector(detector or "mtcnn"),
        None if save_annotated is None else AnnotatedOutput(save_annotated, sources=files),
    )
    reader = FaceReader(predictor(), found, margin=margin, batch_size=batch_size)
    picker = None
    if faces == "auto":
        picker = FacePicker(
            faces, usual_px=reader.predictor.side_px, warn=_warn, detector=found, margin=margin
        )
    rows = iter_face_rows(
        files,
        reader,
        frame_stride=frame_stride or 1,
        smooth_seconds=0.5 if smooth_seconds is None else smooth_seconds,
        annotated_output=annotated_output,
        picker=picker,
    )
    return rows, min(topk, len(reader.predictor.classes))


def write_face_rows(
    face_rows: Iterable[FaceRow], write: Callable[[str], Any], *, form: str, topk: int
) -> bool:
    """Prints rows as they come; whether any source could be read.

    Args:
        topk: expressions per face, at most as many as the network has.
    """
    readable = False
    if form == "csv":
        write(csv_line(["file", "time_s", "track", "face", *_BOX, *top_columns(topk), "error"]))
    for row in face_rows:
        readable = readable or row.error is None
        write(_FORMS[form](row, topk))
        if row.error is not None and form == "table":
            click.echo(f"fer-ignite: {row.error}", err=True)
    return readable


def _warn(sentence: str) -> None:
    click.echo(f"fer-ignite: warning: {sentence}", err=True)


def _best(row: FaceRow, topk: int) -> list[tuple[str, float]]:
    probabilities = {} if row.reading is None else row.reading.probabilities
    return sorted(probabilities.items(), key=lambda pair: -pair[1])[:topk]


def _table(row: FaceRow, topk: int) -> str:
    name = printable(row.file)
    if row.reading is None:
        return f"{name}  {'-' if row.error else 'no face'}\n"
    box = row.reading.box
    when = f"face {row.face}" if row.time_s is None else f"{row.time_s:8.3f} s  track {row.track}"
    return f"{name}  {when}  {describe_box(box)}  {'  '.join(f'{label} {100 * p:5.1f} %' for label, p in _best(row, topk))}\n"


def _json_line(row: FaceRow, topk: int) -> str:
    values: dict[str, Any] = {"file": row.file}
    if row.time_s is not None:
        values |= {"time_s": round(row.time_s, 6), "track": row.track}
    if row.error is not None:
        values["error"] = row.error
    else:
        values["face"] = row.face
    if row.reading is not None:
        best = _best(row, topk)
        box = {name: round(getattr(row.reading.box, name), 4) for name in _BOX}
        values |= {"box": box, "label": best[0][0], "probabilities": dict(best)}
    return json.dumps(values) + "\n"


def _csv(row: FaceRow, topk: int) -> str:
    time = "" if row.time_s is None else f"{row.time_s:.6f}"
    face = "" if row.error is not None else str(row.face)
    box = [""] * len(_BOX)
    if row.reading is not None:
        box = [f"{getattr(row.reading.box, name):.4f}" for name in _BOX]
    track = "" if row.track is None else str(row.track)
    return csv_line(
        [
            formula_safe(printable(row.file)),
            time,
            track,
            face,
            *box,
            *top_cells(_best(row, topk), topk),
            formula_safe(row.error or ""),
        ]
    )


_FORMS: dict[str, Callable[[FaceRow, int], str]] = {
    "table": _table,
    "csv": _csv,
    "jsonl": _json_line,
}
