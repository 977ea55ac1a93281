"""Data named by URL: downloaded once per content into the cache, then read as a local source."""

from pathlib import Path

from fer_ignite.data.cache.leftovers import clear_stale
from fer_ignite.data.images import printable
from fer_ignite.errors import ConfigError, DataError
from fer_ignite.stores.download import fetch
from fer_ignite.stores.store import refused_as

__all__ = ["local_source"]


def local_source(data: str, *, cache: Path, quiet: bool, setting: str = "--data") -> str:
    """The path of a local copy of what a URL names.

    Args:
        cache: the dataset cache's folder; copies are in ``downloads`` below it.
        setting: the flag that names it, for the error's sentence.
    Raises:
        DataError: there is nothing, or the store can't be read.
        ConfigError: the store's library is not installed, or the cache can't be written.
    """
    folder = cache / "downloads"
    clear_stale(folder, "*/.downloading-*")
    try:
        with refused_as(DataError, setting):
            return str(fetch(data, folder=folder, quiet=quiet))
    # The store's refusals are a DataError by now; what is left is the local disk.
    except OSError as error:
        raise ConfigError(
            f"{printable(data)} can't be downloaded to {printable(folder)} ({error.strerror or error}); make room, or set --cache or FER_IGNITE_CACHE."
        ) from None
