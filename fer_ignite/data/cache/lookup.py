"""Lookup of a dataset cache by file stamps and content key; it is built where it is missing.

    <cache>/stamps/<hash of spec and stamps>     holds the content's key
    <cache>/packs/<content's key>/               the dataset cache

A dataset cache is built in a hidden folder beside the others and renamed: two processes may build at once, a killed one leaves
nothing that looks like a dataset cache.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fer_ignite.data.cache.build import build_cache
from fer_ignite.data.cache.format import PACK_VERSION, open_cache
from fer_ignite.data.cache.integrity import verify_files
from fer_ignite.data.cache.leftovers import clear_stale
from fer_ignite.data.cache.manifest import verify_cache
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.data.images import printable
from fer_ignite.data.readers.find import (
    CacheSource,
    ReadOptions,
    find_source,
    is_user_dataset,
    split_sources,
)
from fer_ignite.data.readers.union import UnionSource
from fer_ignite.data.remote import local_source
from fer_ignite.data.samples import Source
from fer_ignite.data.shards.remote import PREFIX, is_shards, shown
from fer_ignite.data.shards.shard_index import open_shard_index
from fer_ignite.errors import ConfigError, DataError, StorageError
from fer_ignite.stores.store import is_url

__all__ = ["CacheSpec", "cache_folder", "open_or_build", "verify_cache"]

logger = logging.getLogger("fer_ignite")


def cache_folder() -> Path:
    """Where dataset caches are kept: $FER_IGNITE_CACHE, else fer_ignite in the user's own cache folder."""
    if named := os.environ.get("FER_IGNITE_CACHE"):
        return Path(named)
    if os.path.isabs(shared := os.environ.get("XDG_CACHE_HOME", "")):
        return Path(shared) / "fer_ignite"
    try:
        return Path.home() / ".cache" / "fer_ignite"
    except RuntimeError:
        raise ConfigError(
            "there is no home folder to keep dataset caches in; set FER_IGNITE_CACHE to a folder."
        ) from None


def open_or_build(spec: CacheSpec, *, cache: Path | None = None, progress: bool = False) -> Path:
    """The folder of the dataset cache that a spec describes.

    A dataset cache as `data` is used as it is: of all settings, only `classes` makes another one. It has its splits, so
    `split` is refused.

    Args:
        cache: where dataset caches are kept; None for `cache_folder()`.
        progress: show a bar while building.
    Raises:
        DataError: the source can't be read.
        ConfigError: the cache can't be written.
        StorageError: writing failed half-way.
    """
    parts = split_sources(spec.data)
    if is_shards(spec.data) and len(parts) == 1:
        return _shards(spec, cache=cache_folder() if cache is None else cache)
    if len(parts) == 1:
        return _open_one(spec, cache=cache, progress=progress)
    source = _union(spec, parts, cache=cache, progress=progress)
    # The parts are cut out, grouped and split: the union holds their faces, under names that begin with a number.
    spec = dataclasses.replace(spec, crop_faces=False, group_by=None, split=None)
    return _known_or_built(spec, source, cache=cache, progress=progress)


def _open_one(
    spec: CacheSpec,
    *,
    cache: Path | None,
    progress: bool,
    layout: str | None = None,
    any_classes: bool = False,
    refit: bool = False,
) -> Path:
    """The folder of one data set's dataset cache.

    Args:
        layout: how it is read, where that is not the spec's; the spec's still names its numbers.
        any_classes: its splits may differ in their classes, even if the spec names none.
        refit: a dataset cache as `data` is built again where it has another side or colour than the spec.
    """

    def local(text: str, setting: str = "--data") -> str:
        """The path of a text's local copy where it is a URL."""
        if not is_url(text):
            return text
        folder = cache or cache_folder()
        return local_source(text, cache=folder, quiet=not progress, setting=setting)

    options = ReadOptions(
        votes=spec.votes and local(spec.votes, "--votes"),
        vote_mode=spec.vote_mode,
        layout=layout or spec.layout,
        any_classes=any_classes or spec.classes is not None,
        peak_frames=spec.peak_frames,
        neutral_frames=spec.neutral_frames,
        follow_links=spec.follow_links,
    )
    source = find_source(local(spec.data), options)
    if isinstance(source, CacheSource):
        if spec.classes is None and spec.split is None:
            if not refit or _fits(spec, source):
                return _sound(source.path)
            # Its faces are cut out and grouped already; only side and colour change.
            spec = dataclasses.replace(spec, crop_faces=False, group_by=None)
        # Its faces are square already: how they became so is a fact, not a setting.
        mode = open_cache(source.path).manifest["fit"]["mode"]
        spec = dataclasses.replace(spec, resize_mode=mode)
    return _known_or_built(spec, source, cache=cache, progress=progress)


def _fits(spec: CacheSpec, source: CacheSource) -> bool:
    """Whether a dataset cache has the side and the colour of a spec."""
    found = open_cache(source.path)
    return (found.height, found.channels) == (spec.side_px, 1 if spec.channels == "gray" else 3)


def _known_or_built(spec: CacheSpec, source: Source, *, cache: Path | None, progress: bool) -> Path:
    cache = cache_folder() if cache is None else cache
    stamp = cache / "stamps" / _stamp_name(spec, source)
    return _known(cache, stamp) or _build(spec, source, cache=cache, stamp=stamp, progress=progress)


def _shards(spec: CacheSpec, *, cache: Path) -> Path:
    """The index of shards; settings that would make another data set of it are refused.

    Raises:
        DataError: the index can't be read, or a setting can't be applied to it.
    """
    if spec.votes is not None or spec.classes is not None or spec.split is not None:
        raise DataError(
            f"data {PREFIX}{shown(spec.data.removeprefix(PREFIX))}: faces in shards are read as they are; leave --votes, --classes and --split out, and give "
            "them when the shards are written: fer-ignite pack DATA --shards FOLDER."
        )
    return open_shard_index(spec.data, cache=cache)


