"""Checkpoints and runs named by URL: downloaded with the small files of their run, once per content."""

import contextlib
import functools
import random
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from fer_ignite.checkpoint.atomic_io import read_json_object, write_json_durably
from fer_ignite.checkpoint.paths import BEST_NAME, LAST_NAME, step_of
from fer_ignite.checkpoint.run_dir import RUN_ID_NAME, TEST_ACCESS_NAME, RunDir, is_run_file
from fer_ignite.errors import CheckpointError, ConfigError
from fer_ignite.stores.download import exclusive, fetch, replace_files, url_label
from fer_ignite.stores.store import (
    Entry,
    Store,
    StoreProblem,
    file_name,
    join_url,
    last_part,
    parent_url,
    refused_as,
)

__all__ = [
    "is_run_url",
    "local_checkpoint",
    "local_run",
    "run_url",
    "send_test_access",
    "source_of_download",
]

_SMALL = 16 << 20
_CHECKPOINT_SUFFIXES = (".pt", ".onnx")
_NOTES = 6  # trials to note a test evaluation
_NOTE_WAIT_S = 0.3
_RECORD = ".entries.json"


def is_run_url(url: str) -> bool:
    """Whether a URL names a run's folder rather than a checkpoint."""
    # A run's name may hold a dot: lr-0.05.
    return PurePosixPath(file_name(url)).suffix.lower() not in _CHECKPOINT_SUFFIXES


def run_url(url: str) -> str | None:
    """The URL of the run that a URL names, or in whose folder ``checkpoints`` a checkpoint lies; None for one elsewhere."""
    if is_run_url(url):
        return url.rstrip("/")
    above = parent_url(url)
    return parent_url(above) if last_part(above) == "checkpoints" else None


# A command resolves a name when it checks its arguments and again when it loads.
@functools.cache
def local_checkpoint(url: str) -> Path:
    """The local copy of a checkpoint, or of a run's folder with its checkpoint, once per process.

    Raises:
        CheckpointError: there is none, or the store can't be read.
    """
    with refused_as(CheckpointError):
        if is_run_url(url):
            return _fetch_run(url)
        # With the run's small files: an evaluation of test is noted in the run's log. A signed address opens no other file.
        run = run_url(url) if file_name(url) == last_part(url) else None
        if run is not None and Store(run).entry("config.yaml") is not None:
            return _fetch_run(run, last_part(url)) / "checkpoints" / last_part(url)
        with _local_errors(url):
            return fetch(url, folder=_downloads())


def local_run(url: str) -> Path:
    """The local copy of a run's folder with its newest resume point.

    Raises:
        CheckpointError: there is no such run, or the store can't be read.
    """
    with refused_as(CheckpointError):
        return _fetch_run(url, newest=True)


def source_of_download(folder: Path) -> str | None:
    """The URL that a run's folder was downloaded from to be read; None for one that was not."""
    url = _read_record(folder).get("url")
    return None if url is None else str(url)


def send_test_access(folder: RunDir) -> None:
    """Writes the test-access log of a downloaded run back to its store; of other runs nothing.

    Raises:
        CheckpointError: the store refuses.
    """
    if (url := source_of_download(folder.path)) is not None:
        with refused_as(CheckpointError, "the test evaluation can't be noted"):
            _note(Store(url), folder)


def _note(store: Store, folder: RunDir) -> None:
    """Merges this copy's log with the store's and uploads it, until the store's has all of its lines.

    No store changes an object in one step: of two evaluations that upload at once, the one whose lines were overwritten uploads
    again.
    """
    for _ in range(_NOTES):
        folder.merge_test_accesses(store.read(TEST_ACCESS_NAME) or b"")
        store.upload(folder.test_access, TEST_ACCESS_NAME)
        # Random: two evaluations that overwrite each other's lines must not repeat that in step.
        time.sleep(_NOTE_WAIT_S * random.uniform(0.5, 1.0))
        if folder.test_accesses_are_in(store.read(TEST_ACCESS_NAME) or b""):
            return
    raise StoreProblem(f"{store.url}: other processes write {TEST_ACCESS_NAME} too; start again.")


