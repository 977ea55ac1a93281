"""Parameter groups, frozen parameters and optimizers."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from fer_ignite.errors import ConfigError
from fer_ignite.models.heads import head_prefixes
from fer_ignite.training.muon import Muon

__all__ = [
    "OPTIMIZER_SETTINGS",
    "build_optimizer",
    "frozen_modules",
    "keep_frozen_in_eval",
    "parameter_groups",
    "skips_on_device",
]

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adadelta": torch.optim.Adadelta,
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "muon": Muon,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}
# What each optimizer takes beyond lr and weight_decay; a caller with settings for all passes on these.
OPTIMIZER_SETTINGS: dict[str, tuple[str, ...]] = {
    "adadelta": ("rho", "eps"),
    "adagrad": ("lr_decay", "eps"),
    "adam": ("betas", "eps", "amsgrad"),
    "adamw": ("betas", "eps", "amsgrad"),
    "muon": ("momentum", "betas", "eps"),
    "rmsprop": ("alpha", "eps", "momentum"),
    "sgd": ("momentum", "nesterov"),
}
FUSED = ("adagrad", "adam", "adamw", "sgd")


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    backbone_lr: float | None = None,
    head_lr: float | None = None,
    weight_decay: float = 0.0,
    freeze: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The trainable parameters in up to four named groups: backbone and head, with and without weight decay.

    Norms, biases and every other parameter of fewer than two dimensions don't decay. The groups don't depend on the
    rates, so a resumed run may change them.

    Args:
        lr: rate where ``backbone_lr`` or ``head_lr`` is None.
        freeze: names of parameters or of modules, or globs; they get ``requires_grad = False`` and no group.
    Raises:
        ConfigError: a ``freeze`` entry that names nothing, or nothing is left to train.
    """
    _freeze(model, freeze)
    head = head_prefixes(model)
    groups: dict[str, dict[str, Any]] = {}
    # Cut in two even where both rates are equal: torch compares the groups when a resumed run loads
    # its state.
    for part, rate in (("backbone", backbone_lr), ("head", head_lr)):
        for suffix, decay in (("", weight_decay), ("_no_decay", 0.0)):
            groups[part + suffix] = {
                "name": part + suffix,
                "params": [],
                "lr": lr if rate is None else rate,
                "weight_decay": decay,
            }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = "head" if any(_is_under(name, prefix) for prefix in head) else "backbone"
            groups[part + ("" if parameter.ndim > 1 else "_no_decay")]["params"].append(parameter)
    filled = [group for group in groups.values() if group["params"]]
    if not filled:
        raise ConfigError(
            f"--freeze {','.join(freeze)}: no parameter is left to train; freeze less."
        )
    return filled


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """Batch normalisations whose parameters are all frozen: they must stay in evaluation mode, or they continue moving."""
    found: list[nn.Module] = []
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if isinstance(module, _BatchNorm) and own and not any(p.requires_grad for p in own):
            found.append(module)
    return found


def keep_frozen_in_eval(model: nn.Module) -> None:
    """Call it after every ``model.train()``."""
    for module in frozen_modules(model):
        module.eval()


def build_optimizer(
    name: str,
    groups: Sequence[dict[str, Any]],
    *,
    lr: float,
    weight_decay: float = 0.0,
    fused: bool | None = None,
    **settings: Any,
) -> Optimizer:
    """A torch optimizer over ``groups``, whose parameters already lie on their device.

    Args:
        lr, weight_decay: of groups that bring none.
        fused: one kernel for all parameters; None = where torch has it for this optimizer and device.
        settings: what :data:`OPTIMIZER_SETTINGS` has for the optimizer; None = torch's default.
    Raises:
        ConfigError: an unknown optimizer, a setting that it doesn't have, or settings that contradict each other.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(
            f"--opt: there is no optimizer {name!r}; choose one of {', '.join(sorted(OPTIMIZERS))}."
        )
    allowed = OPTIMIZER_SETTINGS[name]
    given = {setting: value for setting, value in settings.items() if value is not None}
    for setting, value in given.items():
        # "off" contradicts nothing: an optimizer without the switch doesn't do it either.
        if setting not in allowed and value is not False:
            raise ConfigError(
                f"--opt {name} has no setting {setting}; leave it out, {name} takes {', '.join(allowed)}."
            )
    if given.get("nesterov") and not given.get("momentum"):
        raise ConfigError("--nesterov needs a --momentum above 0; give one or leave nesterov out.")
    options = {setting: value for setting, value in given.items() if setting in allowed}
    if _use_fused(name, groups, fused=fused):
        options["fused"] = True
    elif name in FUSED and fused is False:
        options["fused"] = False
    try:
        optimizer = OPTIMIZERS[name](groups, lr=lr, weight_decay=weight_decay, **options)  # type: ignore[call-arg]
    except ValueError as error:
        raise ConfigError(f"--opt {name}: {error}.") from None
    if name == "sgd" and given.get("momentum"):
        _start_momentum(optimizer)
    return optimizer


def skips_on_device(optimizer: Optimizer) -> bool:
    """Whether a step with ``optimizer.found_inf`` = 1 (a float tensor on the device) changes nothing, without a wait.

    True for fused SGD, Adam, AdamW and Adagrad; RMSprop and Adadelta have no fused form and ignore the tensor; the
    plain forms of the others raise when it is set.
    """
    # The attribute is torch's own sign for its GradScaler that the kernel reads found_inf.
    fused = all(group.get("fused") for group in optimizer.param_groups)
    # torch 2.10's fused Adagrad reads found_inf, and doesn't say so
    is_adagrad = isinstance(optimizer, torch.optim.Adagrad)
    return fused and (is_adagrad or getattr(optimizer, "_step_supports_amp_scaling", False))


def _use_fused(name: str, groups: Sequence[dict[str, Any]], *, fused: bool | None) -> bool:
    if name not in FUSED:
        if fused:
            raise ConfigError(
                f"torch has no fused {name}; leave fused out, or take one of {', '.join(FUSED)}."
            )
        return False
    parameters = [p for group in groups for p in group["params"]]
    devices = {p.device.type for p in parameters}
    able = devices <= {"cpu", "cuda", "mps"} and all(p.is_floating_point() for p in parameters)
    if fused and not able:
        raise ConfigError(
            f"torch has no fused {name} on {', '.join(sorted(devices))}; leave fused out."
        )
    # Adagrad's kernel is younger elsewhere than on the CPU, so there it is used only when requested.
    return able and (name != "adagrad" or devices == {"cpu"}) if fused is None else fused


def _start_momentum(optimizer: Optimizer) -> None:
    """Gives SGD zeros as momentum before its first step.

    Equal to torch's own first step, which takes the gradient as momentum (0.9 * 0 + gradient). Needed because fused SGD
    allocates the buffer without filling it, and a first step that ``found_inf`` skips leaves it so (torch 2.15).
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    names = dict(model.named_parameters())
    for pattern in patterns:
        hits = [name for name in names if _is_under(name, pattern) or fnmatchcase(name, pattern)]
        if not hits:
            parts = dict.fromkeys(name.split(".")[0] for name in names)
            raise ConfigError(
                f"--freeze: {pattern!r} names no parameter; the network has {', '.join(parts)}."
            )
        for name in hits:
            names[name].requires_grad_(False)


def _is_under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix.rstrip(".") + ".")
