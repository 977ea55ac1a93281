"""Specification of a dataset cache: equal specifications over the same files give the same cache."""

import math
from dataclasses import dataclass

from fer_ignite.data.expressions import NUMBERED_CLASSES
from fer_ignite.errors import ConfigError

__all__ = ["LAYOUTS", "CacheSpec"]

LAYOUTS = (
    "auto",
    "folders",
    "csv",
    "fer2013",
    "rafdb",
    "affectnet",
    "ckplus",
    "jaffe",
    "kdef",
    "expw",
)


@dataclass(frozen=True, kw_only=True)
class CacheSpec:
    """What to pack, and how.

    Args:
        data: class folders, fer2013.csv, icml_face_data.csv, a csv manifest, a dataset cache, demo, demo:N or kaggle:owner/name.
        votes: fer2013new.csv, the FER+ votes for the rows of `data`.
        vote_mode: "majority", "distribution" or "second" (see :func:`fer_ignite.data.readers.ferplus.apply_votes`).
        classes: names in order, renamed or merged: "angry,happy,calm=neutral+sad"; None keeps the source's.
        side_px: the largest side to store; images are never enlarged for it. None: the images' own where all are
            squares of one side, else the median of their shorter (letterbox: longer) sides, 224 at most.
        resize_mode: "squash", "letterbox" or "crop".
        channels: "auto", "gray" or "rgb".
        split: shares of train, val and test for a source that has no splits of its own.
        val_fraction: share of train that becomes val where the source has none.
        bad_images: "error" or "skip".
        layout: how the data's folder is read, one of `LAYOUTS`; "auto" recognises it by its files.
        peak_frames: last frames of each CK+ sequence that are taken.
        neutral_frames: take the first frame of each CK+ sequence as neutral.
        group_by: regular expression that finds the group (a person, a film) in each image's name.
        follow_links: read symbolic links that lead out of the data's folder.
        crop_faces: find, align and cut out the largest face of each photograph.
        raw_limit_bytes: dataset caches larger than this keep the files' own bytes in place of pixels.
    """

    data: str
    votes: str | None = None
    vote_mode: str = "majority"
    classes: str | None = None
    side_px: int | None = None
    resize_mode: str = "squash"
    channels: str = "auto"
    split: tuple[float, float, float] | None = None
    split_seed: int = 0
    val_fraction: float = 0.1
    bad_images: str = "error"
    layout: str = "auto"
    peak_frames: int = 3
    neutral_frames: bool = False
    group_by: str | None = None
    follow_links: bool = False
    crop_faces: bool = False
    raw_limit_bytes: int = 8 << 30

    @property
    def numbering(self) -> str | None:
        """The data set whose numbers the class names may be, as `layout` says; None: none is named."""
        return self.layout if self.layout in NUMBERED_CLASSES else None

    def __post_init__(self) -> None:
        _one_of("vote_mode", self.vote_mode, allowed=("majority", "distribution", "second"))
        _one_of("resize_mode", self.resize_mode, allowed=("squash", "letterbox", "crop"))
        _one_of("channels", self.channels, allowed=("auto", "gray", "rgb"))
        _one_of("bad_images", self.bad_images, allowed=("error", "skip"))
        _one_of("layout", self.layout, allowed=LAYOUTS)
        if self.side_px is not None and not 1 <= self.side_px <= 4096:
            raise ConfigError(f"side_px is {self.side_px}; give 1 to 4096 pixels.")
        if not 0 <= self.val_fraction < 1:
            raise ConfigError(
                f"val_fraction is {self.val_fraction}; give a share from 0 up to, but not, 1."
            )
        if self.split is not None:
            _check_split(self.split)


def _one_of(name: str, value: str, *, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}; give one of {', '.join(allowed)}.")


def _check_split(split: tuple[float, float, float]) -> None:
    # val and test may be empty; without train there is nothing to train on.
    sound = len(split) == 3 and all(0 <= share <= 1 for share in split) and split[0] > 0
    # Not ==: 0.7 + 0.2 + 0.1 is below 1 in floating point.
    if not sound or not math.isclose(sum(split), 1, abs_tol=1e-6):
        raise ConfigError(
            f"split is {split}; give three shares of train, val and test with sum 1, such as 0.8,0.1,0.1."
        )
