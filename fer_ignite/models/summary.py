"""Parameter count, FLOPs of one image, and parameter groups."""

# Dimensions: B images, C channels, H W pixels.

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from fer_ignite.models.evaluation_mode import evaluation_mode

__all__ = ["describe_groups", "describe_layers", "flops", "parameter_count"]


def parameter_count(model: nn.Module) -> int:
    """Number of parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def flops(model: nn.Module, shape: tuple[int, int, int, int]) -> int:
    """Floating-point operations of one forward pass, a multiply-add counted as two.

    Args:
        shape: B, C, H, W.
    Source: torch.utils.flop_counter, which counts convolutions and matrix products and nothing else.
    """
    first = next(model.parameters())
    with evaluation_mode(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(shape, device=first.device, dtype=first.dtype))
    return int(counter.get_total_flops())


def describe_layers(model: nn.Module, shape: tuple[int, int, int, int]) -> str:
    """One line per layer in the order of the forward pass: name, kind, output shape of one image, parameters.

    Args:
        shape: B, C, H, W of the input.
    """
    rows: list[tuple[str, str, str, int]] = []

    def note(name: str) -> Any:
        def hook(layer: nn.Module, _: Any, output: Any) -> None:
            size = "x".join(map(str, output.shape[1:])) if isinstance(output, torch.Tensor) else "-"
            own = sum(parameter.numel() for parameter in layer.parameters(recurse=False))
            rows.append((name, type(layer).__name__, size, own))

        return hook

    # Modules that only combine their parts have no row; a parameter counts in the row of the module that holds it.
    layers = [
        (name, layer)
        for name, layer in model.named_modules()
        if not list(layer.children()) or list(layer.parameters(recurse=False))
    ]
    handles = [layer.register_forward_hook(note(name)) for name, layer in layers]
    try:
        flops(model, shape)
    finally:
        for handle in handles:
            handle.remove()
    widths = [max(len(str(row[place])) for row in rows) for place in range(3)]
    return "\n".join(
        f"{name:<{widths[0]}}  {kind:<{widths[1]}}  {size:>{widths[2]}}  {count:>11,}"
        for name, kind, size, count in rows
    )


def describe_groups(optimizer: Optimizer) -> str:
    """One line per parameter group: name, tensors, parameters, learning rate, weight decay."""
    lines = []
    for index, group in enumerate(optimizer.param_groups):
        size = sum(p.numel() for p in group["params"])
        # A scheduler keeps the rate that it multiplies as "initial_lr" and changes "lr".
        rate = group.get("initial_lr", group["lr"])
        lines.append(
            f"{group.get('name', f'group {index}'):<20} {len(group['params']):>4} tensors {size:>12,} parameters   "
            f"lr {rate:g}   weight decay {group['weight_decay']:g}"
        )
    return "\n".join(lines)
