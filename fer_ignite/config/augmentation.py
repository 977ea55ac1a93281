"""Settings of the augmentation."""

from typing import Literal

from fer_ignite.config.fields import SettingsGroup, setting

__all__ = ["AugmentationSettings"]


class AugmentationSettings(SettingsGroup):
    """Group Augmentation of the configuration; a field is a flag, its description the help text."""

    augment: bool = setting(True, "Augment the train split.", structural=True)
    hflip: float = setting(0.5, "Probability of a horizontal flip.", structural=True, ge=0, le=1)
    vflip: float = setting(0.0, "Probability of a vertical flip.", structural=True, ge=0, le=1)
    rotate: float = setting(
        5.0, "Rotation, uniform in +-.", unit="degrees", structural=True, ge=0, le=180
    )
    scale: float = setting(0.05, "Zoom, uniform in 1 +-.", structural=True, ge=0, lt=1)
    translate: float = setting(
        0.05, "Shift, uniform in +-.", unit="share of the side", structural=True, ge=0, lt=1
    )
    shear: float = setting(
        0.0, "Shear, uniform in +-.", unit="degrees", structural=True, ge=0, lt=90
    )
    brightness: float = setting(
        0.0, "Brightness factor, uniform in 1 +-.", structural=True, ge=0, le=1
    )
    contrast: float = setting(0.0, "Contrast factor, uniform in 1 +-.", structural=True, ge=0, le=1)
    reprob: float = setting(0.0, "Probability of random erasing.", structural=True, ge=0, le=1)
    blur: float = setting(
        0.0,
        "Gaussian blur of every second face: largest standard deviation, in px of a 48 px face.",
        unit="px",
        structural=True,
        ge=0,
        le=10,
    )
    noise: float = setting(
        0.0,
        "Gaussian noise on every second face: largest standard deviation, as a share of the full range.",
        structural=True,
        ge=0,
        le=1,
    )
    mixup: float = setting(0.0, "Mix-up's alpha; 0 = off.", structural=True, ge=0, le=100)
    cutmix: float = setting(0.0, "Cut-mix's alpha; 0 = off.", structural=True, ge=0, le=100)
    padding: Literal["zeros", "border", "reflection"] = setting(
        "zeros", "What lies outside a moved face.", structural=True
    )
    batch_transform: str | None = setting(
        None,
        "module:function(images_BCHW, generator) after the built-in augmentation.",
        structural=True,
    )
