"""Arguments of ``fer-ignite predict``: checkpoint or run, files, folders, globs and webcams."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from fer_ignite.apps.faces.video_source import VIDEO_SUFFIXES, is_webcam
from fer_ignite.checkpoint.paths import resolve_checkpoint
from fer_ignite.data.images import FORMAT_OF_SUFFIX, printable
from fer_ignite.errors import ConfigError
from fer_ignite.imports import split_names
from fer_ignite.stores.store import is_url

__all__ = ["find_files", "split_words"]

_CHECKPOINT_SUFFIXES = (".pt", ".onnx")


def split_words(words: Sequence[str], *, faces: bool = False) -> tuple[str | None, Sequence[str]]:
    """The checkpoint, None where none is named, and the sources.

    Args:
        faces: videos and webcams are sources too.
    Raises:
        ConfigError: a checkpoint without sources, or a run without a checkpoint.
    """
    first, *rest = words
    if not _is_network(first):
        if _is_source(first, faces):
            return None, words
        if not faces and _is_source(first, True):
            raise ConfigError(
                f"{printable(first)}: videos and webcams are read with --faces auto or always."
            )
    if not rest:
        raise ConfigError(
            f"{printable(first)} alone is nothing to look at; name image files, folders or globs after it."
        )
    return (
        str(resolve_checkpoint(first)) if Path(first).is_dir() or is_url(first) else first
    ), rest


def find_files(sources: Sequence[str], *, faces: bool = False) -> Iterator[str]:
    """The files that paths, folders and globs mean, sorted within each; webcams as they are.

    Args:
        faces: videos and webcams are sources too.
    Raises:
        ConfigError: a source that is nothing of these, or holds no image file.
    """
    kinds = "image or video" if faces else "image"
    for source in sources:
        path = Path(source)
        if _is_network(source):
            what = "a run's folder" if path.is_dir() else "a checkpoint"
            raise ConfigError(
                f"{printable(source)} is {what}, which goes first and once; name {kinds} files, folders or globs after it."
            )
        if path.is_dir():
            found = [
                str(file) for file in _files_under(path) if file.suffix.lower() in _suffixes(faces)
            ]
            if not found:
                raise ConfigError(
                    f"{printable(source)} holds no {kinds} file; name a folder with {kinds} files."
                )
        elif path.exists() or _is_webcam(source, faces):
            found = [source]
        else:
            found = sorted(
                file for file in glob.glob(source, recursive=True) if Path(file).is_file()
            )
            if not found:
                raise ConfigError(
                    f"there is no file {printable(source)}; name {kinds} files, folders or globs."
                )
        yield from found


def _files_under(folder: Path) -> list[Path]:
    """All files of a folder, sorted, but for those of runs that lie in it: their pictures are no faces."""
    files = []
    for above, names, found in os.walk(folder):
        # In place: os.walk descends into what is left in the list.
        names[:] = [name for name in names if not _is_network(os.path.join(above, name))]
        files += [Path(above, name) for name in found]
    return sorted(files)


def _is_network(word: str) -> bool:
    """Whether it can only mean a network: a run's folder, a checkpoint by its name, or several of them, comma separated."""
    names = split_names(word)
    if len(names) > 1:  # an ensemble, each with its weight or without
        return all(_is_network(name.rpartition("=")[0] or name) for name in names)
    path = Path(word)
    if is_url(word):
        return path.suffix.lower() not in _suffixes(True)  # a run's name may hold a dot: lr-0.05
    if path.is_dir():
        return (path / "config.yaml").is_file() and (path / "checkpoints").is_dir()
    return path.suffix.lower() in _CHECKPOINT_SUFFIXES


def _is_source(word: str, faces: bool) -> bool:
    path = Path(word)
    is_glob = glob.has_magic(word) and not path.is_file()  # a checkpoint's path may hold a [ too
    return (
        path.is_dir()
        or is_glob
        or path.suffix.lower() in _suffixes(faces)
        or _is_webcam(word, faces)
    )


def _suffixes(faces: bool) -> tuple[str, ...]:
    return (*FORMAT_OF_SUFFIX, *(VIDEO_SUFFIXES if faces else ()))


def _is_webcam(source: str, faces: bool) -> bool:
    return faces and is_webcam(source)
