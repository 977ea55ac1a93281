"""Weights of an ensemble's checkpoints, fitted on the validation split."""

# Dimensions: N images, K expressions, M members.

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fer_ignite.checkpoint.paths import ensemble_members
from fer_ignite.errors import NONFINITE_OUTPUTS, ConfigError, NonFiniteError
from fer_ignite.inference.ensemble import EnsembleModule
from fer_ignite.inference.evaluation_data import open_for_scoring
from fer_ignite.inference.loaded_model import load_model
from fer_ignite.inference.request import EvaluateRequest
from fer_ignite.inference.scoring import score_network

__all__ = ["find_weights", "fit_ensemble_weights"]

_LEAST_SHARE = 1e-12
_EM_ITERATIONS = 200


def fit_ensemble_weights(
    name: str,
    *,
    tta: str | None = None,
    model: str | None = None,
    collate_fn: str | None = None,
    device: str = "auto",
    cache: str | None = None,
    quiet: bool = False,
) -> list[float]:
    """Weights of an ensemble's checkpoints that explain the first one's validation split best; test is never read.

    Args:
        name: the checkpoints, comma separated.
        others: see :class:`EvaluateRequest`.
    Returns:
        One weight per checkpoint; they add up to 1.
    Raises:
        ConfigError: one checkpoint alone, or runs that split the data differently.
    """
    if len(ensemble_members(name)) < 2:
        raise ConfigError(f"--weights: {name} is one checkpoint; name several as A,B,C.")
    network = load_model(name, device=device, model=model, collated=True)
    request = EvaluateRequest(name, tta=tta, collate_fn=collate_fn, cache=cache, quiet=quiet)
    config, _, loader = open_for_scoring(network, request, networks=network.networks)
    probabilities, labels_N = [], torch.empty(0)
    for number, member in enumerate(network.members, 1):
        # An ensemble of one: it adapts the images to the member, and its classes to the first one's order.
        alone = EnsembleModule(
            [member], [1.0], preprocessing=network.preprocessing, classes=network.classes
        )
        scored = score_network(
            replace(network, model=alone.to(network.device).eval()),
            loader,
            tta=tta or config.tta,
            bar=None if quiet else f"val, network {number} of {len(network.members)}",
        )
        if not scored.finite:
            raise NonFiniteError(f"{name} on val: {NONFINITE_OUTPUTS}")
        probabilities.append(scored.logits_NK.softmax(dim=1))
        labels_N = scored.labels_N
    return find_weights(probabilities, labels_N)


def find_weights(probabilities: Sequence[Tensor], labels_N: Tensor) -> list[float]:
    """The weights, of sum 1, under which the mean probabilities explain the labels best (least cross-entropy).

    The problem is convex; expectation maximisation finds its one minimum.

    Args:
        probabilities: float [N, K] of each member.
        labels_N: int64.
    """
    rows_N1 = labels_N.view(-1, 1)
    # Cut below: an image to which every member gives probability 0 would make 0 / 0 of all weights.
    shares_MN = torch.stack(
        [values_NK.double().gather(1, rows_N1).squeeze(1) for values_NK in probabilities]
    ).clamp_min(_LEAST_SHARE)
    weights_M1 = torch.full((len(shares_MN), 1), 1 / len(shares_MN), dtype=torch.float64)
    # No step size is needed, and the weights stay positive with sum 1 in every iteration.
    for _ in range(_EM_ITERATIONS):
        parts_MN = weights_M1 * shares_MN
        weights_M1 = (parts_MN / parts_MN.sum(dim=0)).mean(dim=1, keepdim=True)
    weights: list[float] = weights_M1.squeeze(1).tolist()
    return weights
