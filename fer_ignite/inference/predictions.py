"""Predictions of single faces as a csv: id, split, label, predicted label, one probability per class."""

# Dimensions: N faces, K expressions.

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from fer_ignite.checkpoint.atomic_io import write_output
from fer_ignite.data.exclude_list import formula_safe
from fer_ignite.inference.loaded_model import predict_probabilities

__all__ = ["prediction_rows", "write_predictions_csv"]


def prediction_rows(
    faces: dict[str, Any], classes: Sequence[str], *, temperature: float
) -> Iterable[list[str]]:
    """One row per face: id, split, label, predicted, and the probabilities in the order of ``classes``.

    Args:
        faces: as ``evaluate(..., with_faces=True)`` returns them.
        temperature: of the probabilities; the predicted label does not depend on it.
    """
    probabilities_NK = predict_probabilities(torch.tensor(faces["logits"]), temperature)
    columns = (faces["ids"], faces["splits"], faces["labels"], probabilities_NK.tolist())
    for name, split, label, probabilities in zip(*columns, strict=True):
        predicted = max(range(len(classes)), key=probabilities.__getitem__)
        yield [
            # A spreadsheet would run a file name that begins with "=".
            formula_safe(name),
            split,
            classes[label],
            classes[predicted],
            *(f"{probability:.6f}" for probability in probabilities),
        ]


def write_predictions_csv(
    path: str | Path, classes: Sequence[str], *, rows: Iterable[Sequence[str]]
) -> None:
    """Writes the rows under a header; the columns of the classes are called ``p_<class>``."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "split", "label", "predicted", *(f"p_{name}" for name in classes)])
    writer.writerows(rows)
    write_output(path, text.getvalue())
