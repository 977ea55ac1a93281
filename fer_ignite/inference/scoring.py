"""Metrics and logits of a network on a split, over all processes."""

# Dimensions: N faces of the split, K expressions; confusion_KK has true rows and predicted columns.

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.handlers.stores import EpochOutputStore
from numpy.typing import NDArray
from torch import Tensor, nn

from fer_ignite.data.augment.tta import views_text
from fer_ignite.data.loader import EvalLoader
from fer_ignite.distributed.collectives import gather_rows
from fer_ignite.inference.loaded_model import LoadedModel
from fer_ignite.metrics.calibration import calibration_error
from fer_ignite.metrics.classification import SCORES, attach_metrics, per_class, scores
from fer_ignite.metrics.intervals import accuracy_interval
from fer_ignite.training.components import loss_terms
from fer_ignite.training.loggers import LiveProgressBar
from fer_ignite.training.losses import build_loss
from fer_ignite.training.trainer import create_evaluator

__all__ = ["ScoredSplit", "restrict_to_classes", "score_network", "score_report", "score_split"]


@dataclass(frozen=True)
class ScoredSplit:
    """What an evaluation found.

    Attributes:
        metrics: loss, accuracy, uar, macro_f1, weighted_f1, and ``confusion_matrix`` as int64 [K, K].
        logits_NK: float32, the mean view's; with ``labels_N`` and ``indices_N`` (places in the data) in one order.
        seconds: of the whole pass.
    """

    metrics: Mapping[str, Any]
    logits_NK: Tensor
    labels_N: Tensor
    indices_N: Tensor
    tta: str
    seconds: float

    @property
    def finite(self) -> bool:
        """Whether the loss and all logits are finite numbers; the same on all processes."""
        return math.isfinite(self.metrics["loss"]) and bool(self.logits_NK.isfinite().all())


def score_split(
    model: nn.Module,
    terms: Callable[[Tensor, Tensor], Mapping[str, Tensor]],
    *,
    loader: EvalLoader,
    num_classes: int,
    device: torch.device,
    precision: str,
    tta: str,
    group: Any = None,
    handlers: Sequence[Callable[[Any], Any]] = (),
    bar: str | None = None,
) -> ScoredSplit:
    """Runs an evaluator over the loader; all processes call it and get the same result.

    Args:
        bar: what the main process's progress bar calls the faces; None: no bar.
    """
    evaluator = create_evaluator(model, terms, device=device, precision=precision, tta=tta)
    attach_metrics(evaluator, num_classes=num_classes, device=device)
    store = EpochOutputStore(lambda out: (out["y_pred"], out["y"], out["indices"]))
    store.attach(evaluator)
    for attach in handlers:
        attach(evaluator)
    if bar is not None and idist.get_rank() == 0:
        LiveProgressBar(f"{bar}, {views_text(tta)}").attach_live(evaluator)
    state = evaluator.run(loader, epoch_length=len(loader))
    # Kept on the device until here: a copy in every step would make the host wait for it.
    columns = [torch.cat(parts).cpu() for parts in zip(*store.data, strict=True)]
    logits_NK, labels_N, indices_N = (_gathered(column, group) for column in columns)
    # Ranks score the batches in turn; in the data's order the result does not depend on their number.
    order_N = indices_N.argsort()
    return ScoredSplit(
        dict(state.metrics),
        logits_NK[order_N],
        labels_N[order_N],
        indices_N[order_N],
        tta,
        state.times["COMPLETED"],
    )


def score_network(
    network: LoadedModel, loader: EvalLoader, *, tta: str, bar: str | None, group: Any = None
) -> ScoredSplit:
    """Outputs and metrics of a loaded network; the loss is plain cross-entropy. See :func:`score_split`."""
    return score_split(
        network.model,
        # Not the run's own loss: losses of networks trained with different ones can't be compared.
        loss_terms(build_loss("ce")),
        loader=loader,
        num_classes=len(network.classes),
        device=network.device,
        precision=network.precision,
        tta=tta,
        group=group,
        bar=bar,
    )


def restrict_to_classes(scored: ScoredSplit, present_K: NDArray[np.bool_]) -> ScoredSplit:
    """The same outputs with probability 0 for the classes that are not present; the others are renormalised.

    Args:
        present_K: bool, classes that can be predicted.
    """
    logits_NK = scored.logits_NK.clone()
    # Probability 0 in the softmax; log_softmax then renormalises the others.
    logits_NK[:, torch.from_numpy(~present_K)] = -math.inf
    logits_NK = logits_NK.log_softmax(dim=1)
    classes = len(present_K)
    places_N = scored.labels_N * classes + logits_NK.argmax(dim=1)
    confusion_KK = torch.bincount(places_N, minlength=classes**2).reshape(classes, classes)
    # Finite: the classes of all labels are present.
    chosen_N = logits_NK.gather(1, scored.labels_N[:, None]).double()
    metrics = {
        **scores(confusion_KK),
        "loss": -chosen_N.mean().item(),
        "confusion_matrix": confusion_KK,
    }
    return replace(scored, metrics=metrics, logits_NK=logits_NK)


def _gathered(rows: Tensor, group: Any) -> Tensor:
    """All processes' rows, the same on each; numbers of rows may differ."""
    return rows if group is None else torch.cat(gather_rows(rows, group))


def score_report(
    scored: ScoredSplit,
    classes: Sequence[str],
    *,
    temperature: float | None = None,
    in_train_N: NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """The evaluation's result as plain values; the names are an interface.

    Args:
        temperature: fitted on val; what dividing by it does to the calibration is reported beside the raw one. None: not calibrated.
        in_train_N: which of the split's faces occur in train too, in the split's order.
    Returns:
        ``n, loss, accuracy, accuracy_interval`` (95 %, bootstrap), ``uar, macro_f1, weighted_f1, tta, ece,
        ece_calibrated, temperature, calibrated, without_train_duplicates {n, accuracy}, per_class {name: {precision, recall, f1,
        support}}, class_names, confusion_matrix`` (counts, rows true).
    """
    confusion_KK = scored.metrics["confusion_matrix"]
    table = per_class(confusion_KK)
    return {
        "n": int(confusion_KK.sum()),
        "loss": scored.metrics["loss"],
        **{name: scored.metrics[name] for name in SCORES},
        "tta": scored.tta,
        **_certainty(scored, temperature, in_train_N=in_train_N),
        "per_class": {
            name: {column: values_K[k].item() for column, values_K in table.items()}
            for k, name in enumerate(classes)
        },
        "class_names": list(classes),
        "confusion_matrix": confusion_KK.tolist(),
    }


def _certainty(
    scored: ScoredSplit, temperature: float | None, *, in_train_N: NDArray[np.bool_] | None
) -> dict[str, Any]:
    hits_N = (scored.logits_NK.argmax(dim=1) == scored.labels_N).numpy()
    values: dict[str, Any] = {
        "accuracy_interval": accuracy_interval(hits_N),
        "ece": calibration_error(scored.logits_NK, scored.labels_N),
        "ece_calibrated": calibration_error(
            scored.logits_NK, scored.labels_N, temperature=temperature or 1.0
        ),
        "temperature": temperature or 1.0,
        "calibrated": temperature is not None,
    }
    if in_train_N is not None:
        fresh_N = ~in_train_N
        values["without_train_duplicates"] = {
            "n": int(fresh_N.sum()),
            "accuracy": float(hits_N[fresh_N].mean()) if fresh_N.any() else float("nan"),
        }
    return values
