"""Reading and validation of one image file.

What is read: gray, 1-bit, palette, RGB, CMYK, 16-bit, transparent (laid on white, as viewers show it), EXIF-turned,
one-page TIFF, a GIF's first frame. What is refused: everything that is no plain image file of an allowed format whose
content agrees with its name, more than 20 megapixels (seen in the header, before decoding), several pages or moving
pictures (which of them shows the expression?), float and 32-bit values (they say nowhere what white is), broken files.
JPEG carries no checksum: a damaged one that still decodes can't be determined from a sound one.
"""

# Dimensions: H W pixels, C channels (1 gray, 3 RGB).

import base64
import io
import os
import stat
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from fer_ignite.errors import ConfigError, DataError, one_line

__all__ = [
    "FORMAT_OF_SUFFIX",
    "MAX_FILE_BYTES",
    "MAX_PIXELS",
    "MISNAMED",
    "as_data_uri",
    "as_image",
    "decode_image",
    "expected_format",
    "fit_image",
    "is_colourless",
    "loaded_image",
    "open_regular",
    "plain_image",
    "png_bytes",
    "printable",
    "read_file_bytes",
    "read_image",
    "read_image_bytes",
    "require_faces",
    "require_path",
]

# A limit of its own: Pillow's begins at 89 megapixels, and is a warning.
MAX_PIXELS = 20_000_000
MAX_FILE_BYTES = 128 << 20  # 20 MP of 16-bit RGB, uncompressed, is 120 MB

