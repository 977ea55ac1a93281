"""Classification metrics as Ignite metrics, exact for any number of processes.

Every score is derived from one confusion matrix, whose counts add up over processes; the loss is a sum and a count.
"""

# Dimensions: B images, K expressions; confusion_KK has true rows and predicted columns.

from collections.abc import Callable, Sequence
from typing import Any

import torch
from ignite.engine import Engine
from ignite.metrics import ConfusionMatrix, Metric, MetricsLambda
from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce
from torch import Tensor

__all__ = ["SCORES", "MeanLoss", "TorchMetric", "attach_metrics", "per_class", "scores"]

SCORES = ("accuracy", "uar", "macro_f1", "weighted_f1")


class MeanLoss(Metric):
    """Mean of per-sample values over all samples of all processes; 0/0 is NaN.

    ``update`` takes values [B], B >= 0. Sums are float64: sums of float32 losses are exact in it, so the result does
    not depend on how samples are shared out.
    """

    _state_dict_all_req_keys = ("_sum", "_count")

    @reinit__is_reduced
    def reset(self) -> None:
        # MPS has no float64; its sums are kept on the CPU.
        place = torch.device("cpu") if self._device.type == "mps" else self._device
        self._sum = torch.zeros((), dtype=torch.float64, device=place)
        self._count = torch.zeros((), dtype=torch.float64, device=place)

    @reinit__is_reduced
    def update(self, output: Tensor) -> None:
        self._sum += output.detach().to(self._sum.device, torch.float64).sum()
        self._count += len(output)

    @sync_all_reduce("_sum", "_count")
    def compute(self) -> float:
        return (self._sum / self._count).item()


class Confusion(ConfusionMatrix):
    """Ignite's confusion matrix in int64, for processes that may have no sample."""

    def update(self, output: Sequence[Tensor]) -> None:
        if len(output[0]):
            super().update(output)


class TorchMetric(Metric):
    """A torchmetrics metric as an Ignite metric: ``TorchMetric(torchmetrics.CohenKappa(...))``.

    Args:
        metric: has ``reset()``, ``update(y_pred, y)`` and ``compute()``; torchmetrics reduces over processes itself,
            so every process must have samples.
    """

    def __init__(self, metric: Any, **kwargs: Any) -> None:
        # Before Ignite's own __init__, which calls reset().
        self.metric = metric
        super().__init__(**kwargs)

    def reset(self) -> None:
        self.metric.reset()

    def update(self, output: Sequence[Tensor]) -> None:
        self.metric.update(*output)

    def compute(self) -> Any:
        value = self.metric.compute()
        return value.item() if isinstance(value, Tensor) and value.ndim == 0 else value


def per_class(confusion_KK: Tensor) -> dict[str, Tensor]:
    """Precision, recall, F1 (float64 [K] in [0, 1], 0 where undefined) and support (int64 [K]) of each expression."""
    counts_KK = confusion_KK.to(torch.float64)
    hits_K, support_K, predicted_K = (
        counts_KK.diagonal(),
        counts_KK.sum(dim=1),
        counts_KK.sum(dim=0),
    )
    return {
        "precision": hits_K / predicted_K.clamp_min(1),
        "recall": hits_K / support_K.clamp_min(1),
        "f1": 2 * hits_K / (support_K + predicted_K).clamp_min(1),
        "support": support_K.to(torch.int64),
    }


def scores(confusion_KK: Tensor) -> dict[str, float]:
    """accuracy, uar (mean recall), macro_f1 and weighted_f1, each in [0, 1].

    Means are over the expressions that occur as a true label: one that the data lacks says nothing about the network.
    """
    table = per_class(confusion_KK)
    support_K = table["support"].to(torch.float64)
    occurs_K = support_K > 0
    total = support_K.sum().clamp_min(1)
    # At least 1, so that an empty split gives 0 and not NaN.
    known = occurs_K.sum().clamp_min(1)
    return {
        "accuracy": (confusion_KK.diagonal().sum() / total).item(),
        "uar": (table["recall"][occurs_K].sum() / known).item(),
        "macro_f1": (table["f1"][occurs_K].sum() / known).item(),
        "weighted_f1": ((table["f1"] * support_K).sum() / total).item(),
    }


def attach_metrics(
    evaluator: Engine, *, num_classes: int, device: torch.device
) -> dict[str, Metric]:
    """Attaches loss, the scores and ``confusion_matrix`` to an evaluator.

    Returns:
        The attached metrics by name; after a run, ``evaluator.state.metrics`` has the same names.
    """
    # One matrix for all scores: Ignite attaches its update once, however many metrics are made out
    # of it.
    confusion = Confusion(
        num_classes, output_transform=lambda out: (out["y_pred"], out["y"]), device=device
    )
    attached: dict[str, Metric] = {
        "loss": MeanLoss(lambda out: out["losses"]["loss"], device=device)
    }
    for name in SCORES:
        # A function per score: a lambda in this loop would see the last name only.
        attached[name] = MetricsLambda(_score(name), confusion)
    attached["confusion_matrix"] = confusion
    for name, metric in attached.items():
        metric.attach(evaluator, name)
    return attached


def _score(name: str) -> Callable[[Tensor], float]:
    return lambda confusion_KK: scores(confusion_KK)[name]
