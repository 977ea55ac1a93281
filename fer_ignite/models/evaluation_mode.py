"""Evaluation mode of a network within a block."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluation_mode"]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within the block; afterwards each module is in the mode that it was in."""
    # Module by module: ``model.train()`` would also unfreeze batch normalisations that were set to evaluation mode.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
