"""Datasets from the data settings of a configuration."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from fer_ignite.config import Config
from fer_ignite.data.cache.format import announced_source, open_cache
from fer_ignite.data.cache.lookup import open_or_build
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.data.dataset import FaceDataset, dataset_from_cache, dataset_from_user_class
from fer_ignite.data.exclude_list import read_exclude_list
from fer_ignite.data.folds import build_fold_dataset
from fer_ignite.data.loader import Targets
from fer_ignite.errors import ConfigError
from fer_ignite.imports import is_object_name, load_object

__all__ = [
    "build_cache_spec",
    "find_cache",
    "is_user_dataset",
    "open_dataset",
    "resolve_exclude_list",
]


def is_user_dataset(data: str) -> bool:
    """Whether ``--data`` names a user's class; ``demo:100`` and ``kaggle:a/b`` don't."""
    return (
        is_object_name(data)
        and not data.startswith(("demo:", "kaggle:"))
        and not Path(data).exists()
    )


def build_cache_spec(config: Config) -> CacheSpec:
    """The cache specification that follows from the data settings."""
    return CacheSpec(
        data=config.data,
        votes=config.votes,
        vote_mode=config.vote_mode if config.vote_weight is None else "second",
        classes=config.classes,
        side_px=config.resize or config.image_size,
        resize_mode=config.resize_mode,
        channels=config.channels,
        split=config.split,  # type: ignore[arg-type]
        split_seed=config.split_seed,
        val_fraction=config.val_fraction,
        bad_images=config.bad_images,
        layout=config.layout,
        peak_frames=config.peak_frames,
        neutral_frames=config.neutral_frames,
        group_by=config.group_by,
        follow_links=config.follow_links,
        crop_faces=config.crop_faces,
    )


def find_cache(config: Config) -> tuple[Path | None, str | None]:
    """Path and fingerprint of the dataset cache for the data settings, built on first use; (None, None) for data without one."""
    if is_user_dataset(config.data):
        load_object(config.data, setting="--data")
        return None, None
    cache = None if config.cache is None else Path(config.cache)
    path = open_or_build(build_cache_spec(config), cache=cache, progress=not config.quiet)
    return path, open_cache(path).fingerprint


def open_dataset(config: Config, pack: str | Path | None) -> FaceDataset:
    """The faces of a pack, or of the user's data set that ``--data`` names; in the splits of a fold, where one is requested."""
    if pack is not None:
        faces = dataset_from_cache(pack)
        faces = replace(
            faces, exclude=config.exclude, source=announced_source(open_cache(pack), config.data)
        )
        if config.vote_weight is not None:
            faces = replace(faces, targets=blended_targets(faces.targets, config.vote_weight))
    else:
        make = load_object(config.data, setting="--data")
        faces = dataset_from_user_class(
            make, name=config.data, val_fraction=config.val_fraction, seed=config.split_seed
        )
    if config.folds is None:
        return faces
    if config.fold is None:
        raise ConfigError(
            f"--folds {config.folds} makes {config.folds} runs; say which one with --fold, or train them all with train."
        )
    return build_fold_dataset(faces, folds=config.folds, fold=config.fold, seed=config.split_seed)


def blended_targets(targets: Targets, weight: float) -> Targets:
    """Targets whose distributions are (1 - weight) * label + weight * votes; cross-entropy with them is the weighted sum of both."""
    assert targets.soft_NK is not None
    own_NK = np.eye(targets.num_classes, dtype=np.float32)[targets.labels_N]
    return replace(targets, soft_NK=(1 - weight) * own_NK + weight * targets.soft_NK)


def resolve_exclude_list(config: Config, pack: str | Path | None) -> tuple[Config, list[str]]:
    """The configuration with the digest of its list of excluded images, and notes about the list.

    Raises:
        ConfigError, DataError: the list can't be read, has changed, or doesn't fit the data.
    """
    if config.exclude is None:
        return config, []
    from fer_ignite.data.cache.format import open_cache

    assert pack is not None  # check_names refuses it otherwise
    exclusion = read_exclude_list(config.exclude)
    return config.model_copy(update={"exclude": exclusion.with_digest}), [
        exclusion.describe(open_cache(pack))
    ]