def _downloads() -> Path:
    from fer_ignite.data.cache.lookup import cache_folder

    return cache_folder() / "downloads"


def _fetch_run(url: str, checkpoint: str | None = None, *, newest: bool = False) -> Path:
    """The run's small files and one checkpoint: the named one, else the best, else the last, else the newest.

    Args:
        newest: the newest resume point, else the last, else the best.
    """
    store = Store(url)
    if store.entry("config.yaml") is None:  # before all of a bucket is listed
        raise CheckpointError(
            f"{url} is neither a checkpoint nor a run's folder; name one of these."
        )
    there = store.entries()
    chosen = _chosen(url, there, checkpoint=checkpoint, newest=newest)
    small = [
        name
        for name, entry in there.items()
        if is_run_file(name) and not name.endswith(".pt") and (entry.size or 0) <= _SMALL
    ]
    folder = _downloads() / url_label(url) / last_part(url)
    with _local_errors(url):
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive(folder.parent / "download.lock"):
            _bring_up_to_date(store, there, wanted=[*small, *chosen], folder=folder)
    return folder


@contextlib.contextmanager
def _local_errors(url: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{url} can't be downloaded to {_downloads()} ({error.strerror or error}); make room or set FER_IGNITE_CACHE."
        ) from None


def _chosen(
    url: str, there: dict[str, Entry], *, checkpoint: str | None, newest: bool
) -> list[str]:
    if checkpoint is not None:
        name = f"checkpoints/{checkpoint}"
        if name not in there:
            raise CheckpointError(f"{join_url(url, name)}: there is no such object.")
        return [name]
    named = [f"checkpoints/{name}" for name in (BEST_NAME, LAST_NAME)]
    steps = [(step_of(name, folder="checkpoints/"), name) for name in there]
    newest_first = [
        name for _, name in sorted(((s, n) for s, n in steps if s is not None), reverse=True)
    ]
    order = [*named, *newest_first]
    if newest:
        order = [*newest_first, *reversed(named)]
    return [name for name in order if name in there][:1]


def _bring_up_to_date(
    store: Store, there: dict[str, Entry], *, wanted: Sequence[str], folder: Path
) -> None:
    """Makes the copy's files equal to the store's; checkpoints from earlier downloads stay where the store still has them."""
    record = folder / _RECORD
    known = _read_record(folder).get("entries", {})
    current = {name for name, entry in there.items() if known.get(name) == list(entry)}
    for file in [path for path in folder.rglob("*") if path.is_file() and path != record]:
        name = file.relative_to(folder).as_posix()
        # A checkpoint that the store no longer has must not be read from this copy.
        if name not in wanted and not (name in current and file.suffix == ".pt"):
            file.unlink()
    new = {
        name: there[name]
        for name in wanted
        if name not in current or not _is_whole(folder / name, there[name])
    }
    kept = {name: known[name] for name in current - {*new}}
    # Without the new files until they are here: a download that was cut short is repeated.
    write_json_durably(record, {"url": store.url, "entries": kept})
    arriving = folder / f".downloading-{secrets.token_hex(4)}"
    # A test evaluation that an earlier evaluation could not upload stays in this copy.
    log = RunDir(folder).test_access
    looks = log.read_bytes() if RUN_ID_NAME in kept and log.exists() else b""
    replace_files(store, new, folder=folder, arriving=arriving)
    RunDir(folder).merge_test_accesses(looks)
    entries = kept | {name: list(entry) for name, entry in new.items()}
    write_json_durably(record, {"url": store.url, "entries": entries})


def _is_whole(file: Path, entry: Entry) -> bool:
    """The log of test evaluations is longer here where one could not be uploaded."""
    return file.is_file() and (
        file.name == TEST_ACCESS_NAME or entry.size in (None, file.stat().st_size)
    )


def _read_record(folder: Path) -> dict[str, Any]:
    return read_json_object(folder / _RECORD)
