"""Average of the weights of several checkpoints, as one checkpoint (model soup)."""

# Dimensions: N faces, K expressions.

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fer_ignite.checkpoint.atomic_io import write_durably
from fer_ignite.checkpoint.format import write_checkpoint
from fer_ignite.data.loader import EvalLoader
from fer_ignite.errors import CheckpointError, ConfigError
from fer_ignite.inference.evaluation_data import open_for_scoring
from fer_ignite.inference.loaded_model import LoadedModel, load_model
from fer_ignite.inference.onnx import refuse_onnx
from fer_ignite.inference.request import EvaluateRequest
from fer_ignite.inference.scoring import ScoredSplit, score_network
from fer_ignite.metrics.calibration import fit_temperature
from fer_ignite.training.swa import recompute_batch_statistics, statistics_loader

__all__ = ["average_checkpoints"]

State = Mapping[str, Tensor]
# How arguments begin that count in training alone, by the names of our networks, torchvision and timm.
_REGULARISATION = (
    *("attention_dropout", "attn_drop", "drop", "patch_drop", "pos_drop", "proj_drop"),
    "stochastic_depth_prob",
)


def average_checkpoints(
    checkpoints: Sequence[str | Path],
    out: str | Path,
    *,
    method: str = "greedy",
    model: str | None = None,
    cache: str | None = None,
    device: str = "auto",
    exist_ok: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Writes one checkpoint whose weights are the mean of several; batch statistics are computed again on train images.

    Greedy: the checkpoints are tried in the order of their accuracy on val, and one stays in the average if the accuracy does
    not fall. The temperature is fitted on val again. Test is never read.

    Source: Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy (2022).

    Args:
        checkpoints: of one network with the same classes; best from one run (``--keep-best``) or from one start.
        out: the file to write.
        method: "greedy" or "uniform" (all of them).
    Returns:
        ``file, method, members [{checkpoint, accuracy, used}], accuracy`` (of the average), all on val with the run's views.
    Raises:
        ConfigError: fewer than two checkpoints, an unknown method, a file that is there, or runs that split the data differently.
        CheckpointError: a file can't be used, or is another network or has another preprocessing than the first.
    """
    if len(checkpoints) < 2:
        raise ConfigError(f"an average needs at least two checkpoints, not {len(checkpoints)}.")
    if method not in ("greedy", "uniform"):
        raise ConfigError(f"--method {method!r} is unknown; allowed are greedy, uniform.")
    if Path(out).exists() and not exist_ok:
        raise ConfigError(f"{out} exists; pass --exist-ok to replace it, or name another file.")
    for path in checkpoints:
        refuse_onnx(path, "average")
    networks = [load_model(path, device=device, model=model, collated=True) for path in checkpoints]
    for path, network in zip(checkpoints[1:], networks[1:], strict=True):
        _require_same_network(path, networks[0], other=network)
    scale = _Scale.of(networks, str(checkpoints[0]), cache=cache, quiet=quiet)
    for path, network in zip(checkpoints[1:], networks[1:], strict=True):
        _require_same_preprocessing(path, networks[0], other=network)
    # No copies: averaged() copies a network before it changes anything.
    states = [network.model.state_dict() for network in networks]
    alone = [scale.score(network.model) for network in networks]
    # Greedy from the best one on, as in the paper: a bad one at the start would be kept by all later averages.
    order = sorted(range(len(states)), key=lambda place: -alone[place].metrics["accuracy"])
    used, scored, module = [order[0]], alone[order[0]], networks[order[0]].model
    if method == "uniform":
        used, module = order, scale.averaged(states)
        scored = scale.score(module)
    else:
        for place in order[1:]:
            candidate = scale.averaged([states[i] for i in (*used, place)])
            found = scale.score(candidate)
            # Equal is enough, as in the paper's algorithm.
            if found.metrics["accuracy"] >= scored.metrics["accuracy"]:
                used, scored, module = [*used, place], found, candidate
    temperature = fit_temperature(scored.logits_NK, scored.labels_N)
    content = {
        name: value
        for name, value in networks[order[0]].checkpoint.items()
        # Without the first one's EMA, which load_model would take in place of the averaged weights.
        if name not in ("ema", "temperature", "format")
    }
    content["model"] = {name: tensor.cpu() for name, tensor in module.state_dict().items()}
    if temperature is not None:
        content["temperature"] = temperature
    write_durably(Path(out), lambda file: write_checkpoint(content, file))
    return {
        "file": str(out),
        "method": method,
        "members": [
            {"checkpoint": str(path), "accuracy": part.metrics["accuracy"], "used": place in used}
            for place, (path, part) in enumerate(zip(checkpoints, alone, strict=True))
        ],
        "accuracy": scored.metrics["accuracy"],
    }


def _common_statistics(states: Sequence[State]) -> set[str]:
    """Names of the normalisations whose statistics are the same in all states: those that were frozen in training."""
    ends = (".running_mean", ".running_var")
    differing = {
        name.rpartition(".")[0]
        for name, tensor in states[0].items()
        if name.endswith(ends) and not all(torch.equal(tensor, state[name]) for state in states)
    }
    return {name.rpartition(".")[0] for name in states[0] if name.endswith(ends)} - differing


def _require_same_network(path: str | Path, first: LoadedModel, *, other: LoadedModel) -> None:
    shapes = [
        {name: tensor.shape for name, tensor in network.model.state_dict().items()}
        for network in (first, other)
    ]
    # Activations and kinds of normalisation have no shapes.
    built = [
        (
            network.config.model,
            _without_regularisation(network.config.model_args),
            network.config.norm,
        )
        for network in (first, other)
    ]
    if shapes[0] != shapes[1] or built[0] != built[1] or first.classes != other.classes:
        raise CheckpointError(
            f"{path} is another network than the first, or has other classes; weights can only be averaged between checkpoints "
            "of one network. Its probabilities can be: name the checkpoints A,B as an ensemble."
        )


def _without_regularisation(model_args: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in model_args.items() if not name.startswith(_REGULARISATION)
    }


def _require_same_preprocessing(
    path: str | Path, first: LoadedModel, *, other: LoadedModel
) -> None:
    fields, others = vars(first.preprocessing), vars(other.preprocessing)
    if differing := [name for name, value in fields.items() if others[name] != value]:
        raise CheckpointError(
            f"{path} was trained on images of another preprocessing than the first ({', '.join(differing)}); weights can only be "
            "averaged between checkpoints of one preprocessing. Its probabilities can be: name the checkpoints A,B as an ensemble."
        )


@dataclass(frozen=True)
class _Scale:
    """Builds and scores averages: the first checkpoint's val, and its train images for batch statistics."""

    network: LoadedModel
    val: EvalLoader
    train: EvalLoader
    tta: str
    quiet: bool

    @staticmethod
    def of(
        networks: Sequence[LoadedModel], name: str, *, cache: str | None, quiet: bool
    ) -> "_Scale":
        network = networks[0]
        config, dataset, val = open_for_scoring(
            network, EvaluateRequest(name, cache=cache, quiet=quiet), networks=networks
        )
        indices_N = np.asarray(dataset.indices["train"], dtype=np.int64)
        return _Scale(network, val, statistics_loader(val, indices_N), config.tta, quiet)

    def averaged(self, states: Sequence[State]) -> nn.Module:
        """A network with the mean of some weights, and batch statistics of its own."""
        module = copy.deepcopy(self.network.model)
        mean = {
            # In float64: the sum of several float32 weights would be rounded at each addition.
            name: torch.stack([state[name].double() for state in states])
            .mean(dim=0)
            .to(tensor.dtype)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in states[0].items()
        }
        module.load_state_dict(mean)
        # The mean of running statistics is not the statistics of the averaged weights.
        recompute_batch_statistics(
            module,
            self.train,
            device=self.network.device,
            precision=self.network.precision,
            keep=_common_statistics(states),
        )
        return module.eval()

    def score(self, module: nn.Module) -> ScoredSplit:
        """Val's outputs under the run's views."""
        bar = None if self.quiet else "val"
        return score_network(replace(self.network, model=module), self.val, tta=self.tta, bar=bar)
