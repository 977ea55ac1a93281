"""Networks by name: own, torchvision's, timm's, or the user's class."""

# Dimensions: B images, C channels, H W pixels, K expressions.

import difflib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fer_ignite.errors import ConfigError, one_line
from fer_ignite.imports import is_object_name, load_object
from fer_ignite.models.emotionnet import EmotionNet
from fer_ignite.models.evaluation_mode import evaluation_mode
from fer_ignite.models.fer48 import Fer48
from fer_ignite.models.spec import NetworkSpec
from fer_ignite.models.timm_models import PREFIX, build_timm_model, check_timm_name
from fer_ignite.models.torchvision_models import build_zoo_model, zoo_names

__all__ = ["available_models", "build_model", "check_name", "check_output"]

OWN: dict[str, type[nn.Module]] = {"emotionnet": EmotionNet, "fer48": Fer48}
# Too small an image is found in a forward pass; these are what the libraries raise for it.
_FORWARD_ERRORS = (RuntimeError, ValueError, AssertionError, IndexError, ZeroDivisionError)


def available_models() -> list[str]:
    """Names of the own networks, then of torchvision's classifiers (imports torchvision)."""
    return [*sorted(OWN), *zoo_names()]


def check_name(name: str) -> None:
    """Fails early where ``--model`` names nothing; a user's module is imported.

    Raises:
        ConfigError: there is no such network.
    """
    if is_object_name(name):
        if not callable(found := load_object(name, setting="--model")):
            raise ConfigError(
                f"--model: {name} is a {type(found).__name__}; name a class or a function that makes a torch.nn.Module."
            )
    elif name.startswith(PREFIX):
        check_timm_name(name)
    elif name not in OWN and name not in zoo_names():
        near = difflib.get_close_matches(name, available_models(), n=3)
        hint = (
            f"did you mean {' or '.join(near)}?" if near else "'fer-ignite info --full' lists all."
        )
        raise ConfigError(
            f"--model: there is no network {name!r}; {hint} An own one is named as package.module:Class."
        )


def build_model(name: str, **options: Any) -> nn.Module:
    """A network that takes float images_BCHW and gives logits_BK, in training mode; on the CPU, or where a given module is.

    Args:
        name, options: see :class:`NetworkSpec`.
    Raises:
        ConfigError: an unknown name or argument, weights that can't be had, or images that the network can't take.
    """
    spec = NetworkSpec(name=name, **options)
    if clash := sorted({"num_classes", "in_channels", "weights"} & spec.model_args.keys()):
        raise ConfigError(
            f"--model-args: {', '.join(clash)} can't stand there; the data and --pretrained decide."
        )
    if is_object_name(name):
        model = _build_user_class(spec)
    elif name in OWN:
        model = _build_own(spec)
    else:
        check_name(name)
        if spec.norm != "batch":
            raise ConfigError(
                f"--norm {spec.norm}: {name} has a normalisation of its own; use fer48 or emotionnet for it."
            )
        model = (build_timm_model if name.startswith(PREFIX) else build_zoo_model)(spec)
    check_output(
        model,
        spec.num_classes,
        in_channels=spec.in_channels,
        image_px=spec.image_px,
        name=name,
        foreign=is_object_name(name),
    )
    return model


def _build_user_class(spec: NetworkSpec) -> nn.Module:
    refused = {
        "--pretrained": spec.pretrained,
        "--dropout": spec.dropout is not None,
        "--norm": spec.norm != "batch",
    }
    for flag in (flag for flag, used in refused.items() if used):
        raise ConfigError(
            f"{flag}: {spec.name} is your own class; pass what it needs by --model-args instead."
        )
    factory = load_object(spec.name, setting="--model")
    sizes = {"num_classes": spec.num_classes, "in_channels": spec.in_channels}
    made = call_checked(factory, spec.name, **sizes, **spec.model_args)
    if not isinstance(made, nn.Module):
        raise ConfigError(
            f"--model: {spec.name} made a {type(made).__name__}; it must make a torch.nn.Module."
        )
    return made


def _build_own(spec: NetworkSpec) -> nn.Module:
    if spec.pretrained:
        raise ConfigError(
            f"--pretrained: {spec.name} has no published weights; use --init-from FILE, or a torchvision network."
        )
    arguments: dict[str, Any] = {
        "num_classes": spec.num_classes,
        "in_channels": spec.in_channels,
        "norm": spec.norm,
    }
    if spec.dropout is not None:
        arguments["dropout"] = spec.dropout
    model: nn.Module = call_checked(OWN[spec.name], spec.name, **{**arguments, **spec.model_args})
    return model


def check_output(
    model: nn.Module,
    num_classes: int,
    *,
    in_channels: int,
    image_px: int | None,
    name: str,
    foreign: bool = False,
) -> None:
    """Tries one blank image in evaluation mode, on the network's device; does nothing without ``image_px``.

    Raises:
        ConfigError: the network can't take the image, its parameters are not float32, or its output is not [1, K]. Another
            error inside a ``foreign`` network is not caught: its traceback is what the user needs.
    """
    if image_px is None:
        return
    # A module that the caller has trained before is still on the device of that run.
    first = next((part for part in model.parameters() if part.is_floating_point()), None)
    device = torch.device("cpu") if first is None else first.device
    try:
        # One image: in training mode batch normalisation refuses a channel with a single value.
        with evaluation_mode(model), torch.no_grad():
            output = model(torch.zeros(1, in_channels, image_px, image_px, device=device))
    except _FORWARD_ERRORS as error:
        if foreign and first is not None and first.dtype != torch.float32:
            raise ConfigError(
                f"--model: {name} has parameters of {str(first.dtype).removeprefix('torch.')}, and images are float32; give it "
                "with .float(), and set --precision for faster arithmetic."
            ) from None
        if foreign:
            raise
        raise ConfigError(
            f"--model: {name} can't take images of {image_px} px ({one_line(error)}); use a larger --image-size, such as 224."
        ) from None
    shape = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if shape != [1, num_classes]:
        raise ConfigError(
            f"--model: {name} gave {shape} for one image; it must give logits of shape [1, {num_classes}]."
        )


def call_checked(factory: Callable[..., Any], name: str, **arguments: Any) -> Any:
    """``factory(**arguments)`` once its signature is known to take them.

    Raises:
        ConfigError: an argument that the factory doesn't have, or one that is missing.
    """
    # By the signature: a TypeError out of a constructor must not pass for a wrong argument.
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        # Some callables, such as those of C extensions, have no signature to be asked.
        return factory(**arguments)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        allowed = ", ".join(
            parameter for parameter in signature.parameters if parameter not in ("args", "kwargs")
        )
        raise ConfigError(
            f"--model-args: {name} can't be called: {error}; it takes {allowed}."
        ) from None
    return factory(**arguments)
