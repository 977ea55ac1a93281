"""Settings of the network."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from fer_ignite.config.fields import Names, SettingsGroup, read_mapping, setting

__all__ = ["ModelSettings"]


class ModelSettings(SettingsGroup):
    """Group Model of the configuration; a field is a flag, its description the help text."""

    model: str = setting(
        "fer48",
        "fer48, emotionnet, a torchvision classifier's name, timm:NAME, or module:Class.",
        structural=True,
    )
    model_args: Annotated[dict[str, Any], BeforeValidator(read_mapping)] = setting(
        {},
        "Arguments of the network as YAML, e.g. '{widths: [32, 64, 128, 256]}'.",
        structural=True,
    )
    # This and init_from are not structural: a resumed run has its weights from the checkpoint.
    pretrained: bool = setting(
        False, "Start from the published weights of a torchvision or timm network."
    )
    init_from: str | None = setting(None, "Start from the weights of this file.")
    strict: bool = setting(True, "Refuse an --init-from with missing or mismatched weights.")
    freeze: Names = setting(
        (), "Parameters that stay as they are: names or globs, comma separated.", structural=True
    )
    dropout: float | None = setting(
        None, "Dropout before the classifier. [default: the network's]", structural=True, ge=0, lt=1
    )
    norm: Literal["batch", "group"] = setting(
        "batch", "Normalisation in the own networks.", structural=True
    )
