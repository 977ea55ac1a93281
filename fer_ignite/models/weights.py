"""Start weights out of somebody's state: what fits is loaded, and every name that doesn't is told.

The file itself is read elsewhere, by the one module that may; here a mapping comes in.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fer_ignite.errors import CheckpointError

__all__ = ["WeightsReport", "find_state", "initialise_from"]

# Where a state dict is found inside a checkpoint, the best first.
_PLACES = ("ema", "model", "model_state_dict", "state_dict")
_WRAPPERS = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class WeightsReport:
    """Names of parameters and buffers, each in one of the lists.

    ``mismatched`` says both shapes; ``unexpected`` are in the file only.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: tuple[str, ...]
    unexpected: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not (self.missing or self.mismatched or self.unexpected)

    def describe(self) -> str:
        """One line per list that isn't empty."""
        lists = {
            "loaded": (f"{len(self.loaded)} entries",),
            "missing in the file": self.missing,
            "of another shape": self.mismatched,
            "unknown to the network": self.unexpected,
        }
        return "\n".join(f"{title}: {', '.join(names)}" for title, names in lists.items() if names)


def initialise_from(model: nn.Module, state: Mapping[str, Any], *, strict: bool) -> WeightsReport:
    """Loads every entry of ``state`` that fits ``model``, in place.

    Args:
        state: our checkpoint's mapping (the EMA weights where it has some), a bare state dict, or one under
            ``model_state_dict`` or ``state_dict``; prefixes of DDP and torch.compile are stripped.
        strict: refuse anything but a complete fit.
    Raises:
        CheckpointError: gaps while strict; no weight that fits, strict or not; or no state dict found. The model is
            then as it was.
    """
    found = find_state(state)
    target = model.state_dict()
    fitting = {name: value for name, value in found.items() if name in target and value.shape == target[name].shape}
    report = WeightsReport(
        loaded=tuple(fitting),
        missing=tuple(name for name in target if name not in found),
        mismatched=tuple(
            f"{name} ({list(found[name].shape)} in the file, {list(target[name].shape)} here)"
            for name in target
            if name in found and name not in fitting
        ),
        unexpected=tuple(name for name in found if name not in target),
    )
    weights = {name for name, _ in model.named_parameters()}
    if weights.isdisjoint(fitting):
        raise CheckpointError(
            f"none of the {len(found)} entries fits the network's {len(target)}: the file has {_some(tuple(found))}, "
            f"the network {_some(tuple(target))}; use the file's own --model."
        )
    if strict and not report.complete:
        raise CheckpointError(f"the weights don't fit the network; {_gaps(report)}. Pass --no-strict to load the rest.")
    model.load_state_dict(fitting, strict=False)
    return report


def find_state(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict inside ``state``, under today's plain names.

    Raises:
        CheckpointError: there is none.
    """
    inner = next((state[key] for key in _PLACES if isinstance(state.get(key), Mapping) and state[key]), state)
    tensors = {_plain(str(name)): value for name, value in inner.items() if isinstance(value, Tensor)}
    if not tensors or len(tensors) < len([value for value in inner.values() if value is not None]):
        raise CheckpointError(
            f"there are no network weights under {_some(tuple(map(str, inner)))}; give one of our checkpoints, "
            'a state dict, or one saved as {"model_state_dict": ...}.'
        )
    return tensors


def _plain(name: str) -> str:
    stripped = True
    while stripped:
        stripped = False
        for wrapper in _WRAPPERS:
            if name.startswith(wrapper):
                name, stripped = name.removeprefix(wrapper), True
    return name


def _gaps(report: WeightsReport) -> str:
    parts = {
        "missing in the file": report.missing,
        "of another shape": report.mismatched,
        "unknown to the network": report.unexpected,
    }
    return "; ".join(f"{title}: {_some(names, 6)}" for title, names in parts.items() if names)


def _some(names: tuple[str, ...], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more
