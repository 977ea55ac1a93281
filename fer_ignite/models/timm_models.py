"""timm's networks by name: ``timm:NAME``, and ``timm:hf-hub:ORGANISATION/NAME``."""

# Dimensions: K expressions.

import contextlib
import difflib
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from torch import nn

from fer_ignite.errors import ConfigError, one_line
from fer_ignite.imports import require_library
from fer_ignite.models.spec import NetworkSpec

__all__ = ["PREFIX", "build_timm_model", "check_timm_name", "published_statistics"]

PREFIX = "timm:"
_HUB = "hf-hub:"
_HUB_TIMEOUT_SECONDS = 5

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def check_timm_name(name: str) -> None:
    """Fails early where ``timm:NAME`` names nothing; names of the hub can't be checked without a network.

    Raises:
        ConfigError: timm is not installed, or has no such network, or no such weights of it.
    """
    require_library("timm", extra="timm", purpose="--model timm:NAME")
    import timm

    short = name.removeprefix(PREFIX)
    if short.startswith(_HUB):
        return
    architecture = short.split(".")[0]
    if timm.is_model(architecture):
        try:
            timm.models.get_pretrained_cfg(short)
        except RuntimeError:
            tags = timm.list_models(f"{architecture}.*", include_tags=True)
            raise ConfigError(
                f"--model: timm has no weights {short!r}; name {PREFIX}{architecture}"
                + (f", or one of {', '.join(PREFIX + tag for tag in tags)}." if tags else ".")
            ) from None
        return
    near = difflib.get_close_matches(short, timm.list_models(), n=3)
    hint = (
        f"did you mean {' or '.join(PREFIX + one for one in near)}?"
        if near
        else "timm.list_models() lists all."
    )
    raise ConfigError(f"--model: timm has no network {short!r}; {hint}")


def build_timm_model(spec: NetworkSpec) -> nn.Module:
    """A timm network.

    timm sums a published network's first weights over RGB for gray faces. A network of one fixed input size is made for
    ``image_px``; timm resamples its position embedding.

    Raises:
        ConfigError: timm refuses the arguments, or published weights can't be had.
    """
    short, facts = _published(spec.name)
    import timm

    options: dict[str, Any] = {} if spec.dropout is None else {"drop_rate": spec.dropout}
    if spec.image_px is not None and facts is not None and facts.fixed_input_size:
        options["img_size"] = spec.image_px
    try:
        with _without_retries(downloads=spec.pretrained or short.startswith(_HUB)):
            model: nn.Module = timm.create_model(
                short,
                pretrained=spec.pretrained,
                num_classes=spec.num_classes,
                in_chans=spec.in_channels,
                **{**options, **spec.model_args},
            )
    # The errors of timm, the hub, the network and the disk have no common base.
    except Exception as error:
        remedy = "timm refuses the arguments ({}); change --model-args or --image-size."
        if spec.pretrained or short.startswith(_HUB):
            remedy = "its published weights can't be had ({}); with a network at hand try again, or train without --pretrained."
        raise ConfigError(f"--model {spec.name}: {remedy.format(one_line(error))}") from None
    # A tuple in distilled networks, which have two heads.
    head = getattr(model, "pretrained_cfg", {}).get("classifier")
    if head:
        model.head_prefixes = (head,) if isinstance(head, str) else tuple(head)  # type: ignore[assignment]
    return model


@contextlib.contextmanager
def _without_retries(*, downloads: bool) -> Iterator[None]:
    """Where the hub can't be reached, only files that are on this machine are used.

    The hub's own client retries each of several requests five times: 52 s before the first error.
    """
    if not downloads:
        yield
        return
    from huggingface_hub import constants

    # In the module: the variable of the environment was read when the library was imported.
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _is_reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _is_reachable(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=_HUB_TIMEOUT_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True  # it answers; the error page is for the hub's client
    except OSError:
        return False


def _published(name: str) -> tuple[str, Any]:
    """timm's name of a network, and timm's description of its published weights; None for one of the hub."""
    check_timm_name(name)
    import timm

    short = name.removeprefix(PREFIX)
    return short, None if short.startswith(_HUB) else timm.models.get_pretrained_cfg(short)


def published_statistics(name: str) -> Statistics:
    """Mean and standard deviation per channel, in [0, 1], under which a network's published weights were trained.

    Raises:
        ConfigError: a name of the hub, whose description needs a network.
    """
    short, facts = _published(name)
    if facts is None:
        raise ConfigError(
            f"--normalize model: timm knows no mean of {short}; choose train or imagenet."
        )
    return tuple(facts.mean), tuple(facts.std)
