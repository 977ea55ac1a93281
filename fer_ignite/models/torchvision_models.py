"""torchvision's classifiers with K classes and one or three input channels.

torchvision is imported inside the functions: the default network doesn't need it, and it takes a second.
"""

# Dimensions: K expressions.

import inspect
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_ignite.errors import ConfigError, one_line
from fer_ignite.models.heads import head_prefixes
from fer_ignite.models.spec import IMAGENET, NetworkSpec

__all__ = ["DropoutLinear", "build_zoo_model", "zoo_names"]


# Their published weights expect images in -1..1, which torchvision makes of ImageNet-normalised ones (transform_input).
_STEM_OF_OWN_SCALE = {"googlenet": "conv1", "inception_v3": "Conv2d_1a_3x3"}


class DropoutLinear(nn.Linear):
    """A linear layer behind dropout that keeps its parameters' names, so that weights load with and without dropout."""

    rate = 0.0

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(F.dropout(input, self.rate, self.training), self.weight, self.bias)


def zoo_names() -> list[str]:
    """Names of torchvision's classification networks."""
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def build_zoo_model(spec: NetworkSpec) -> nn.Module:
    """A torchvision classifier.

    Raises:
        ConfigError: torchvision refuses the arguments, or published weights can't be had.
    """
    import torchvision

    builder = torchvision.models.get_model_builder(spec.name)
    needed = _needed_options(builder, spec.image_px, pretrained=spec.pretrained)
    # weights=None also for published ones: with weights torchvision refuses another number of
    # classes than ImageNet's.
    try:
        model: nn.Module = builder(
            weights=None, num_classes=spec.num_classes, **{**needed, **spec.model_args}
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"--model: torchvision's {spec.name} refuses its arguments ({one_line(error)}); change --model-args or --image-size."
        ) from None
    if spec.pretrained:
        _load_published(model, spec.name, image_px=spec.image_px)
    if spec.in_channels != 3:
        _sum_first_convolution(model, spec.in_channels)
    if spec.dropout is not None:
        _set_dropout(model, spec.dropout)
    return model


def _needed_options(builder: Any, image_px: int | None, *, pretrained: bool) -> dict[str, Any]:
    """Arguments that some of torchvision's networks need so as to give one plain output for our images."""
    module = inspect.getmodule(builder).__name__.rsplit(".", 1)[-1]  # type: ignore[union-attr]
    # their auxiliary classifiers make the training output a tuple
    if module in ("googlenet", "inception"):
        # Their initialisation takes long, and published weights replace it.
        return {"aux_logits": False, "init_weights": not pretrained}
    if module == "vision_transformer" and image_px is not None:
        return {"image_size": image_px}
    if module == "maxvit" and image_px is not None:
        return {"input_size": (image_px, image_px)}
    return {}


def _load_published(model: nn.Module, name: str, *, image_px: int | None) -> None:
    """Loads the best published ImageNet weights into everything but the classifier."""
    import torchvision

    choices = list(torchvision.models.get_model_weights(name))
    if not choices:
        raise ConfigError(
            f"--pretrained: torchvision publishes no weights for {name}; leave it out or take another."
        )
    state = _fetch(torchvision.models.get_model_weights(name).DEFAULT, name)
    head = tuple(f"{prefix}." for prefix in head_prefixes(model))
    known = model.state_dict().keys()
    # in place: the mapping carries version numbers that load_state_dict reads
    for key in list(state):
        # Published DenseNets are older than today's parameter names.
        modern = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)
        value = state.pop(key)
        if not modern.startswith(head) and modern in known:
            state[modern] = value
    if "encoder.pos_embedding" in state and image_px is not None:
        from torchvision.models.vision_transformer import interpolate_embeddings

        state = interpolate_embeddings(
            image_px,
            model.get_submodule("conv_proj").kernel_size[0],  # type: ignore[index]
            state,
        )
    try:
        gaps = model.load_state_dict(state, strict=False).missing_keys
    except RuntimeError as error:
        raise ConfigError(
            f"--pretrained: the weights don't fit {name}: {one_line(error)}."
        ) from None
    gaps = [
        key for key in gaps if not key.startswith(head) and not key.endswith("num_batches_tracked")
    ]
    if name in _STEM_OF_OWN_SCALE and not getattr(model, "transform_input", False):
        _take_imagenet_scale(model.get_submodule(_STEM_OF_OWN_SCALE[name]))
    if gaps:
        raise ConfigError(
            f"--pretrained: the file of {name} lacks {len(gaps)} entries, first {gaps[0]}; remove it."
        )


def _take_imagenet_scale(stem: Any) -> None:
    """Folds the step from ImageNet's normalisation to -1..1 into a convolution and its batch normalisation.

    In the weights, not by torchvision's flag: a checkpoint is loaded without it, and gray has no three channels to transform.
    Exact but for a padded border.
    """
    mean_C11, std_C11 = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    with torch.no_grad():
        weight_OCHW = stem.conv.weight
        shift_O = (weight_OCHW * ((mean_C11 - 0.5) / 0.5)).sum(dim=(1, 2, 3))
        stem.bn.running_mean -= shift_O
        weight_OCHW *= std_C11 / 0.5


def _fetch(weights: Any, name: str) -> dict[str, Any]:
    """The published state: from torch hub's folder, or downloaded into it."""
    try:
        state: dict[str, Any] = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except Exception as error:  # network, disk, hash and zip errors have no common base
        raise ConfigError(
            f"--pretrained: the weights of {name} can't be had from {weights.url} ({one_line(error)}); download that file "
            f"elsewhere and put it into {torch.hub.get_dir()}/checkpoints, or train without --pretrained."
        ) from None
    return state


def _sum_first_convolution(model: nn.Module, in_channels: int) -> None:
    """Makes a network for RGB one for gray: the same output as for the gray image repeated three times."""
    # The first one by registration is the stem, in all of torchvision's families.
    path, old = next(
        (name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)
    )
    if in_channels != 1:
        raise ConfigError(
            f"--model: torchvision's networks take 1 or 3 channels, the data has {in_channels}."
        )
    new = nn.Conv2d(
        1,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        dilation=old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
        padding_mode=old.padding_mode,  # type: ignore[arg-type]
    )
    with torch.no_grad():
        # A gray image that is repeated over RGB meets the sum of the three weights.
        new.weight.copy_(old.weight.sum(dim=1, keepdim=True))
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    _replace(model, path, new=new)
    # GoogLeNet and Inception would read the three channels one by one.
    if getattr(model, "transform_input", False):
        model.transform_input = False  # type: ignore[assignment]


def _set_dropout(model: nn.Module, rate: float) -> None:
    """The classifier's own dropout layers get the rate; where it has none, its linear layer gets one in front."""
    path = head_prefixes(model)[0]
    parent = model.get_submodule(path.rpartition(".")[0])
    layers = [child for child in parent.children() if isinstance(child, nn.Dropout)]
    for layer in layers:
        layer.p = rate
    head = model.get_submodule(path)
    if not layers and isinstance(head, nn.Linear):
        wrapped = DropoutLinear(head.in_features, head.out_features, bias=head.bias is not None)
        # The parameters themselves: published weights may have been loaded into them.
        wrapped.weight, wrapped.bias, wrapped.rate = head.weight, head.bias, rate
        _replace(model, path, new=wrapped)


def _replace(model: nn.Module, path: str, *, new: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, new)
