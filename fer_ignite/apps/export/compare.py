"""Comparison of an exported file's outputs with its checkpoint's on the same images."""

# Dimensions: N faces, B images of a batch, H W pixels, C channels, K expressions.

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fer_ignite.apps.export.graph_formats import open_program
from fer_ignite.apps.export.litert_format import open_litert
from fer_ignite.apps.export.openvino_format import open_openvino
from fer_ignite.apps.export.reference_images import Reference
from fer_ignite.apps.export.weight_formats import open_safetensors, open_state_dict
from fer_ignite.data.loader import Preprocessing
from fer_ignite.errors import FerError
from fer_ignite.inference.loaded_model import LoadedModel
from fer_ignite.inference.metadata import ExportMetadata
from fer_ignite.inference.onnx import OnnxModel
from fer_ignite.metrics.intervals import paired_interval

__all__ = ["TOLERANCE", "compare_outputs", "predict_with_export", "refuse_disagreement"]

Answers = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
TOLERANCE = 1e-3  # of a probability, for fp32 in another order of summation: 1e-6 is usual


def predict_with_export(
    path: Path, form: str, *, network: LoadedModel
) -> tuple[Answers, ExportMetadata]:
    """The written file, opened as its users will open it: faces_BHWC -> probabilities_BK, and the record inside.

    Args:
        network: the checkpoint's, whose class builds the network where the file holds weights alone.
    """
    if form == "onnx":
        opened = OnnxModel(path, device="cpu")
        return opened.probabilities, opened.record
    if form == "torch-export":
        module, text = open_program(path)
        return _answers_of_module(module), ExportMetadata.from_json(text, name=path.name)
    if form == "openvino":
        answers, text = open_openvino(path)
        return answers, ExportMetadata.from_json(text, name=path.name)
    if form == "litert":
        answers, text = open_litert(path)
        return answers, ExportMetadata.from_json(text, name=path.name)
    state, text = (open_safetensors if form == "safetensors" else open_state_dict)(path)
    record = ExportMetadata.from_json(text, name=path.name)
    # A copy: the checkpoint's own network is what the file is compared with.
    model = copy.deepcopy(network.model)
    model.load_state_dict(state)
    fields: dict[str, Any] = dict(record.preprocessing)
    preprocessing = Preprocessing(
        **{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])}
    )
    rebuilt = replace(
        network,
        model=model,
        classes=record.classes,
        preprocessing=preprocessing,
        checkpoint={"temperature": record.temperature},
    )
    return predict_with_checkpoint(rebuilt, tta=record.tta), record


def predict_with_checkpoint(network: LoadedModel, *, tta: str) -> Answers:
    """A checkpoint's network: faces_BHWC -> probabilities_BK."""
    return lambda faces_BHWC: network.probabilities(torch.from_numpy(faces_BHWC), tta=tta).numpy()


def _answers_of_module(module: torch.nn.Module) -> Answers:
    def answer(faces_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            probabilities_BK: NDArray[np.float32] = module(torch.from_numpy(faces_BHWC)).numpy()
        return probabilities_BK

    return answer


def compare_outputs(
    network: LoadedModel, exported: Answers, *, reference: Reference, tta: str
) -> dict[str, Any]:
    """How far the export's answers are from the checkpoint's, which is computed in fp32.

    Returns:
        ``n``, ``source``, ``drawn`` (no real faces), ``largest_difference`` and ``mean_difference`` of a probability,
        ``equal_decisions`` (share of faces), and, where the faces have labels, ``accuracy {checkpoint, export,
        difference, difference_interval}`` (95 %, paired bootstrap; export minus checkpoint) and ``recall`` of the export
        per class; else None.
    """
    asked = predict_with_checkpoint(network, tta=tta)
    pairs = [(asked(faces_BHWC), exported(faces_BHWC)) for faces_BHWC in reference.batches()]
    ours_NK, theirs_NK = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
    gaps_NK = np.abs(ours_NK - theirs_NK)
    decided_N, exported_N = ours_NK.argmax(axis=1), theirs_NK.argmax(axis=1)
    values: dict[str, Any] = {
        "n": len(ours_NK),
        "source": reference.source,
        "drawn": reference.faces is None,
        "largest_difference": float(gaps_NK.max()),
        "mean_difference": float(gaps_NK.mean()),
        "equal_decisions": float((decided_N == exported_N).mean()),
        "accuracy": None,
        "recall": None,
    }
    if reference.labels_N is not None:
        values["accuracy"] = _accuracy(
            decided_N == reference.labels_N, exported_N == reference.labels_N
        )
        values["recall"] = _recall(exported_N, reference.labels_N, classes=network.classes)
    return values


def refuse_disagreement(found: dict[str, Any], *, exact: bool) -> None:
    """Refuses a file whose answers are not the checkpoint's.

    Args:
        exact: the weights are the checkpoint's own; rounded ones may differ, by what the figures say.
    Raises:
        FerError: it answers otherwise, or in numbers that are none.
    """
    gap = found["largest_difference"]
    # NaN is tested by itself: rounded weights may differ by any finite amount.
    if np.isfinite(gap) and (gap <= TOLERANCE or not exact):
        return
    raise FerError(
        f"the export's probabilities differ from the checkpoint's by up to {gap:.2g} on {found['source']}, {TOLERANCE:g} is "
        "allowed; it was not kept: export the weights alone, with --format safetensors, and report the network's name."
    )


def _accuracy(hits_N: NDArray[np.bool_], exported_hits_N: NDArray[np.bool_]) -> dict[str, Any]:
    ours, theirs = float(hits_N.mean()), float(exported_hits_N.mean())
    interval = paired_interval(exported_hits_N, hits_N)
    return {
        "checkpoint": ours,
        "export": theirs,
        "difference": theirs - ours,
        "difference_interval": list(interval),
    }


def _recall(
    decided_N: NDArray[np.int64], labels_N: NDArray[np.int64], *, classes: tuple[str, ...]
) -> dict[str, Any]:
    table = {}
    for k, name in enumerate(classes):
        own_N = labels_N == k
        count = int(own_N.sum())
        table[name] = {
            "recall": float((decided_N[own_N] == k).mean()) if count else None,
            "faces": count,
        }
    return table
