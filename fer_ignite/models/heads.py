"""Parameters of the classifier head, as opposed to the backbone's."""

from torch import nn

__all__ = ["head_prefixes"]


def head_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Prefixes of the names of the classifier's parameters; everything else is the backbone.

    A network may say so itself by an attribute ``head_prefixes``; otherwise it is the last linear or convolution layer
    in the order of registration.
    """
    own = getattr(model, "head_prefixes", None)
    if own is not None:
        return tuple(own)
    # Convolutions too: SqueezeNet's classifier is one.
    names = [
        name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    return (names[-1],) if names else ()
