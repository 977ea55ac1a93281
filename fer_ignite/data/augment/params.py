"""Random augmentation parameters, one row per image.

The amount of randomness used doesn't depend on what is switched on, so a changed setting leaves the other draws as they
were.
"""

# Dimensions: B images of a batch, U random numbers per image.

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from fer_ignite.errors import ConfigError

__all__ = ["AugmentParams", "AugmentSpec", "mixup_partners", "sample_params"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.int64]

PADDINGS = ("zeros", "border", "reflection")

# Random erasing as published and as in torchvision: share of the image's area, and height / width.
ERASE_AREA = (0.02, 0.33)
ERASE_RATIO = (0.3, 3.3)


@dataclass(frozen=True, kw_only=True)
class AugmentSpec:
    """How far images are changed; everything is off by default, except that a crop, where there is one, is random.

    Attributes:
        hflip: share of images mirrored left to right, 0 to 1.
        vflip: share of images turned upside down, 0 to 1.
        rotate_deg: angle, uniform in +- this, 0 to 180.
        scale: enlargement, uniform in 1 +- this, 0 to below 1.
        translate: shift in x and in y, each uniform in +- this share of the side, 0 to 1.
        shear_deg: shear along x, uniform in +- this, 0 to below 90.
        crop: random place of the crop where the resized image is larger than the output; off: the centre.
        padding: what lies outside of the image: 'zeros', 'border' or 'reflection'.
        brightness: factor, uniform in 1 +- this, never below 0.
        contrast: factor, uniform in 1 +- this, never below 0.
        reprob: share of images with an erased rectangle, 0 to 1.
        blur: largest standard deviation of a Gaussian blur, in px of a 48 px image; half of the images, uniform from 0.
        noise: largest standard deviation of Gaussian noise, in shares of the full range; half of the images, uniform from 0.
        mixup: alpha of the Beta distribution that mix-up's share follows; 0 is off.
        cutmix: the same of cut-mix; with both, each image takes one of them, evenly.
    """

    hflip: float = 0.0
    vflip: float = 0.0
    rotate_deg: float = 0.0
    scale: float = 0.0
    translate: float = 0.0
    shear_deg: float = 0.0
    crop: bool = True
    padding: str = "zeros"
    brightness: float = 0.0
    contrast: float = 0.0
    reprob: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name, top in (
            ("hflip", 1),
            ("vflip", 1),
            ("rotate_deg", 180),
            ("translate", 1),
            ("reprob", 1),
        ):
            self._check(name, f"0 to {top}", holds=0 <= getattr(self, name) <= top)
        for name, top in (("scale", 1), ("shear_deg", 90)):
            self._check(name, f"0 to below {top}", holds=0 <= getattr(self, name) < top)
        for name, top in (("blur", 10), ("noise", 1)):
            self._check(name, f"0 to {top}", holds=0 <= getattr(self, name) <= top)
        for name in ("brightness", "contrast", "mixup", "cutmix"):
            self._check(name, "a number from 0 up", holds=0 <= getattr(self, name) < float("inf"))
        self._check("padding", " or ".join(PADDINGS), holds=self.padding in PADDINGS)

    def _check(self, name: str, allowed: str, *, holds: bool) -> None:
        if not holds:
            raise ConfigError(
                f"Augmentation {name} is {getattr(self, name)!r}; allowed is {allowed}."
            )

    @property
    def resamples(self) -> bool:
        """Whether geometry needs values between pixels: flips and crops don't."""
        return any((self.rotate_deg, self.scale, self.translate, self.shear_deg))

    @property
    def mixes(self) -> bool:
        """Whether an image takes part of another one."""
        return bool(self.mixup or self.cutmix)


@dataclass(frozen=True)
class AugmentParams:
    """What was drawn for each image of a batch; arrays [B].

    Attributes:
        hflip, vflip, erase, cut: bool: mirrored, upside down, erased, mixed by cut-mix rather than by mix-up.
        angle_deg, shear_deg, scale, shift_x, shift_y: as torchvision's affine; shifts in shares of the output's side.
        crop_x, crop_y, erase_x, erase_y, cut_x, cut_y: places in [0, 1).
        brightness, contrast: factors.
        blur, noise: standard deviations, 0 where there is none. noise_x, noise_y: places in [0, 1).
        erase_area, erase_ratio: share of the area; height / width.
        share: of the partner in the mixed image, in [0, 1]; 0 where nothing is mixed.
        partner: int64: the partner's position in the whole batch.
    """

    hflip: Bools
    vflip: Bools
    erase: Bools
    cut: Bools
    angle_deg: Floats
    shear_deg: Floats
    scale: Floats
    shift_x: Floats
    shift_y: Floats
    crop_x: Floats
    crop_y: Floats
    brightness: Floats
    contrast: Floats
    erase_area: Floats
    erase_ratio: Floats
    erase_x: Floats
    erase_y: Floats
    cut_x: Floats
    cut_y: Floats
    blur: Floats
    noise: Floats
    noise_x: Floats
    noise_y: Floats
    share: Floats
    partner: Positions

    def __len__(self) -> int:
        return len(self.partner)

    def take(self, positions: npt.ArrayLike | slice) -> AugmentParams:
        """The draws of some of the images, in the order of `positions` (int [B'] or a slice)."""
        chosen: Any = (
            positions if isinstance(positions, slice) else np.asarray(positions, dtype=np.int64)
        )
        return AugmentParams(
            **{field.name: getattr(self, field.name)[chosen] for field in fields(self)}
        )


