"""Pictures in the forms in which Python programs hold them: paths, PIL images, arrays and tensors."""

# Dimensions: N pictures, H W pixels, C channels.

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fer_ignite.data.images import loaded_image, read_image
from fer_ignite.errors import ConfigError, DataError

__all__ = ["iter_pictures", "read_picture"]

_ALLOWED = "a path, a PIL image, a uint8 array [H, W] or [H, W, 3] (RGB), a uint8 tensor [H, W] or [C, H, W], or a list of these"


def iter_pictures(pictures: Any) -> Iterator[tuple[str, Any]]:
    """The pictures one by one with their names; a single one is a list of one, an array of four dimensions is several.

    Raises:
        ConfigError: nothing that can be pictures.
    """
    if isinstance(pictures, (str, Path)):
        return iter([(str(pictures), pictures)])
    # One dimension of numbers is no picture either: as one of several, each number would be refused
    # instead of the array. Of texts or objects it is a list, such as a column of paths.
    if isinstance(pictures, Image.Image) or (
        _dimensions(pictures) in (1, 2, 3) and not _is_list_of_objects(pictures)
    ):
        return iter([("picture", pictures)])
    # An open file would be iterated line by line, from wherever it was read to.
    if (
        isinstance(pictures, (bytes, bytearray, dict))
        or hasattr(pictures, "read")
        or not isinstance(pictures, Iterable)
    ):
        raise ConfigError(f"pictures came as {type(pictures).__name__}; give {_ALLOWED}.")
    return (
        (str(picture) if isinstance(picture, (str, Path)) else f"picture {number}", picture)
        for number, picture in enumerate(pictures)
    )


def _is_list_of_objects(thing: Any) -> bool:
    """Whether an array or a pandas column has one dimension, of texts or of Python objects."""
    return _dimensions(thing) == 1 and getattr(thing.dtype, "kind", None) in ("O", "U")


def _dimensions(thing: Any) -> int | None:
    """Of an array or a tensor; None for anything else."""
    return int(thing.ndim) if hasattr(thing, "ndim") and hasattr(thing, "dtype") else None


def read_picture(name: str, picture: Any) -> Image.Image:
    """A picture as an upright image of mode "L" or "RGB".

    Args:
        name: for the error.
    Raises:
        ConfigError: a type that is no picture.
        DataError: a file or a PIL image that can't be read, or pixels of another shape or dtype.
    """
    if isinstance(picture, (str, Path)):
        return read_image(picture)
    if isinstance(picture, Image.Image):
        return loaded_image(picture, name)
    if _dimensions(picture) is None:
        raise ConfigError(f"{name} came as {type(picture).__name__}; give {_ALLOWED}.")
    dtype, shape = str(picture.dtype).removeprefix("torch."), tuple(picture.shape)
    is_tensor = type(picture).__module__.startswith("torch")
    wanted = (
        "[H, W] or [C, H, W] with C 1 or 3" if is_tensor else "[H, W] or [H, W, C] with C 1 or 3"
    )
    if dtype != "uint8":
        hint = " (values of 0 to 1: multiply by 255 and round first)" if "float" in dtype else ""
        raise DataError(f"{name} came as {dtype} {list(shape)}; give uint8 values 0 to 255{hint}.")
    if is_tensor:
        picture = picture.detach().cpu().numpy()
        if picture.ndim == 3:
            picture = picture.transpose(1, 2, 0)
    pixels = np.asarray(picture)
    if (
        pixels.ndim not in (2, 3)
        or 0 in pixels.shape
        or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3))
    ):
        turned = pixels.ndim == 3 and pixels.shape[0] in (1, 3) and not is_tensor
        hint = "; its first dimension looks like channels: transpose(1, 2, 0)" if turned else ""
        raise DataError(f"{name} came in the shape {list(shape)}; give {wanted}{hint}.")
    return Image.fromarray(
        np.ascontiguousarray(
            pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
        )
    )
