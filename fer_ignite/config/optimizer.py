"""Settings of the optimizer, and the defaults that follow the chosen one."""

from collections.abc import Mapping
from typing import Literal

from pydantic import model_validator

from fer_ignite.config.fields import Floats, SettingsGroup, setting

__all__ = ["OF_ONE_OPTIMIZER", "OPTIMIZER_DEFAULTS", "OptimizerSettings", "optimizer_defaults"]

# Defaults that depend on the optimizer, by its name; a field's own default is that of adamw with fer48. The pairs of adamw and sgd
# come from measured runs (docs/accuracy.md); the others are common in the literature, the rates of adagrad and adadelta torch's.
OPTIMIZER_DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "adamw": {"lr": 0.003, "weight_decay": 0.1},
    "adam": {"lr": 0.003, "weight_decay": 0.0005},
    "muon": {"lr": 0.003, "weight_decay": 0.1, "momentum": 0.95},
    "sgd": {"lr": 0.1, "weight_decay": 0.0005},
    "rmsprop": {"lr": 0.001, "weight_decay": 0.0005},
    "adagrad": {"lr": 0.01, "weight_decay": 0.0005},
    "adadelta": {"lr": 1.0, "weight_decay": 0.0005},
}
# The rate of adamw with fer48, where the validation accuracy rose up to it (docs/accuracy.md). Other networks, and published
# weights above all, want a lower one.
_RATE_OF_FER48 = 0.007
# Settings that suit one optimizer only: a layer that names another optimizer replaces them by its own or by the defaults.
OF_ONE_OPTIMIZER = ("lr", "backbone_lr", "head_lr", "weight_decay", "momentum", "opt_eps")


def optimizer_defaults(opt: str, *, model: str) -> dict[str, float]:
    """Defaults that follow the optimizer and, for adamw's rate, the network."""
    defaults = dict(OPTIMIZER_DEFAULTS[opt])
    if opt == "adamw" and model == "fer48":
        defaults["lr"] = _RATE_OF_FER48
    return defaults


class OptimizerSettings(SettingsGroup):
    """Group Optimizer of the configuration; a field is a flag, its description the help text."""

    opt: Literal["sgd", "adam", "adamw", "rmsprop", "adagrad", "adadelta", "muon"] = setting(
        "adamw",
        "Optimizer; muon = Muon for matrices and filters, AdamW for the rest.",
        structural=True,
    )
    # The rates are not structural: of the schedule, a resume point holds the number of steps alone.
    lr: float = setting(
        _RATE_OF_FER48,
        "Learning rate; the peak for one-cycle. [default: 0.007 for adamw with fer48, 0.003 adamw, adam and muon, 0.1 sgd, 0.001 rmsprop, "
        "0.01 adagrad, 1 adadelta]",
        gt=0,
        le=1000,
    )
    backbone_lr: float | None = setting(
        None, "Learning rate of all but the head. [default: --lr]", gt=0, le=1000
    )
    head_lr: float | None = setting(
        None, "Learning rate of the head. [default: --lr]", gt=0, le=1000
    )
    weight_decay: float = setting(
        0.1,
        "Weight decay; never on norms and biases. [default: 0.1 for adamw and muon, 0.0005 for the others]",
        structural=True,
        ge=0,
        le=10,
    )
    momentum: float = setting(
        0.9,
        "Momentum of SGD, RMSprop and Muon. [default: 0.9, and 0.95 for muon]",
        structural=True,
        ge=0,
        lt=1,
    )
    nesterov: bool = setting(True, "Nesterov momentum (SGD).", structural=True)
    betas: Floats = setting((0.9, 0.999), "Betas of Adam, AdamW and Muon's AdamW.", structural=True)
    opt_eps: float | None = setting(
        None, "Epsilon of the optimizer. [default: torch's]", structural=True, gt=0
    )
    amsgrad: bool = setting(False, "AMSGrad (Adam, AdamW).", structural=True)
    alpha: float = setting(0.99, "Smoothing constant of RMSprop.", structural=True, ge=0, lt=1)
    lr_decay: float = setting(0.0, "Learning-rate decay of Adagrad.", structural=True, ge=0)
    rho: float = setting(0.9, "Rho of Adadelta.", structural=True, ge=0, lt=1)
    clip_grad: float | None = setting(
        None, "Clip gradients at this norm or value.", structural=True, gt=0
    )
    clip_mode: Literal["norm", "value"] = setting(
        "norm", "What --clip-grad limits.", structural=True
    )

    sam_rho: float = setting(
        0.0,
        "Sharpness-aware minimisation (SAM): radius of the second pass, e.g. 0.05; 0 = off. Doubles the work.",
        structural=True,
        ge=0,
        le=10,
    )
    optimizer_factory: str | None = setting(
        None,
        "Your own optimizer in place of --opt: module:function(parameter groups); its learning rate and weight decay hold.",
        structural=True,
    )

    @model_validator(mode="after")
    def _follow_the_optimizer(self) -> "OptimizerSettings":
        # The network's name is in another group of Config.
        defaults = optimizer_defaults(self.opt, model=getattr(self, "model", "fer48"))
        missing = {
            name: value for name, value in defaults.items() if name not in self.model_fields_set
        }
        # not among the fields that were set: a resumed run's checkpoint wins over them
        self.__dict__.update(missing)
        return self

    @model_validator(mode="after")
    def _optimizer_fits(self) -> "OptimizerSettings":
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: got {list(self.betas)}, needs two numbers in [0, 1)")
        # torch's SGD refuses it too, but only after the data was read.
        if self.nesterov and self.opt == "sgd" and self.momentum == 0:
            raise ValueError(
                "nesterov: needs momentum above 0; set --no-nesterov or --momentum 0.9"
            )
        return self
