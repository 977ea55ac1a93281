"""``fer-ignite predict`` on pictures alone: one row per face, as table, csv or JSON lines."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from fer_ignite.checkpoint.atomic_io import write_output
from fer_ignite.cli.rows import csv_line, describe_box, top_cells, top_columns
from fer_ignite.data.exclude_list import formula_safe
from fer_ignite.data.images import printable
from fer_ignite.inference.photographs import FaceBox
from fer_ignite.inference.predictor import Prediction, Predictor, predict
from fer_ignite.terminal import write_above_bars

__all__ = ["write_predictions"]


def write_predictions(
    predictor: Predictor,
    files: Sequence[str],
    *,
    write: Callable[[str], Any],
    form: str,
    topk: int,
    faces: str,
    batch_size: int,
    detector: str | None = None,
    margin: float | None = None,
    predictions_file: str | None = None,
    bar: Any,
) -> bool:
    """Prints rows as they come; whether any file could be read.

    Args:
        topk: expressions per file, at most as many as the network has.
        detector, margin: of the faces in whole photographs.
        bar: a progress bar that counts the files.
        predictions_file: a csv with the probabilities of all classes is written there too.
    """
    count = min(topk, len(predictor.classes))
    readable, everything = False, []
    if form == "csv":
        write(csv_line(["file", *top_columns(count), "error", "face", *FaceBox._fields]))
    for prediction in predict(
        predictor,
        files,
        # The file has all probabilities; the printed row is cut to topk below.
        topk=len(predictor.classes) if predictions_file else topk,
        faces=faces,
        batch_size=batch_size,
        detector=detector,
        margin=margin,
        on_batch=bar.update,
        warn=_warn,
    ):
        if predictions_file:
            everything.append(prediction)
            prediction = replace(prediction, top=prediction.top[:count])
        readable = readable or prediction.error is None
        write(_FORMS[form](prediction, count))
        if prediction.error is not None and form == "table":
            write_above_bars(f"fer-ignite: {prediction.error}", stream=sys.stderr)
    if predictions_file:
        _write_csv(predictions_file, predictor.classes, predictions=everything)
    return readable


def _write_csv(file: str, classes: Sequence[str], *, predictions: Sequence[Prediction]) -> None:
    lines = [csv_line(["id", "face", "predicted", *(f"p_{name}" for name in classes)])]
    for prediction in predictions:
        if prediction.error is None:
            shares = prediction.probabilities
            row = [formula_safe(printable(prediction.file)), str(prediction.face)]
            row += [str(prediction.label), *(f"{shares[name]:.6f}" for name in classes)]
            lines.append(csv_line(row))
    write_output(file, "".join(lines))


def _warn(sentence: str) -> None:
    write_above_bars(f"fer-ignite: warning: {sentence}", stream=sys.stderr)


def _table(prediction: Prediction, count: int) -> str:
    if prediction.error is not None:
        return f"{printable(prediction.file)}  -\n"
    shares = "  ".join(f"{name} {100 * p:5.1f} %" for name, p in prediction.top)
    place = (
        ""
        if prediction.box is None
        else f"  face {prediction.face}  {describe_box(prediction.box)}"
    )
    return f"{printable(prediction.file)}{place}  {shares}\n"


def _json_line(prediction: Prediction, count: int) -> str:
    values: dict[str, Any] = {"file": prediction.file}
    if prediction.error is not None:
        values["error"] = prediction.error
    else:
        if prediction.box is not None:
            box = {name: round(value, 4) for name, value in prediction.box._asdict().items()}
            values |= {"face": prediction.face, "box": box}
        values |= {"label": prediction.label, "probabilities": prediction.probabilities}
    return json.dumps(values) + "\n"


def _csv(prediction: Prediction, count: int) -> str:
    box = [""] * len(FaceBox._fields)
    if prediction.box is not None:
        box = [f"{value:.4f}" for value in prediction.box]
    face = "" if prediction.error is not None else str(prediction.face)
    return csv_line(
        [
            formula_safe(printable(prediction.file)),
            *top_cells(prediction.top, count),
            formula_safe(prediction.error or ""),
            face,
            *box,
        ]
    )


_FORMS: dict[str, Callable[[Prediction, int], str]] = {
    "table": _table,
    "csv": _csv,
    "jsonl": _json_line,
}
