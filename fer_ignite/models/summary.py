"""Parameter count, FLOPs of one image, and parameter groups."""

# Dimensions: B images, C channels, H W pixels.

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["describe_groups", "flops", "parameter_count"]


def parameter_count(model: nn.Module, *, trainable_only: bool = False) -> int:
    """Number of parameters, shared ones counted once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def flops(model: nn.Module, shape: tuple[int, int, int, int]) -> int:
    """Floating-point operations of one forward pass, a multiply-add counted as two.

    Args:
        shape: B, C, H, W.
    Source: torch.utils.flop_counter, which counts convolutions and matrix products and nothing else.
    """
    was_training = model.training
    first = next(model.parameters())
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.zeros(shape, device=first.device, dtype=first.dtype))
    finally:
        model.train(was_training)
    return int(counter.get_total_flops())


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
