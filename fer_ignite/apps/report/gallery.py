"""Images of the report: the most confident errors, and samples of each cell of the confusion matrix."""

# Dimensions: N faces of the split, K expressions.

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fer_ignite.apps.report.evaluation import ReportData
from fer_ignite.apps.report.thumbnails import load_pixels, thumbnail_uri
from fer_ignite.apps.report.vote_text import describe_votes

__all__ = ["calibrated_probabilities", "confident_mistakes", "confusion_cells", "describe_faces"]

MOST_FACES = 1500  # on one page; at 48 px about 2 MB
MOST_PER_CELL = 30


def calibrated_probabilities(data: ReportData) -> Tensor:
    """float64 [N, K] at the stored temperature."""
    return (data.logits_NK.double() / data.network.temperature).softmax(dim=1)


def confident_mistakes(
    logits_NK: Tensor, labels_N: Tensor, *, temperature: float, count: int
) -> list[int]:
    """Rows of the wrong predictions, most confident first; the temperature changes their order only."""
    confidence_N, predicted_N = _decisions(logits_NK, temperature)
    wrong = torch.nonzero(predicted_N != labels_N)[:, 0]
    # Stable: equal confidences stay in the data's order, so the same page comes out again.
    order = confidence_N[wrong].argsort(descending=True, stable=True)
    return [int(row) for row in wrong[order][:count]]


def _decisions(logits_NK: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Confidence [N] at a temperature, and labels [N], which come from the logits."""
    return (logits_NK.double() / temperature).softmax(dim=1).amax(dim=1), logits_NK.argmax(dim=1)


def confusion_cells(
    logits_NK: Tensor, labels_N: Tensor, *, temperature: float
) -> dict[tuple[int, int], list[int]]:
    """(true, predicted) -> rows to show, surest first: up to 30 of each cell, fewer where cells are many.

    Fullest cells come first where even one face of each is too much for a page.
    """
    confidence_N, predicted_N = _decisions(logits_NK, temperature)
    members: dict[tuple[int, int], list[int]] = {}
    for row in confidence_N.argsort(descending=True, stable=True).tolist():
        members.setdefault((int(labels_N[row]), int(predicted_N[row])), []).append(row)
    limit = max(1, min(MOST_PER_CELL, MOST_FACES // max(len(members), 1)))
    fullest = sorted(members, key=lambda cell: -len(members[cell]))[:MOST_FACES]
    return {cell: members[cell][:limit] for cell in sorted(fullest)}


def describe_faces(data: ReportData, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Facts about single images, by row: picture, name, label, the three best guesses, votes."""
    places = [int(data.places_N[row]) for row in rows]
    probabilities_NK, classes = calibrated_probabilities(data), data.network.classes
    vote_texts = (
        {} if data.votes is None else describe_votes(data.votes, data.dataset.cache, places=places)
    )
    described = {}
    for row, place, face_HWC in zip(rows, places, load_pixels(data.dataset, places), strict=True):
        # By the logits: equal probabilities could put another class first than the confusion matrix does.
        best = data.logits_NK[row].topk(min(3, len(classes))).indices
        described[row] = {
            "id": data.dataset.cache.sample_id(place)
            if data.dataset.cache is not None
            else f"sample {place}",
            "image": thumbnail_uri(face_HWC),
            "true": classes[int(data.labels_N[row])],
            "guesses": [(classes[int(k)], float(probabilities_NK[row, k])) for k in best],
            "chance_of_true": float(probabilities_NK[row, data.labels_N[row]]),
            "votes": vote_texts.get(place),
            "in_train": bool(data.in_train_N is not None and data.in_train_N[row]),
        }
    return described
