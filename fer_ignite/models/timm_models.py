"""timm's networks by name: ``timm:NAME``, and ``timm:hf-hub:ORGANISATION/NAME``."""

# Dimensions: K expressions.

import contextlib
import difflib
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from torch import nn

from fer_ignite.errors import ConfigError
from fer_ignite.imports import require_library

__all__ = ["PREFIX", "build_timm_model", "check_timm_name", "published_statistics"]

PREFIX = "timm:"
_HUB = "hf-hub:"
_HUB_TIMEOUT_SECONDS = 5

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def check_timm_name(name: str) -> None:
    """Fails early where ``timm:NAME`` names nothing; names of the hub can't be checked without a network.

    Raises:
        ConfigError: timm is not installed, or has no such network.
    """
    require_library("timm", extra="timm", purpose="--model timm:NAME")
    import timm

    short = name.removeprefix(PREFIX)
    if short.startswith(_HUB) or timm.is_model(short.split(".")[0]):
        return
    near = difflib.get_close_matches(short, timm.list_models(), n=3)
    hint = (
        f"did you mean {' or '.join(PREFIX + one for one in near)}?"
        if near
        else "timm.list_models() lists all."
    )
    raise ConfigError(f"--model: timm has no network {short!r}; {hint}")


def build_timm_model(
    name: str,
    *,
    num_classes: int,
    in_channels: int,
    image_px: int | None,
    pretrained: bool,
    dropout: float | None,
    arguments: dict[str, Any],
) -> nn.Module:
    """A timm network; see :func:`fer_ignite.models.registry.build_model` for the arguments.

    timm sums a published network's first weights over RGB for gray faces. A network of one fixed input size is made for
    ``image_px``; timm resamples its position embedding.

    Raises:
        ConfigError: timm refuses the arguments, or published weights can't be had.
    """
    check_timm_name(name)
    import timm

    short = name.removeprefix(PREFIX)
    options: dict[str, Any] = {} if dropout is None else {"drop_rate": dropout}
    facts = None if short.startswith(_HUB) else timm.models.get_pretrained_cfg(short)
    if image_px is not None and facts is not None and facts.fixed_input_size:
        options["img_size"] = image_px
    try:
        with _without_retries(downloads=pretrained or short.startswith(_HUB)):
            model: nn.Module = timm.create_model(
                short,
                pretrained=pretrained,
                num_classes=num_classes,
                in_chans=in_channels,
                **{**options, **arguments},
            )
    except (
        Exception
    ) as error:  # of timm, the hub, the network and the disk; they have no common base
        reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        if pretrained or short.startswith(_HUB):
            raise ConfigError(
                f"--model {name}: its published weights can't be had ({reason}); with a network at hand try again, or train "
                "without --pretrained."
            ) from None
        raise ConfigError(
            f"--model {name}: timm refuses the arguments ({reason}); change --model-args or --image-size."
        ) from None
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
        return True  # it answers; what it says is for the client of the hub
    except OSError:
        return False


def published_statistics(name: str) -> Statistics:
    """Mean and standard deviation per channel, in [0, 1], under which a network's published weights were trained.

    Raises:
        ConfigError: a name of the hub, whose description needs a network.
    """
    check_timm_name(name)
    import timm

    short = name.removeprefix(PREFIX)
    facts = None if short.startswith(_HUB) else timm.models.get_pretrained_cfg(short)
    if facts is None:
        raise ConfigError(
            f"--normalize model: timm knows no mean of {short}; choose train or imagenet."
        )
    return tuple(facts.mean), tuple(facts.std)
