"""Datasets from the data settings of a configuration."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fer_ignite.config import Config
from fer_ignite.data.cache.format import DatasetCache, announced_source, open_cache
from fer_ignite.data.cache.lookup import cache_folder, open_or_build
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.data.dataset import FaceDataset, dataset_from_cache, dataset_from_user_class
from fer_ignite.data.exclude_list import read_exclude_list
from fer_ignite.data.folds import build_fold_dataset
from fer_ignite.data.loader import Targets
from fer_ignite.data.readers.find import is_user_dataset
from fer_ignite.data.sampler import ShardOrder
from fer_ignite.data.shards.remote import is_shards
from fer_ignite.data.shards.shard_cache import SHARDS_UNDER_WAY, ShardCache
from fer_ignite.data.shards.shard_index import own_index
from fer_ignite.errors import ConfigError
from fer_ignite.imports import load_object

__all__ = [
    "build_cache_spec",
    "find_cache",
    "open_dataset",
    "require_shard_settings",
    "resolve_exclude_list",
    "shard_order",
]


def build_cache_spec(config: Config) -> CacheSpec:
    """The cache specification that follows from the data settings."""
    return CacheSpec(
        data=config.data,
        votes=config.votes,
        vote_mode=config.vote_mode if config.vote_weight is None else "second",
        classes=config.classes,
        # Stored at the side that training needs: larger faces would be shrunk again in every epoch.
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


def find_cache(config: Config, *, keep_files: bool = False) -> tuple[Path | None, str | None]:
    """Path and fingerprint of the dataset cache for the data settings, built on first use; (None, None) for data without one.

    Args:
        keep_files: store the bytes of image files whatever their number, not their pixels.
    """
    if is_user_dataset(config.data):
        # Loaded for its errors alone: they are raised here, before processes are started.
        load_object(config.data, setting="--data")
        return None, None
    cache = None if config.cache is None else Path(config.cache)
    spec = build_cache_spec(config)
    if keep_files:
        spec = replace(spec, raw_limit_bytes=0)
    path = open_or_build(spec, cache=cache, progress=not config.quiet)
    return path, open_cache(path).fingerprint


def open_dataset(config: Config, dataset_cache: str | Path | None) -> FaceDataset:
    """The faces of a dataset cache, or of the user's data set that ``--data`` names; in the splits of a fold, where one is requested."""
    if dataset_cache is not None:
        # The index was opened on the launcher's machine; another machine needs a copy of its own.
        if is_shards(config.data):
            cache = cache_folder() if config.cache is None else Path(config.cache)
            dataset_cache = own_index(config.data, Path(dataset_cache), cache=cache)
        faces = dataset_from_cache(dataset_cache)
        if faces.cache is not None and faces.cache.shards is not None:
            # After the opening: the limit is this machine's, the index is the same for all.
            faces.cache.shards.cache.limit_bytes = int(config.shard_cache_gb * 1e9)
        faces = replace(
            faces,
            exclude=config.exclude,
            source=announced_source(open_cache(dataset_cache), config.data),
        )
        if config.vote_weight is not None:
            faces = replace(faces, targets=blended_targets(faces.targets, config.vote_weight))
    else:
        make = load_object(config.data, setting="--data")
        faces = dataset_from_user_class(
            make,
            name=config.data,
            val_fraction=config.val_fraction,
            seed=config.split_seed,
            side_px=config.resize or config.image_size,
            channels=config.channels,
            resize_mode=config.resize_mode,
        )
    if config.folds is None:
        return faces
    if config.fold is None:
        raise ConfigError(
            f"--folds {config.folds} makes {config.folds} runs; say which one with --fold, or train them all with train."
        )
    # By the seed of the splits: runs of other seeds then have the same folds, and can be
    # compared.
    return build_fold_dataset(faces, folds=config.folds, fold=config.fold, seed=config.split_seed)


def shard_order(
    config: Config, dataset_cache: DatasetCache | None, indices_N: NDArray[np.int64]
) -> ShardOrder | None:
    """The order of ``indices_N`` by shards; None for data that does not lie in shards."""
    if dataset_cache is None or dataset_cache.shards is None:
        return None
    shards_N = dataset_cache.shards.shard_numbers(indices_N)
    # A limited train split may lie in fewer shards than there are streams.
    streams = min(config.shard_streams, len(np.unique(shards_N)))
    return ShardOrder(shards_N, config.shard_window, streams)


def require_shard_settings(config: Config, cache_path: Path | None) -> None:
    """Refuses what a training from shards can't do, before it starts.

    Raises:
        ConfigError: an order over all faces is requested, the streams don't divide the batch or are more than the shards,
            or the local copies have no room for the shards that are needed at a time.
    """
    shards = None if cache_path is None else open_cache(cache_path).shards
    if shards is None:
        return
    for setting, asked in (
        ("--sampler balanced", config.sampler == "balanced"),
        ("--folds", config.folds),
    ):
        if asked:
            raise ConfigError(
                f"{setting} needs every face at any time, and faces in shards come shard by shard; leave it out, or train from a dataset cache."
            )
    micro_size = config.batch_size // config.grad_accum_steps
    found = int((shards.splits == "train").sum())
    if micro_size % config.shard_streams or config.shard_streams > found:
        raise ConfigError(
            f"--shard-streams {config.shard_streams} must divide the {micro_size} faces of a micro-batch, and be no more than the "
            f"{found} shards of train; give another number."
        )
    _require_room(config, shards.cache)


def _require_room(config: Config, cache: ShardCache) -> None:
    order = ShardOrder(np.arange(0), config.shard_window, config.shard_streams)
    needed = min(order.most_open + SHARDS_UNDER_WAY, len(cache.shards)) * cache.largest_bytes
    if cache.url is not None and needed > config.shard_cache_gb * 1e9:
        raise ConfigError(
            f"--shard-cache-gb {config.shard_cache_gb:g} has no room for the shards of --shard-window {config.shard_window} and "
            f"--shard-streams {config.shard_streams}, which take {needed / 1e9:.3g} GB; give that much, or a smaller window."
        )


def blended_targets(targets: Targets, weight: float) -> Targets:
    """Targets whose distributions are (1 - weight) * label + weight * votes; cross-entropy with them is the weighted sum of both."""
    assert targets.soft_NK is not None
    # Blended once, here: one loss call per step in place of two.
    own_NK = np.eye(targets.num_classes, dtype=np.float32)[targets.labels_N]
    return replace(targets, soft_NK=(1 - weight) * own_NK + weight * targets.soft_NK)


def resolve_exclude_list(
    config: Config, dataset_cache: str | Path | None
) -> tuple[Config, list[str]]:
    """The configuration with the digest of its list of excluded images, and notes about the list.

    Raises:
        ConfigError, DataError: the list can't be read, has changed, or doesn't fit the data.
    """
    if config.exclude is None:
        return config, []

    assert dataset_cache is not None  # check_names refuses it otherwise
    exclusion = read_exclude_list(config.exclude)
    return config.model_copy(update={"exclude": exclusion.with_digest}), [
        exclusion.describe(open_cache(dataset_cache))
    ]
