"""Robustness table: accuracy, UAR and calibration of a network under fixed corruptions of the faces."""

# Dimensions: N faces, K expressions.

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fer_ignite.data.loader import EvalLoader
from fer_ignite.errors import NONFINITE_OUTPUTS, NonFiniteError
from fer_ignite.inference.scoring import ScoredSplit, restrict_to_classes
from fer_ignite.metrics.calibration import calibration_error, fit_temperature

__all__ = ["common_temperature", "robustness_table", "score_conditions"]

_FIGURES = ("accuracy", "uar", "loss", "ece")


def robustness_table(
    score: Callable[[EvalLoader, str], ScoredSplit],
    loader: EvalLoader,
    *,
    temperature: float,
    present_K: NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """Scores the images of a loader under every corruption and severity.

    The mean is over the kinds of corruption, each with the mean over its severities, as ImageNet-C has it (Hendrycks and
    Dietterich, 2019; without its division by another network's errors).

    Args:
        score: (loader, name of the condition) -> outputs; all processes call it alike.
        temperature: the network's own, by which logits are divided before calibration is measured.
        present_K: bool, the only classes that can be predicted, see :func:`restrict_to_classes`; None: all.
    Returns:
        ``clean``, ``mean`` and ``corruptions {kind: {severity: ...}}``, each with ``accuracy, uar, loss, ece``; ``temperature``
        and ``robust_temperature`` (fitted on all conditions together, clean among them), and ``robust_ece {clean, mean}``, the
        calibration errors with the latter.
    Raises:
        NonFiniteError: outputs are not finite under a condition.
    """
    conditions = score_conditions(score, loader)
    if present_K is not None:
        conditions = {
            key: restrict_to_classes(scored, present_K) for key, scored in conditions.items()
        }
    robust = common_temperature(conditions)
    rows = {key: _figures(scored, temperature) for key, scored in conditions.items()}
    robust_rows = {
        key: _figures(scored, robust or temperature) for key, scored in conditions.items()
    }
    corruptions: dict[str, dict[str, Any]] = {}
    for (kind, severity), row in rows.items():
        if severity:
            corruptions.setdefault(kind, {})[severity] = row
    return {
        "clean": rows["clean", ""],
        "mean": _mean(rows),
        "corruptions": corruptions,
        "temperature": temperature,
        "robust_temperature": robust,
        "robust_ece": {"clean": robust_rows["clean", ""]["ece"], "mean": _mean(robust_rows)["ece"]},
    }


def score_conditions(
    score: Callable[[EvalLoader, str], ScoredSplit], loader: EvalLoader
) -> dict[tuple[str, str], ScoredSplit]:
    """Outputs by (kind, severity) of every corruption, and first by ("clean", "").

    Raises:
        NonFiniteError: outputs are not finite under a condition.
    """
    # torchvision's transforms take a second to import, and no training needs them
    from fer_ignite.data.augment.corruptions import corruptions_for

    conditions: dict[tuple[str, str], ScoredSplit] = {("clean", ""): score(loader, "clean")}
    for kind, corruption in corruptions_for(loader.preprocessing.channels).items():
        for severity in corruption.severities:
            changed = replace(loader, corrupt=partial(corruption, severity=severity))
            conditions[kind, severity] = score(changed, f"{kind} {severity}")
    for (kind, severity), scored in conditions.items():
        if not scored.finite:
            raise NonFiniteError(f"{kind} {severity}: {NONFINITE_OUTPUTS}")
    return conditions


def common_temperature(conditions: Mapping[tuple[str, str], ScoredSplit]) -> float | None:
    """One temperature for all conditions, each face of each counting the same; None where none is better than 1."""
    return fit_temperature(
        torch.cat([scored.logits_NK for scored in conditions.values()]),
        torch.cat([scored.labels_N for scored in conditions.values()]),
    )


def _figures(scored: ScoredSplit, temperature: float) -> dict[str, float]:
    ece = calibration_error(scored.logits_NK, scored.labels_N, temperature=temperature)
    figures = {name: float(scored.metrics[name]) for name in ("accuracy", "uar", "loss")}
    return {**figures, "ece": ece}


def _mean(rows: Mapping[tuple[str, str], Mapping[str, float]]) -> dict[str, float]:
    kinds: dict[str, list[Mapping[str, float]]] = {}
    for (kind, severity), row in rows.items():
        if severity:
            kinds.setdefault(kind, []).append(row)
    # First within a kind: kinds with more severities would weigh more otherwise.
    means = [
        {name: sum(row[name] for row in part) / len(part) for name in _FIGURES}
        for part in kinds.values()
    ]
    return {name: sum(row[name] for row in means) / len(means) for name in _FIGURES}
