"""Networks by name: own, torchvision's, timm's, or the user's class."""

# Dimensions: B images, C channels, H W pixels, K expressions.

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from fer_ignite.errors import ConfigError
from fer_ignite.imports import is_object_name, load_object
from fer_ignite.models.emotionnet import EmotionNet
from fer_ignite.models.fer48 import Fer48
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
        hint = f"did you mean {' or '.join(near)}?" if near else "'fer-ignite info' lists all."
        raise ConfigError(
            f"--model: there is no network {name!r}; {hint} An own one is named as package.module:Class."
        )


def build_model(
    name: str,
    *,
    num_classes: int,
    in_channels: int,
    image_px: int | None = None,
    pretrained: bool = False,
    dropout: float | None = None,
    model_args: Mapping[str, Any] | None = None,
    norm: str = "batch",
) -> nn.Module:
    """A network that takes float images_BCHW and gives logits_BK, on the CPU, in training mode.

    Args:
        name: ``fer48``, ``emotionnet``, a torchvision classifier, ``timm:NAME``, or ``package.module:Class``, which is called with
            ``num_classes``, ``in_channels`` and ``model_args``.
        num_classes: K.
        in_channels: 1 gray or 3 colour; a torchvision network's first weights are summed over RGB for gray.
        image_px: side of the images; where it is given, one blank image is tried.
        pretrained: torchvision's best ImageNet weights, or timm's for the name, all but the classifier.
        dropout: rate in [0, 1) before the classifier; None = the network's own.
        norm: ``batch`` or ``group``; own networks only.
    Raises:
        ConfigError: an unknown name or argument, weights that can't be had, or images that the network can't take.
    """
    arguments = dict(model_args or {})
    _refuse_reserved(arguments)
    if is_object_name(name):
        _refuse_for_user_class(name, pretrained=pretrained, dropout=dropout, norm=norm)
        factory = load_object(name, setting="--model")
        made = call_checked(
            factory, name, num_classes=num_classes, in_channels=in_channels, **arguments
        )
        if not isinstance(made, nn.Module):
            raise ConfigError(
                f"--model: {name} made a {type(made).__name__}; it must make a torch.nn.Module."
            )
        check_output(
            made, num_classes, in_channels=in_channels, image_px=image_px, name=name, foreign=True
        )
        return made
    if name in OWN:
        if pretrained:
            raise ConfigError(
                f"--pretrained: {name} has no published weights; use --init-from FILE, or a torchvision network."
            )
        rate = {} if dropout is None else {"dropout": dropout}
        common = {"num_classes": num_classes, "in_channels": in_channels, "norm": norm, **rate}
        model: nn.Module = call_checked(OWN[name], name, **{**common, **arguments})
    else:
        model = _from_zoo(
            name,
            num_classes=num_classes,
            in_channels=in_channels,
            image_px=image_px,
            pretrained=pretrained,
            dropout=dropout,
            arguments=arguments,
            norm=norm,
        )
    check_output(model, num_classes, in_channels=in_channels, image_px=image_px, name=name)
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
    """Tries one blank image in evaluation mode; does nothing without ``image_px``.

    Raises:
        ConfigError: the network can't take the image, or its output is not [1, K]. An error inside a ``foreign``
            network is not caught: its traceback is what the user needs.
    """
    if image_px is None:
        return
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            output = model(torch.zeros(1, in_channels, image_px, image_px))
    except _FORWARD_ERRORS as error:
        if foreign:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"--model: {name} can't take images of {image_px} px ({reason}); use a larger --image-size, such as 224."
        ) from None
    finally:
        model.train(was_training)
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
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
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


def _from_zoo(
    name: str,
    *,
    num_classes: int,
    in_channels: int,
    image_px: int | None,
    pretrained: bool,
    dropout: float | None,
    arguments: dict[str, Any],
    norm: str,
) -> nn.Module:
    check_name(name)
    if norm != "batch":
        raise ConfigError(
            f"--norm {norm}: {name} has a normalisation of its own; use fer48 or emotionnet for it."
        )
    build = build_timm_model if name.startswith(PREFIX) else build_zoo_model
    return build(
        name,
        num_classes=num_classes,
        in_channels=in_channels,
        image_px=image_px,
        pretrained=pretrained,
        dropout=dropout,
        arguments=arguments,
    )


def _refuse_reserved(arguments: Mapping[str, Any]) -> None:
    clash = sorted({"num_classes", "in_channels", "weights"} & arguments.keys())
    if clash:
        raise ConfigError(
            f"--model-args: {', '.join(clash)} can't stand there; the data and --pretrained decide."
        )


def _refuse_for_user_class(
    name: str, *, pretrained: bool, dropout: float | None, norm: str
) -> None:
    settings = {
        "--pretrained": pretrained,
        "--dropout": dropout is not None,
        "--norm": norm != "batch",
    }
    for flag in (flag for flag, used in settings.items() if used):
        raise ConfigError(
            f"{flag}: {name} is your own class; pass what it needs by --model-args instead."
        )