# The columns of the first block of random numbers; a further one would change all others, and older runs with them.
_COLUMNS = (
    *(
        "hflip",
        "vflip",
        "angle",
        "scale",
        "shift_x",
        "shift_y",
        "shear",
        "crop_x",
        "crop_y",
        "brightness",
        "contrast",
    ),
    *(
        "erase",
        "erase_area",
        "erase_ratio",
        "erase_x",
        "erase_y",
        "partner",
        "cut",
        "cut_x",
        "cut_y",
    ),
)


def sample_params(
    spec: AugmentSpec, generator: np.random.Generator, *, count: int
) -> AugmentParams:
    """Draw the parameters of `count` images.

    Args:
        generator: gives the same amount of numbers whatever `spec` says.
    Source: ranges as torchvision's RandomAffine, ColorJitter and RandomErasing (0.29), but a scale is one number for
        both axes, shifts aren't rounded to pixels, and an erased rectangle that is too long is cut to the image's side.
    """
    uniform_BU = generator.random((count, len(_COLUMNS)))
    u = dict(zip(_COLUMNS, uniform_BU.T, strict=True))
    sign = {name: 2.0 * u[name] - 1.0 for name in ("angle", "scale", "shift_x", "shift_y", "shear")}
    # Drawn even where nothing is mixed: the generator must stand at the same place whatever is on.
    share_seed = int(generator.integers(2**63))
    # drawn behind all others, so that runs without blur and noise stay what they were
    blur_B, noise_B, noise_x_B, noise_y_B = generator.random((4, count))
    cut_B = u["cut"] < 0.5 if spec.mixup and spec.cutmix else np.full(count, bool(spec.cutmix))
    low, high = np.log(ERASE_RATIO)
    return AugmentParams(
        hflip=u["hflip"] < spec.hflip,
        vflip=u["vflip"] < spec.vflip,
        erase=u["erase"] < spec.reprob,
        cut=cut_B,
        angle_deg=spec.rotate_deg * sign["angle"],
        shear_deg=spec.shear_deg * sign["shear"],
        scale=1.0 + spec.scale * sign["scale"],
        shift_x=spec.translate * sign["shift_x"],
        shift_y=spec.translate * sign["shift_y"],
        crop_x=u["crop_x"],
        crop_y=u["crop_y"],
        brightness=_factors(u["brightness"], spec.brightness),
        contrast=_factors(u["contrast"], spec.contrast),
        erase_area=ERASE_AREA[0] + (ERASE_AREA[1] - ERASE_AREA[0]) * u["erase_area"],
        # Uniform in the logarithm, so that high and wide rectangles are equally frequent.
        erase_ratio=np.exp(low + (high - low) * u["erase_ratio"]),
        erase_x=u["erase_x"],
        erase_y=u["erase_y"],
        cut_x=u["cut_x"],
        cut_y=u["cut_y"],
        # Below 0 for half of the images, which then have no blur; the next line does so for the
        # noise.
        blur=spec.blur * np.maximum(0.0, 2.0 * blur_B - 1.0),
        noise=spec.noise * np.maximum(0.0, 2.0 * noise_B - 1.0),
        noise_x=noise_x_B,
        noise_y=noise_y_B,
        share=_shares(spec, cut_B, seed=share_seed),
        partner=_ring(u["partner"]),
    )


def mixup_partners(draws: AugmentParams) -> Positions:
    """Position in the whole batch of the image that each one is mixed with, int64 [B]."""
    return draws.partner


def _factors(uniform_B: Floats, reach: float) -> Floats:
    least = max(0.0, 1.0 - reach)
    return least + (1.0 + reach - least) * uniform_B


def _ring(uniform_B: Floats) -> Positions:
    """One random ring through all images: each has one partner, is one partner, and is its own only when alone."""
    order_B = np.argsort(uniform_B, kind="stable")
    partner_B = np.empty(len(order_B), np.int64)
    # Not a plain permutation: in one, about one image of each batch would be its own partner.
    partner_B[order_B] = np.roll(order_B, 1)
    return partner_B


def _shares(spec: AugmentSpec, cut_B: Bools, *, seed: int) -> Floats:
    """The partner's share, 1 - lambda; Beta numbers use a varying amount of randomness, hence their own generators."""
    share_B = np.zeros(len(cut_B))
    if len(cut_B) == 1:  # alone: its partner would be itself
        return share_B
    for stream, (alpha, mine_B) in enumerate(((spec.mixup, ~cut_B), (spec.cutmix, cut_B))):
        if alpha:
            own = np.random.Generator(np.random.Philox(key=[seed, stream]))
            # Drawn for all, then selected: a share must not depend on how many take cut-mix.
            share_B[mine_B] = own.beta(alpha, alpha, len(cut_B))[mine_B]
    return share_B
