"""Evaluation of a split for the report, with the scores of every image."""

# Dimensions: N faces of the split, K expressions.

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fer_ignite.apps.report.subject import RunReference
from fer_ignite.data.dataset import FaceDataset
from fer_ignite.data.open import find_cache, open_dataset
from fer_ignite.errors import ConfigError
from fer_ignite.imports import load_object
from fer_ignite.inference.evaluate import evaluate
from fer_ignite.inference.evaluation_data import trained_indices
from fer_ignite.inference.loaded_model import LoadedModel, load_model, required_user_code
from fer_ignite.inference.request import EvaluateRequest, evaluation_config

__all__ = ["ReportData", "ReportOptions", "evaluate_for_report", "evaluation_result"]


@dataclass(frozen=True)
class ReportOptions:
    """Options of a report, a part of :class:`EvaluateRequest`'s; None means the run's own.

    Args:
        robustness: also score the faces under fixed corruptions, and show the table.
        votes: FER+ votes to show beside faces; with ``data``, for a run on FER+ labels, also where its labels come from.
    """

    split: str = "val"
    data: str | None = None
    votes: str | None = None
    tta: str | None = None
    device: str = "auto"
    model: str | None = None
    collate_fn: str | None = None
    cache: str | None = None
    layout: str | None = None
    classes: str | None = None
    bad_images: str | None = None
    unknown_classes: str = "error"
    restrict_classes: bool = False
    robustness: bool = False

    def __post_init__(self) -> None:
        if self.split == "all":
            raise ConfigError(
                "split='all': a report is about one split; choose val, test or train."
            )


@dataclass(frozen=True)
class ReportData:
    """A split as one network sees it.

    Attributes:
        result: see :func:`fer_ignite.evaluate`.
        logits_NK: float32, the mean view's logarithms; with ``labels_N`` (the checkpoint's numbers) and ``places_N``
            (places in the data) in one order.
        in_train_N: which faces occur in train too; None where that can't be determined.
        votes: the votes file that belongs to the faces, if any.
        collate_fn: the run's own function that makes batches, if any.
    """

    network: LoadedModel
    dataset: FaceDataset
    result: dict[str, Any]
    logits_NK: Tensor
    labels_N: Tensor
    places_N: NDArray[np.int64]
    in_train_N: NDArray[np.bool_] | None
    votes: str | None
    collate_fn: Callable[[Sequence[Any]], Any] | None = None


def evaluation_result(subject: RunReference, options: ReportOptions) -> dict[str, Any]:
    """The result of ``evaluate`` with its entry ``faces``; an evaluation of test is written to the run's test-access log.

    Raises:
        FerError: as ``evaluate`` does.
    """
    given = {**vars(_request(subject, options)), "with_faces": True}
    return evaluate(given.pop("checkpoint"), **given)


def evaluate_for_report(subject: RunReference, options: ReportOptions) -> ReportData:
    """Scores a checkpoint on a split once; see :func:`evaluation_result`."""
    result = evaluation_result(subject, options)
    outputs = result.pop("faces")
    request = _request(subject, options)
    network = load_model(subject.source, device=options.device, model=request.model, collated=True)
    config = evaluation_config(request, network.checkpoint)
    dataset = open_dataset(config, find_cache(config)[0])
    places_N = np.array(outputs["places"])
    # None: of other data the network has not seen the train split.
    trained_N = trained_indices(network, dataset)
    in_train_N = None if trained_N is None else dataset.in_train(options.split, trained_N=trained_N)
    if in_train_N is not None:
        # Of the split, without the images that the evaluation has dropped.
        in_train_N = in_train_N[np.isin(dataset.indices[options.split], places_N)]
    return ReportData(
        network,
        dataset,
        result,
        torch.tensor(outputs["logits"]),
        torch.tensor(outputs["labels"]),
        places_N,
        in_train_N,
        options.votes or (config.votes if options.data is None else None),
        None
        if request.collate_fn is None
        else load_object(request.collate_fn, setting="--collate-fn"),
    )


def _request(subject: RunReference, options: ReportOptions) -> EvaluateRequest:
    """A user's function is given to the runs that had one; votes make labels only where the run's labels were votes."""
    config = subject.config
    return replace(
        EvaluateRequest(subject.source, **vars(options)),
        votes=options.votes if config.get("votes") else None,
        collate_fn=required_user_code(config, "collate_fn", given=options.collate_fn),
    )
