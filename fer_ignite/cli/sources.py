"""What the words of ``fer-ignite predict`` mean: a checkpoint, or none, and files, folders, globs, webcams."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

from fer_ignite.cli.rows import printable
from fer_ignite.errors import ConfigError

__all__ = ["find_files", "split_words"]


def split_words(words: Sequence[str], *, faces: bool = False) -> tuple[str, Sequence[str]]:
    """The checkpoint, the shipped one where none is named, and the sources.

    Args:
        faces: videos and webcams are sources too.
    Raises:
        ConfigError: a checkpoint and nothing to look at.
    """
    first, *rest = words
    if Path(first).is_dir() or glob.has_magic(first) or Path(first).suffix.lower() in _suffixes(faces) or _is_webcam(first, faces):
        from fer_ignite.weights import shipped_checkpoint

        return str(shipped_checkpoint()), words
    if not faces and (Path(first).suffix.lower() in _suffixes(True) or _is_webcam(first, True)):
        raise ConfigError(f"{printable(first)}: videos and webcams are looked at with --faces.")
    if not rest:
        raise ConfigError(f"{printable(first)} alone is nothing to look at; name image files, folders or globs after it.")
    return first, rest


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
        if path.is_dir():
            found = [str(file) for file in sorted(path.rglob("*")) if file.suffix.lower() in _suffixes(faces)]
            if not found:
                raise ConfigError(f"{printable(source)} holds no {kinds} file; name a folder with {kinds} files.")
        elif path.exists() or _is_webcam(source, faces):
            found = [source]
        else:
            found = sorted(file for file in glob.glob(source, recursive=True) if Path(file).is_file())
            if not found:
                raise ConfigError(f"there is no file {printable(source)}; name {kinds} files, folders or globs.")
        yield from found


def _suffixes(faces: bool) -> tuple[str, ...]:
    from fer_ignite.data.images import FORMAT_OF_SUFFIX
    from fer_ignite.photos.footage import VIDEO_SUFFIXES

    return (*FORMAT_OF_SUFFIX, *(VIDEO_SUFFIXES if faces else ()))


def _is_webcam(source: str, faces: bool) -> bool:
    from fer_ignite.photos.footage import is_webcam

    return faces and is_webcam(source)
