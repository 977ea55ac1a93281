"""Options of an evaluation, and the configuration that follows from them and from the checkpoint's."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fer_ignite.config import Config, check
from fer_ignite.data.augment.tta import VIEW_KINDS
from fer_ignite.data.readers.find import is_user_dataset
from fer_ignite.data.shards.remote import is_shards
from fer_ignite.errors import ConfigError
from fer_ignite.imports import split_names, which_again
from fer_ignite.training.precision import PRECISIONS

__all__ = [
    "EvaluateRequest",
    "check_request",
    "evaluation_config",
    "is_same_source",
    "shares_source",
]

_ALLOWED: Mapping[str, tuple[str | None, ...]] = {
    "split": ("val", "test", "train", "all"),
    "bad_images": (None, "error", "skip"),
    "unknown_classes": ("error", "drop"),
    "tta": (None, *VIEW_KINDS),
    "precision": (None, *PRECISIONS),
}
# Evaluation has no flags for them: another source is read by the defaults. Not `follow_links`, which permits and changes no image.
_READING = ("crop_faces", "neutral_frames", "peak_frames")


@dataclass(frozen=True)
class EvaluateRequest:
    """Options of ``evaluate``; None means the checkpoint's own.

    Args:
        checkpoint: a checkpoint, or several comma separated, whose probabilities are averaged; the first one's settings count.
        data, votes, split: other data or other votes, and which split, "all" for every image; test only by name. The run's own
            data keeps its votes.
        layout, classes: how other data is read, and its classes chosen, renamed or merged, as in training.
        bad_images: unusable images and csv rows: "error", or "skip".
        unknown_classes: what happens to images whose class the network doesn't know: "error", or "drop", which counts them.
        restrict_classes: only the network's classes that the data has can be predicted; probabilities are renormalised.
        tta: views whose probabilities are averaged.
        model, collate_fn: the user's ``module:name`` again, where the run used one.
        with_faces: also return the network's outputs for each image.
        robustness: also score the images under fixed corruptions, with one view; see :func:`robustness_table`.
    """

    checkpoint: str
    data: str | None = None
    votes: str | None = None
    split: str = "val"
    layout: str | None = None
    classes: str | None = None
    bad_images: str | None = None
    unknown_classes: str = "error"
    restrict_classes: bool = False
    tta: str | None = None
    model: str | None = None
    collate_fn: str | None = None
    precision: str | None = None
    batch_size: int | None = None
    cache: str | None = None
    quiet: bool = False
    device: str = "auto"
    with_faces: bool = False
    robustness: bool = False


def check_request(request: EvaluateRequest, nproc: int | None) -> None:
    """Checks the options before anything is read.

    Raises:
        ConfigError: a value that is not allowed.
    """
    for name, values in _ALLOWED.items():
        if (value := getattr(request, name)) not in values:
            raise ConfigError(
                f"{name}={value!r} is unknown; allowed are {', '.join(map(str, values))}."
            )
    for name, count in (("batch_size", request.batch_size), ("nproc", nproc)):
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ConfigError(f"{name}={count!r} is no number of at least 1.")


def evaluation_config(request: EvaluateRequest, checkpoint: Mapping[str, Any]) -> Config:
    """The run's data settings, with what the request changes.

    Raises:
        ConfigError: the run used code of its user, and the request doesn't name it again.
    """
    saved = {
        name: value for name, value in checkpoint["config"].items() if name in Config.model_fields
    }
    if request.collate_fn is None and saved.get("collate_fn"):
        raise _missing_user_code("batches were made by the user's function", "collate_fn", saved)
    # What training left out has no part in scoring, and its list need not be at hand.
    changes: dict[str, Any] = {
        "cache": request.cache,
        "quiet": request.quiet,
        "handlers": (),
        "resume": None,
        "exclude": None,
    }
    source = str(saved.get("data", ""))
    if request.data is None:
        if is_user_dataset(source):
            raise _missing_user_code("data came from the user's class", "data", saved)
    # The run's own data, under whatever name, keeps its votes, classes and splits.
    elif not is_same_source(request.data, source):
        changes |= _other_source(checkpoint["preprocessing"])
        # One data set of several that the run was trained on is read as it was there.
        if not any(is_same_source(request.data, part) for part in split_names(source)):
            changes |= {name: Config.model_fields[name].default for name in _READING}
    # Votes that are given again replace the labels, of which a weight leaves a share.
    if request.votes is not None:
        changes["vote_weight"] = None
    for name in ("data", "votes", "classes", "layout", "bad_images"):
        if (value := getattr(request, name)) is not None:
            changes[name] = value
    # Shards are read as they are: the classes that are given only confirm theirs, see `match_dataset`.
    if request.data is not None and is_shards(request.data):
        changes["classes"] = None
    return check({**saved, **changes})


def _other_source(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that described the run's own source: another one has labels and splits of its own."""
    return {
        "votes": None,
        "vote_weight": None,
        "classes": None,
        "layout": "auto",
        "group_by": None,
        "folds": None,
        "fold": None,
        "split": None,
        "drop_train_duplicates": False,
        "channels": {1: "gray", 3: "rgb"}[preprocessing["channels"]],
        # Of the faces that were trained on: a dataset cache as data has a mode of its own.
        "resize_mode": preprocessing["resize_mode"],
    }


def _missing_user_code(what: str, setting: str, saved: Mapping[str, Any]) -> ConfigError:
    name = saved[setting]
    return ConfigError(
        f"the run's {what} {name}; checkpoints never import user code: {which_again(setting, name)}"
    )


def is_same_source(one: str, other: str) -> bool:
    """Whether two names of data are equal or mean the same file or folder."""
    try:
        return one == other or os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


def shares_source(one: str, other: str) -> bool:
    """Whether two names of data, each maybe a union of several, have a file or folder in common."""
    return is_same_source(one, other) or any(
        is_same_source(part, other_part)
        for part in split_names(one)
        for other_part in split_names(other)
    )