FORMAT_OF_SUFFIX = {
    ".bmp": "BMP",
    ".gif": "GIF",
    ".jfif": "JPEG",
    ".jpe": "JPEG",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".pbm": "PPM",
    ".pgm": "PPM",
    ".png": "PNG",
    ".pnm": "PPM",
    ".ppm": "PPM",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
Name = str | bytes | os.PathLike[str]  # made printable only where it is printed

_FORMATS = tuple(sorted(set(FORMAT_OF_SUFFIX.values())))
# Odd tags of TIFF and EXIF: the picture is read or refused, and nothing more is to be said about it.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")

_TURN_OF_EXIF = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112
# Key in an image's ``info``: whether its suffix names another format than it holds.
MISNAMED = "fer_ignite misnamed"
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_SIXTEEN_BIT_GRAY = ("I;16", "I;16L", "I;16B", "I;16N")


def printable(name: Name) -> str:
    """A file name as one line of text that can be encoded anywhere: odd bytes and control characters are escaped."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(
        mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text
    )


def read_image(
    path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
) -> Image.Image:
    """One image file, turned upright.

    Args:
        path: a regular file (or a link to one) whose suffix is that of an image; its format is read from its content.
        root: folder that the file must lie in once links are followed; None allows any place.
    Returns:
        An image of mode "L" or "RGB".
    Raises:
        DataError: the file is refused; the sentence names it and says why.
    """
    expected = expected_format(path)
    if root is not None:
        _refuse_outside(path, root)
    return decode_image(read_file_bytes(path), path, expected=expected)


def expected_format(path: str | os.PathLike[str]) -> str:
    """The format that a file's suffix says, as Pillow calls it.

    Raises:
        DataError: it is no suffix of an image.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in FORMAT_OF_SUFFIX:
        raise DataError(
            f"{printable(path)}: no image suffix; allowed are {', '.join(sorted(FORMAT_OF_SUFFIX))}."
        )
    return FORMAT_OF_SUFFIX[suffix]


def read_image_bytes(data: bytes, *, name: str = "image") -> Image.Image:
    """An encoded image in memory, of any allowed format, turned upright; mode "L" or "RGB". `name` is for the error."""
    return decode_image(data, name, expected=None)


def as_image(pixels_HWC: npt.NDArray[np.uint8]) -> Image.Image:
    """Pixels uint8 [H, W, C] as an image of mode "L" or "RGB"."""
    return Image.fromarray(pixels_HWC[..., 0] if pixels_HWC.shape[2] == 1 else pixels_HWC)


def png_bytes(pixels_HWC: npt.NDArray[np.uint8]) -> bytes:
    """uint8 pixels [H, W, C] as a PNG file."""
    file = io.BytesIO()
    as_image(pixels_HWC).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def as_data_uri(image: Image.Image, *, kind: str = "JPEG", **options: Any) -> str:
    """An image as a data URI, so that a page needs no further file.

    Args:
        kind: JPEG or PNG.
        options: of Pillow's writer, such as ``quality``.
    """
    file = io.BytesIO()
    image.save(file, kind, **options)
    content = base64.b64encode(file.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{content}"


def open_regular(path: str | os.PathLike[str]) -> int:
    """A handle of a file, without blocking on a FIFO.

    Raises:
        DataError: it can't be opened.
    """
    try:
        return os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
    except (OSError, ValueError) as error:
        reason = (error.strerror or "unreadable") if isinstance(error, OSError) else str(error)
        raise DataError(f"{printable(path)}: can't be opened ({reason}).") from None


def read_file_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a regular file; never blocks on a FIFO, never reads a device, never more than the size cap."""
    # Opened first, then looked at: between the two a path could become another file.
    handle = open_regular(path)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{printable(path)}: no regular file, but a {_kind(status.st_mode)}.")
        if status.st_size > MAX_FILE_BYTES:
            raise DataError(
                f"{printable(path)}: {status.st_size} bytes; at most {MAX_FILE_BYTES} are read."
            )
        # No file object: that takes two system calls more per file, which shows for small ones.
        data = os.read(handle, status.st_size)
        while len(data) < status.st_size and (more := os.read(handle, status.st_size - len(data))):
            data += more
        return data
    except OSError as error:
        raise DataError(f"{printable(path)}: can't be read ({error.strerror}).") from None
    finally:
        os.close(handle)


def require_path(function: str, path: Any) -> None:
    """Refuses what is no path where a Python function takes one file.

    Raises:
        ConfigError: naming what came.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigError(f"{function} takes one path, a str or a Path, not {type(path).__name__}.")


def require_faces(faces: Any, *, channels: int, kind: str) -> None:
    """Refuses pixels that a network can't take as they are.

    Args:
        faces: an array or a tensor that should be uint8 [B, H, W, C].
        channels: 1 gray, 3 RGB.
        kind: what the caller takes, for the sentence: "numpy array" or "tensor".
    Raises:
        DataError: another type, dtype, number of dimensions or of channels, or sides of no pixel.
    """
    # Types are compared by name below: this module imports no torch, for predictions with ONNX.
    wanted = f"give a uint8 {kind} [images, height, width, {channels}] with values 0..255 ({'gray' if channels == 1 else 'RGB'})"
    if (
        type(faces).__name__
        not in {"numpy array": ("ndarray", "memmap"), "tensor": ("Tensor", "Parameter")}[kind]
    ):
        raise DataError(f"faces came as {type(faces).__name__}; {wanted}.")
    shape, dtype = tuple(faces.shape), str(faces.dtype).removeprefix("torch.")
    if dtype != "uint8":
        raise DataError(f"faces came as {dtype} {list(shape)}; {wanted}.")
    if len(shape) != 4 or shape[3] != channels or 0 in shape[:3]:
        raise DataError(f"faces came in the shape {list(shape)}; {wanted}.")


def is_colourless(image: Image.Image) -> bool:
    """Whether all three channels of every pixel agree: many collections keep gray faces as RGB."""
    if image.mode == "L":
        return True
    red, green, blue = (np.asarray(channel) for channel in image.split())
    return bool(np.array_equal(red, green) and np.array_equal(red, blue))


def fit_image(
    image: Image.Image, side_px: int | None, *, mode: str, channels: str
) -> npt.NDArray[np.uint8]:
    """An image as an array of a given size.

    Args:
        image: mode "L" or "RGB".
        side_px: side of the square that comes out; None keeps the image's own height and width.
        mode: "squash" (ignores the aspect), "letterbox" (black borders) or "crop" (the middle).
        channels: "gray" or "rgb".
    Returns:
        uint8 [H, W, C], values 0..255.
    Source: Pillow's bilinear filter averages when it shrinks, as torchvision's antialias does.
    """
    wanted = "L" if channels == "gray" else "RGB"
    if image.mode != wanted:  # converting to the same mode copies
        image = image.convert(wanted)
    if side_px is not None and image.size != (side_px, side_px):
        image = _FIT[mode](image, side_px)
    pixels_HWC = np.asarray(image, dtype=np.uint8)
    return pixels_HWC[:, :, None] if pixels_HWC.ndim == 2 else pixels_HWC


def _squash(image: Image.Image, side_px: int) -> Image.Image:
    return image.resize((side_px, side_px), Image.Resampling.BILINEAR)


def _letterbox(image: Image.Image, side_px: int) -> Image.Image:
    inner = _scaled(image, side_px / max(image.size))
    square = Image.new(image.mode, (side_px, side_px))
    square.paste(inner, ((side_px - inner.width) // 2, (side_px - inner.height) // 2))
    return square


def _crop(image: Image.Image, side_px: int) -> Image.Image:
    # The box is cut while scaling: a strip of 1 x 10000 would otherwise grow to side x 10000 sides first.
    short = min(image.size)
    left, top = (image.width - short) / 2, (image.height - short) / 2
    return image.resize(
        (side_px, side_px), Image.Resampling.BILINEAR, box=(left, top, left + short, top + short)
    )


def _scaled(image: Image.Image, factor: float) -> Image.Image:
    # At least 1: a strip would be scaled to a side of 0.
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.BILINEAR)


_FIT = {"squash": _squash, "letterbox": _letterbox, "crop": _crop}


def decode_image(data: bytes, name: Name, *, expected: str | None) -> Image.Image:
    """An encoded image in memory, turned upright; mode "L" or "RGB".

    Args:
        name: for the error's sentence.
        expected: the format that the file's name says; None: any.
    Raises:
        DataError: the image is refused; the sentence says why.
    """
    try:
        # Named formats only, tried in this order: the expected one first, and never EPS, for which
        # Pillow starts Ghostscript.
        with Image.open(
            io.BytesIO(data), formats=_FORMATS if expected is None else (expected, *_FORMATS)
        ) as image:
            # Only the header is read so far: a bomb is refused before it takes memory.
            _refuse_header(image, name)
            misnamed = expected is not None and _image_format(image) != expected
            image.load()
            plain = plain_image(image, name)
            plain.info[MISNAMED] = misnamed
            return plain
    except DataError:
        raise
    except UnidentifiedImageError:
        what = "no image data" if expected is None else f"not the {expected} that its name says"
        raise DataError(f"{printable(name)}: {what}; read are {', '.join(_FORMATS)}.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(
            f"{printable(name)}: more than {MAX_PIXELS} pixels; scale it down first."
        ) from None
    except Exception as error:
        # Pillow's readers answer broken bytes with almost any kind of exception (OSError, SyntaxError, struct.error,
        # IndexError, zlib.error, MemoryError): whatever it is, the file can't be read.
        reason = one_line(error)
        raise DataError(f"{printable(name)}: broken {expected or 'image'} ({reason}).") from None


def _image_format(image: Image.Image) -> str | None:
    # phones append a second JPEG and call the pair MPO
    return "JPEG" if image.format == "MPO" else image.format


def _refuse_header(image: Image.Image, name: Name) -> None:
    found = _image_format(image)
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"{printable(name)}: {image.width} x {image.height} is more than {MAX_PIXELS} pixels; scale it down first."
        )
    if found in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
        raise DataError(f"{printable(name)}: a moving {found}; save the one frame that is meant.")
    if found == "TIFF" and _has_second_page(image):
        raise DataError(
            f"{printable(name)}: a TIFF of several pages; save the one page that is meant."
        )


def _has_second_page(image: Image.Image) -> bool:
    try:
        image.seek(1)  # n_frames would walk through all pages of a file that may hold millions
    except EOFError:
        image.seek(0)
        return False
    return True


def plain_image(image: Image.Image, name: Name, *, upright: bool = False) -> Image.Image:
    """A loaded image as upright "L" or "RGB".

    Args:
        upright: the image is as it is to be seen, whatever its EXIF data says.
    Raises:
        DataError: pixels of another kind, such as 32 bits.
    """
    turn = None if upright else _TURN_OF_EXIF.get(_exif_orientation(image))
    wide_gray = image.mode in _SIXTEEN_BIT_GRAY or (
        image.mode == "I" and image.format in ("PNG", "PPM")
    )
    # Pillow opens a 16-bit PNG or PGM as "I" or "I;16"; in other formats "I" means 32 bits, whose
    # white is not defined.
    if wide_gray:
        # 65535 is white: divide by 257, where .convert("L") would cut everything above 255 off.
        # uint32: 65535 + 128 does not fit 16 bits.
        values_HW = np.asarray(image).astype(np.uint32)
        plain = Image.fromarray(((values_HW + 128) // 257).clip(0, 255).astype(np.uint8))
    elif image.mode in _WITH_ALPHA or (
        image.mode in ("1", "L", "P", "RGB") and "transparency" in image.info
    ):
        plain = _on_white(image)
    elif image.mode in ("L", "RGB"):
        plain = image
    elif image.mode == "1":
        plain = image.convert("L")
    elif image.mode in ("P", "CMYK", "YCbCr", "RGBX"):
        plain = image.convert("RGB")
    else:
        raise DataError(
            f"{printable(name)}: pixels of mode {image.mode!r}; save it as RGB or gray with 8 or 16 bits per channel."
        )
    return plain if turn is None else plain.transpose(turn)


def loaded_image(image: Image.Image, name: Name) -> Image.Image:
    """A PIL image, maybe of a file that is not read to its end yet, as upright "L" or "RGB".

    Raises:
        DataError: the file is broken or closed, or see :func:`plain_image`.
    """
    try:
        image.load()
    except Exception as error:  # of almost any kind, as in decode_image
        raise DataError(f"{printable(name)}: can't be read ({one_line(error)}).") from None
    return plain_image(image, name)


def _on_white(image: Image.Image) -> Image.Image:
    gray = image.mode in ("1", "L", "LA", "La")
    # RGBA first: palette and gray images keep transparency as a table or as one value.
    solid = image.convert("RGBA")
    page = Image.new("RGBA", solid.size, "white")
    page.alpha_composite(solid)
    return page.convert("L" if gray else "RGB")


def _exif_orientation(image: Image.Image) -> int:
    if not image.info:
        return 1  # no chunk, no segment: nothing that could hold EXIF, and looking for it costs a tenth of a small PNG
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:
        return 1  # a sound picture with broken EXIF stands as it is stored


def _refuse_outside(path: str | os.PathLike[str], root: str | os.PathLike[str]) -> None:
    try:
        real, top = os.path.realpath(path, strict=True), os.path.realpath(root)
    except OSError as error:
        raise DataError(f"{printable(path)}: can't be followed ({error.strerror}).") from None
    # Not startswith: /data2 begins with /data and lies outside of it.
    if os.path.commonpath([real, top]) != top:
        raise DataError(
            f"{printable(path)}: leads outside {printable(root)}; list it in a csv manifest instead."
        )


def _kind(mode: int) -> str:
    kinds = {
        stat.S_ISDIR: "folder",
        stat.S_ISFIFO: "FIFO",
        stat.S_ISSOCK: "socket",
        stat.S_ISCHR: "device",
    }
    return next((word for test, word in kinds.items() if test(mode)), "device")