def _union(
    spec: CacheSpec, parts: Sequence[str], *, cache: Path | None, progress: bool
) -> UnionSource:
    """The dataset caches of several data sets, each read by its own splits, brought to one side and one number of channels.

    Raises:
        ConfigError: a user's data set or shards among them.
    """
    for part in parts:
        if is_shards(part):
            raise ConfigError(
                f"--data {printable(part)}: shards can't be joined with other data; join the data sets when the shards are written: "
                "fer-ignite pack A,B --shards FOLDER."
            )
        if is_user_dataset(part):
            raise ConfigError(
                f"--data {part}: a data set of your own class can't be joined with others; name folders, csv files or dataset caches."
            )

    # What names numbers may be meant for one of them; and a csv file is in no layout of folders.
    layouts = [
        "auto" if spec.numbering is not None or os.path.isfile(part) else None for part in parts
    ]

    def opened(**changed: Any) -> list[CacheSource]:
        # Votes belong to the first; classes are chosen on the union.
        specs = [
            dataclasses.replace(
                spec, data=part, classes=None, votes=spec.votes if place == 0 else None, **changed
            )
            for place, part in enumerate(parts)
        ]
        return [
            CacheSource(
                _open_one(
                    own,
                    cache=cache,
                    progress=progress,
                    layout=layout,
                    any_classes=spec.classes is not None,
                    # At first dataset caches stay as they are; only another side or colour packs
                    # them again.
                    refit=bool(changed),
                )
            )
            for own, layout in zip(specs, layouts, strict=True)
        ]

    # First each at its own size and colour; where they differ, again at the smallest side.
    sources = opened()
    caches = [open_cache(source.path) for source in sources]
    sides, channels = {one.height for one in caches}, {one.channels for one in caches}
    if len(sides) > 1 or len(channels) > 1:
        gray = spec.channels == "gray" or (spec.channels == "auto" and 1 in channels)
        sources = opened(side_px=min(sides), channels="gray" if gray else "rgb")
    return UnionSource(
        spec.data, sources, any_classes=spec.classes is not None, numbering=spec.numbering
    )


def _stamp_name(spec: CacheSpec, source: Source) -> str:
    # Without the texts of data and votes: the source's stamp names the files, so ./x and x are one.
    wanted = {
        name: value
        for name, value in dataclasses.asdict(spec).items()
        if name not in ("data", "votes")
    }
    # The kind as well: another version may recognise the same files as another data set.
    facts = json.dumps([PACK_VERSION, source.kind, wanted], sort_keys=True).encode()
    return hashlib.sha256(facts + source.stamp()).hexdigest()


def _known(cache: Path, stamp: Path) -> Path | None:
    try:
        key = stamp.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None  # never built, or cleared
    try:
        return _sound(cache / "packs" / key)
    except DataError as error:
        # A cache that was deleted by hand is no damage.
        if (cache / "packs" / key).exists():
            logger.warning("the dataset cache is built again: %s", error)
        return None


def _sound(folder: Path) -> Path:
    """The folder of a dataset cache whose files have their checksums; of a very large one a sample is checked."""
    dataset_cache = open_cache(folder)
    verify_files(dataset_cache.path, dataset_cache.manifest)
    return dataset_cache.path


def _build(spec: CacheSpec, source: Source, *, cache: Path, stamp: Path, progress: bool) -> Path:
    packs = cache / "packs"
    try:
        packs.mkdir(parents=True, exist_ok=True)
        stamp.parent.mkdir(exist_ok=True)
        clear_stale(packs, ".building-*", ".damaged-*")
    except OSError as error:
        raise ConfigError(
            f"the cache {printable(cache)} can't be written ({error.strerror}); set --cache or FER_IGNITE_CACHE."
        ) from None
    try:
        with _hidden(packs) as folder:
            key = build_cache(spec, source, folder=folder, progress=progress)
            _flush(folder)
            _publish(folder, packs / key)
            # The stamp comes last: it never names a dataset cache that is not there.
            _write_text(stamp, key)
    except OSError as error:
        raise StorageError(
            f"the dataset cache can't be written to {printable(cache)} ({error}); make room, or set --cache or FER_IGNITE_CACHE."
        ) from None
    return open_cache(packs / key).path


@contextlib.contextmanager
def _hidden(packs: Path) -> Iterator[Path]:
    # Not the pid alone: containers that share a cache may have equal ones.
    folder = packs / f".building-{os.getpid()}-{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(folder: Path, target: Path) -> None:
    """Renames a finished dataset cache into its place; one that is there already and sound stays."""
    # Again after a clash: the one that was there may be damaged, or moved aside at this moment.
    for _ in range(3):
        try:
            # Fails where another process was first: a rename replaces no folder that holds files.
            os.rename(folder, target)
            return
        except OSError:
            if not target.exists():
                raise
        with contextlib.suppress(DataError):
            _sound(target)
            return
        # Damaged: moved aside in one step, so that no process sees half of it removed.
        aside = target.parent / f".damaged-{secrets.token_hex(4)}"
        with contextlib.suppress(OSError):
            os.rename(target, aside)
            shutil.rmtree(aside, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Everything on disk before the name says so."""
    for file in folder.iterdir():
        # Open for writing: Windows flushes no other handles.
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())


def _write_text(path: Path, text: str) -> None:
    # Renamed into its place: another process may read the stamp at any time.
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    temporary.write_text(text, encoding="ascii")
    os.replace(temporary, path)
