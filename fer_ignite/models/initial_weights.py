"""Initial weights from another state dict: loads what fits and reports every other name.

The file itself is read elsewhere, by the one module that may; here a mapping comes in.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fer_ignite.errors import CheckpointError

__all__ = ["WeightsReport", "initialise_from"]

# Keys under which training programs keep a state dict, the preferred ones first: an average of the weights scores better.
_PLACES = (
    "ema",
    "model_ema",
    "ema_model",
    "state_dict_ema",
    "ema_state_dict",
    "params_ema",
    "model",
    "model_state_dict",
    "model_state",
    "state_dict",
    "net",
    "net_state_dict",
    "network",
    "network_state_dict",
    "weights",
    "params",
    "module",
    "student",
    "encoder",
    "backbone",
)
_PREFIXES = (
    "module.",
    "_orig_mod.",
    "_forward_module.",
    "model.",
    "net.",
    "network.",
    "backbone.",
    "encoder.",
    "student.",
    "ema.",
    "ema_model.",
)
_MOST_PREFIXES = 4  # prefixes removed one after another: module.model._orig_mod.backbone.


@dataclass(frozen=True)
class WeightsReport:
    """Names of parameters and buffers, each in one of the lists.

    ``mismatched`` says both shapes; ``unexpected`` are in the file only. ``place`` is the key that the state dict was found
    under ("" at the top of the file, nested keys joined by dots), ``prefixes`` what was removed from names, outermost first.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: tuple[str, ...]
    unexpected: tuple[str, ...]
    place: str = ""
    prefixes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return not (self.missing or self.mismatched or self.unexpected)

    def describe(self) -> str:
        """One line per list that isn't empty."""
        lists = {
            "state dict under": (self.place,) if self.place else (),
            "prefixes removed from names": self.prefixes,
            "loaded": (f"{len(self.loaded)} entries",),
            "missing in the file": self.missing,
            "of another shape": self.mismatched,
            "unknown to the network": self.unexpected,
        }
        return "\n".join(f"{title}: {', '.join(names)}" for title, names in lists.items() if names)


def initialise_from(model: nn.Module, state: Mapping[str, Any], *, strict: bool) -> WeightsReport:
    """Loads every entry of ``state`` that fits ``model``, in place.

    Args:
        state: our checkpoint's mapping (the EMA weights where it has some), a bare state dict, or one under a usual key
            such as ``net``, ``model_state_dict`` or ``state_dict``; usual prefixes of names are removed where more fits then.
        strict: refuse anything but a complete fit.
    Raises:
        CheckpointError: gaps while strict; no weight that fits, strict or not; or no state dict found. The model is
            then as it was.
    """
    target = model.state_dict()
    place, found, prefixes = _best_fit(state, target)
    fitting = {
        name: value
        for name, value in found.items()
        if name in target and value.shape == target[name].shape
    }
    report = WeightsReport(
        loaded=tuple(fitting),
        missing=tuple(name for name in target if name not in found),
        mismatched=tuple(
            f"{name} ({list(found[name].shape)} in the file, {list(target[name].shape)} here)"
            for name in target
            if name in found and name not in fitting
        ),
        unexpected=tuple(name for name in found if name not in target),
        place=place,
        prefixes=prefixes,
    )
    # Parameters: num_batches_tracked has one shape everywhere, and fits any network.
    weights = {name for name, _ in model.named_parameters()}
    if weights.isdisjoint(fitting):
        raise CheckpointError(
            f"none of the {len(found)} entries fits the network's {len(target)}: the file has {_some(tuple(found))}, "
            f"the network {_some(tuple(target))}; use the file's own --model."
        )
    if strict and not report.complete:
        raise CheckpointError(
            f"the weights don't fit the network; {_gaps(report)}. Pass --no-strict to load the rest."
        )
    model.load_state_dict(fitting, strict=False)
    return report


def _candidates(state: Mapping[str, Any]) -> list[tuple[str, dict[str, Tensor]]]:
    """Every state dict in the file with its key, the preferred ones first."""
    found = list(_state_dicts(state, ""))
    if not found:
        raise CheckpointError(
            f"there are no network weights under {_some(tuple(map(str, state)))}; give one of our checkpoints, "
            f"a state dict, or a mapping that holds one under a usual key ({', '.join(_PLACES)})."
        )
    return found


def _state_dicts(
    state: Mapping[str, Any], place: str, *, depth: int = 0
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if tensors and all(value is None or isinstance(value, Tensor) for value in state.values()):
        yield place, tensors
        return
    # A bound, as a mapping may contain itself.
    if depth < 3:
        for key in (key for key in _PLACES if isinstance(state.get(key), Mapping)):
            yield from _state_dicts(state[key], f"{place}.{key}" if place else key, depth=depth + 1)


def _best_fit(
    state: Mapping[str, Any], target: Mapping[str, Tensor]
) -> tuple[str, dict[str, Tensor], tuple[str, ...]]:
    """Key, renamed entries and removed prefixes with which most entries fit; the earlier candidate where several do."""

    def fitting(names: Mapping[str, Tensor]) -> int:
        # A shape that differs, as a head's for another number of classes, is worth less than one that agrees.
        return sum(
            1 + len(target) * (value.shape == target[name].shape)
            for name, value in names.items()
            if name in target
        )

    forms = [
        (place, renamed, prefixes)
        for place, tensors in _candidates(state)
        for prefixes, renamed in _strip_prefixes(tensors)
    ]
    return max(forms, key=lambda form: fitting(form[1]))  # max keeps the first of equals


def _strip_prefixes(tensors: dict[str, Tensor]) -> list[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """The entries under their own names, and with usual prefixes removed from those names that have them."""
    forms, newest = [((), tensors)], [((), tensors)]  # type: list[Any], list[Any]
    for _ in range(_MOST_PREFIXES):
        newest = [
            ((*prefixes, prefix), renamed)
            for prefixes, names in newest
            for prefix in _PREFIXES
            if any(name.startswith(prefix) for name in names)
            # Two names that become one without the prefix would lose an entry.
            and len(renamed := {name.removeprefix(prefix): value for name, value in names.items()})
            == len(names)
        ]
        forms += newest
    return forms


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
