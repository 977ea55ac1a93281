"""Losses, one value per image.

A loss takes float logits_BK and targets_BK, a distribution over expressions for each image (one-hot, crowd votes,
mixed), and gives float32 losses_B. Whoever sums them divides by the number of images of the whole optimizer step.

torch's weighted mean differs for class indices: ``cross_entropy(weight=w)`` divides by the sum of the weights that the
batch happens to hold, which depends on how a batch is cut. Here it is divided by the number of images, as torch does
for probabilities, and the weights are scaled so that their mean over the train split is 1.
"""

# Dimensions: B images in a batch, K expressions.

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_ignite.errors import ConfigError
from fer_ignite.imports import is_object_name, load_object
from fer_ignite.training.class_weights import class_weights

__all__ = [
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Focal",
    "Loss",
    "LossBuffers",
    "UserLoss",
    "build_loss",
    "class_weights",
]

_TERM = re.compile(r"^(?:(?P<weight>\d+(?:\.\d*)?|\.\d+)\s*\*)?\s*(?P<name>[^\s*]+)$")
NAMES = ("ce", "focal", "soft", "bce")


class CrossEntropy(nn.Module):
    """Minus the sum over expressions of weight x target x log probability, targets smoothed first.

    Args:
        smoothing: share of each target that is spread evenly over all K expressions, in [0, 1).
        weights_K: weight of each expression, or None.
    Source: torch.nn.functional.cross_entropy with probabilities, ``reduction="none"``.
    """

    weights_K: Tensor | None

    def __init__(self, *, smoothing: float = 0.0, weights_K: Tensor | None = None) -> None:
        super().__init__()
        self.smoothing = smoothing
        # Not persistent: class weights belong to the configuration, not to a checkpoint.
        self.register_buffer("weights_K", weights_K, persistent=False)

    def forward(self, logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
        shares_BK = self._shares(targets_BK)
        return -(shares_BK * F.log_softmax(logits_BK.float(), dim=1)).sum(dim=1)

    def _shares(self, targets_BK: Tensor) -> Tensor:
        shares_BK = targets_BK.float()
        if self.smoothing:
            shares_BK = shares_BK * (1 - self.smoothing) + self.smoothing / targets_BK.shape[1]
        return shares_BK if self.weights_K is None else shares_BK * self.weights_K


class Focal(CrossEntropy):
    """Cross-entropy in which an expression recognised with probability p counts (1 - p) ** gamma.

    Source: Lin et al., "Focal Loss for Dense Object Detection", 2017, in its softmax form.
    """

    def __init__(
        self, *, gamma: float = 2.0, smoothing: float = 0.0, weights_K: Tensor | None = None
    ) -> None:
        super().__init__(smoothing=smoothing, weights_K=weights_K)
        self.gamma = gamma

    def forward(self, logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
        log_p_BK = F.log_softmax(logits_BK.float(), dim=1)
        # Never exactly 0: the slope of a power below 1 is infinite there, and infinity times 0 is NaN.
        doubt_BK = (-torch.expm1(log_p_BK)).clamp_min(1e-12)
        return -(self._shares(targets_BK) * doubt_BK**self.gamma * log_p_BK).sum(dim=1)


class BinaryCrossEntropy(CrossEntropy):
    """One yes-or-no question per expression, averaged over the K expressions.

    Args:
        smoothing: moves each target towards 1/2, in [0, 1).
        weights_K: weight of each expression's question, or None.
    Source: torch.nn.functional.binary_cross_entropy_with_logits.
    """

    def forward(self, logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
        answers_BK = targets_BK.float() * (1 - self.smoothing) + self.smoothing / 2
        losses_BK = F.binary_cross_entropy_with_logits(
            logits_BK.float(), answers_BK, weight=self.weights_K, reduction="none"
        )
        return losses_BK.mean(dim=1)


class UserLoss(nn.Module):
    """The user's function or module (logits_BK, targets_BK) -> losses_B, its shape checked at every call.

    Raises:
        ConfigError: it gives anything but one value per image.
    """

    def __init__(self, name: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.name, self.function = name, function

    def forward(self, logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
        losses_B = self.function(logits_BK, targets_BK)
        if not isinstance(losses_B, Tensor) or losses_B.shape != logits_BK.shape[:1]:
            came = list(losses_B.shape) if isinstance(losses_B, Tensor) else type(losses_B).__name__
            raise ConfigError(
                f"--loss: {self.name} gave {came} for {len(logits_BK)} images; it must give one value per image, "
                "not their mean (reduction='none')."
            )
        return losses_B.float()


class LossBuffers:
    """Buffers of the user's loss modules as an entry of resume points; empty where they have none.

    Those of torch's own losses (``weight``, ``pos_weight``) are left out: they are settings, which each start gives anew.
    """

    def __init__(self, loss: "Loss") -> None:
        functions = [part.function for part in loss.parts if isinstance(part, UserLoss)]
        self._modules = {
            str(place): function
            for place, function in enumerate(functions)
            if isinstance(function, nn.Module)
            and not type(function).__module__.startswith("torch.nn.")
        }

    def __bool__(self) -> bool:
        """Whether there may be any, also one that the first step fills."""
        return any(part._buffers for whole in self._modules.values() for part in whole.modules())

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        states = {place: _buffers(module) for place, module in self._modules.items()}
        return {place: state for place, state in states.items() if state}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        for place, buffers in state.items():
            if place in self._modules:
                _set_buffers(self._modules[place], buffers)


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    """The persistent buffers by name."""
    parameters = dict(module.named_parameters())
    return {name: value for name, value in module.state_dict().items() if name not in parameters}


def _set_buffers(module: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """The saved tensors in place of the buffers of those names.

    Not by ``load_state_dict``: it refuses a buffer that has grown, such as a memory bank, and ignores one that is None so far.
    """
    device = next((value.device for value in module.buffers()), torch.device("cpu"))
    for name, value in buffers.items():
        owner, _, own_name = name.rpartition(".")
        part = module.get_submodule(owner)
        if own_name in part._buffers:
            now = part._buffers[own_name]
            part._buffers[own_name] = value.to(device if now is None else now.device, copy=True)


class Loss(nn.Module):
    """A weighted sum of terms.

    Calling it gives losses_B. Whoever also wants the parts calls :meth:`terms`, then :meth:`total`, at no further cost.
    ``.to(device)`` moves the class weights.

    Args:
        adjustment_K: added to the logits before every term: logit adjustment, see :func:`logit_adjustment`.
    """

    adjustment_K: Tensor | None

    def __init__(
        self,
        terms: Mapping[str, nn.Module],
        factors: Mapping[str, float],
        *,
        adjustment_K: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.names = tuple(terms)
        self.factors = tuple(factors[name] for name in self.names)
        self.parts = nn.ModuleList(terms.values())
        self.register_buffer("adjustment_K", adjustment_K, persistent=False)

    def terms(self, logits_BK: Tensor, targets_BK: Tensor) -> dict[str, Tensor]:
        """losses_B of each term by name, before its factor."""
        if self.adjustment_K is not None:
            logits_BK = logits_BK.float() + self.adjustment_K
        return {
            name: part(logits_BK, targets_BK)
            for name, part in zip(self.names, self.parts, strict=True)
        }

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum losses_B of what :meth:`terms` gave."""
        scaled = [
            terms[name] if factor == 1 else factor * terms[name]
            for name, factor in zip(self.names, self.factors, strict=True)
        ]
        return scaled[0] if len(scaled) == 1 else torch.stack(scaled).sum(dim=0)

    def forward(self, logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
        return self.total(self.terms(logits_BK, targets_BK))


def build_loss(
    text: str,
    *,
    smoothing: float = 0.0,
    focal_gamma: float = 2.0,
    weights_K: Tensor | None = None,
    adjustment_K: Tensor | None = None,
) -> Loss:
    """The loss that ``text`` describes: ``ce``, ``ce+0.5*focal``, ``0.8*ce + 0.2*package.module:function``.

    ``soft`` is cross-entropy against the targets as they are, neither smoothed nor weighted.

    Args:
        smoothing: label smoothing in [0, 1) of ce, focal and bce.
        focal_gamma: focusing parameter of focal, at least 0.
        weights_K: class weights of ce, focal and bce.
        adjustment_K: see :class:`Loss`.
    Raises:
        ConfigError: a term that can't be read, is unknown, or occurs twice; or weights that are all 0.
    """
    terms: dict[str, nn.Module] = {}
    factors: dict[str, float] = {}
    for part in text.split("+"):
        match = _TERM.match(part.strip())
        if match is None:
            raise ConfigError(
                f"--loss: {part.strip()!r} in {text!r} is no term; write NAME or NUMBER*NAME, + between."
            )
        name = match["name"]
        if name in terms:
            raise ConfigError(f"--loss: {text!r} names {name} twice; add its two factors up.")
        terms[name] = _term(name, smoothing=smoothing, focal_gamma=focal_gamma, weights_K=weights_K)
        factors[name] = float(match["weight"] or 1)
    if not any(factors.values()):
        raise ConfigError(
            f"--loss: every factor in {text!r} is 0; give at least one term a factor above 0."
        )
    return Loss(terms, factors, adjustment_K=adjustment_K)


def _term(
    name: str, *, smoothing: float, focal_gamma: float, weights_K: Tensor | None
) -> nn.Module:
    common: dict[str, Any] = {"smoothing": smoothing, "weights_K": weights_K}
    kinds: dict[str, Callable[[], nn.Module]] = {
        "ce": lambda: CrossEntropy(**common),
        "focal": lambda: Focal(gamma=focal_gamma, **common),
        "soft": CrossEntropy,
        "bce": lambda: BinaryCrossEntropy(**common),
    }
    if name in kinds:
        return kinds[name]()
    if not is_object_name(name):
        raise ConfigError(
            f"--loss: there is no loss {name!r}; choose from {', '.join(NAMES)} or package.module:function."
        )
    function = load_object(name, setting="--loss")
    if isinstance(function, type):
        function = function()
    if not callable(function):
        raise ConfigError(
            f"--loss: {name} can't be called; it must be a function (logits_BK, targets_BK) -> losses_B."
        )
    if isinstance(function, nn.Module):
        _require_no_parameters(name, function)
    return UserLoss(name, function)


def _require_no_parameters(name: str, function: nn.Module) -> None:
    trainable = [key for key, value in function.named_parameters() if value.requires_grad]
    if trainable:
        raise ConfigError(
            f"--loss: {name} has trainable parameters ({', '.join(trainable[:3])}), and the optimizer has the network's only: "
            "put them into the network, or make them buffers (register_buffer)."
        )
