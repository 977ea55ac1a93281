"""Fast decoding of plain PNG and JPEG files, with the pixels that `decode_image` gives.

Plain is an 8-bit gray or RGB picture without metadata that could change it (orientation, transparency, animation). Any
other file, and any file that looks damaged, is left to `decode_image`, which reads it or says why it can't be read.
"""

# Dimensions: H W pixels, C channels (1 gray, 3 RGB).

import functools
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fer_ignite.data.images import MAX_PIXELS
from fer_ignite.errors import ConfigError
from fer_ignite.imports import optional_library

__all__ = ["decode_plain", "warm_decoders"]

Pixels = npt.NDArray[np.uint8]

_JpegDecoder = Callable[..., Pixels]  # (data, colour space, buffer=...)

_PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_PNG_MODE = {0: "L", 2: "RGB"}
# Chunks with no effect on the pixels, with the only length that is well-formed.
_PNG_NEUTRAL = {b"gAMA": 4, b"pHYs": 9, b"sRGB": 1, b"tIME": 7}
_PNG_HEADER = struct.Struct(">IIBBBBB")
_PNG_CHUNK = struct.Struct(">I4s")

_SOS, _APP0, _APP2 = 0xDA, 0xE0, 0xE2
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2)  # Huffman-coded: baseline, extended, progressive
_JPEG_NEUTRAL = (
    0xC4,
    0xDB,
    0xDD,
    0xFE,
)  # Huffman and quantization tables, restart interval, comment
_JPEG_FRAME = struct.Struct(">BHHB")


def decode_plain(data: bytes, *, expected: str | None, out: Pixels | None = None) -> Pixels | None:
    """The pixels of a plain PNG or JPEG file.

    Args:
        data: the file's bytes.
        expected: "PNG" or "JPEG", the format that the file's name says; other formats are never plain.
        out: a contiguous uint8 array [H, W, C] that a JPEG of this very shape is decoded into.
    Returns:
        uint8 [H, W, C], `out` itself where it was used; None: the file isn't plain, or there is no fast decoder for it.
    """
    decode = _DECODERS.get(expected or "")
    try:
        return None if decode is None else decode(data, out)
    except (ValueError, OSError, struct.error, MemoryError):
        return None  # damaged, perhaps: `decode_image` decides


def warm_decoders() -> None:
    """Loads what decoding needs, so that the first file of a process takes no longer than the others."""
    _jpeg_decoder()
    Image.preinit()


def _decode_png(data: bytes, _out: Pixels | None) -> Pixels | None:
    if not data.startswith(_PNG_START):
        return None
    width, height, depth, kind, *methods = _PNG_HEADER.unpack_from(data, len(_PNG_START))
    mode = _PNG_MODE.get(kind)
    # The pixels are counted in the header: a bomb is left to decode_image, which refuses it.
    if depth != 8 or mode is None or any(methods) or not 0 < width * height <= MAX_PIXELS:
        return None
    packed = _png_data(data)
    if packed is None:
        return None
    # Pillow's own filters and inflate; its PNG reader takes as long again for a small file.
    image = Image.frombytes(mode, (width, height), packed, "zip", mode)
    return np.frombuffer(image.tobytes(), dtype=np.uint8).reshape(height, width, -1)


def _png_data(data: bytes) -> bytes | None:
    """The joined IDAT chunks; None where another chunk needs attention or a checksum is wrong."""
    parts: list[bytes] = []
    at = 8
    while True:
        length, kind = _PNG_CHUNK.unpack_from(data, at)
        end = at + 8 + length
        # Every chunk is checked, so that no damaged file is read here that Pillow would refuse.
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return None
        if kind == b"IDAT":
            parts.append(data[at + 8 : end])
        elif kind == b"IEND":
            return parts[0] if len(parts) == 1 else b"".join(parts)
        # Anything else may change the picture (transparency, animation, EXIF), or is misplaced.
        elif (at > 8 or kind != b"IHDR") and (parts or _PNG_NEUTRAL.get(kind) != length):
            return None
        at = end + 4


def _decode_jpeg(data: bytes, out: Pixels | None) -> Pixels | None:
    decode = _jpeg_decoder()
    shape = None if decode is None else _jpeg_shape(data)
    if decode is None or shape is None:
        return None
    space = "GRAY" if shape[2] == 1 else "RGB"
    if out is not None and out.shape == shape:
        decode(data, space, buffer=out)
        return out
    return decode(data, space)


def _jpeg_shape(data: bytes) -> tuple[int, int, int] | None:
    """Height, width and channels, where all segments before the first scan are those of a plain JPEG."""
    shape, at = None, 2
    if data[:2] != b"\xff\xd8":
        return None
    while data[at : at + 1] == b"\xff" and len(data) > at + 4:
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _SOS:
            return shape
        if marker in _JPEG_FRAMES and shape is None:
            depth, height, width, channels = _JPEG_FRAME.unpack_from(data, at + 4)
            if depth != 8 or channels not in (1, 3) or not 0 < width * height <= MAX_PIXELS:
                return None
            shape = height, width, channels
        elif marker not in _JPEG_NEUTRAL and not _is_neutral_app(marker, data[at + 4 : at + 18]):
            return None
        # The length counts its own two bytes; a smaller one is damage.
        if size < 2:
            return None
        at += 2 + size
    return None


def _is_neutral_app(marker: int, body: bytes) -> bool:
    return (marker == _APP0 and body.startswith(b"JFIF\0") and len(body) == 14) or (
        marker == _APP2 and body.startswith(b"ICC_PROFILE\0")
    )


@functools.cache
def _jpeg_decoder() -> _JpegDecoder | None:
    """simplejpeg's decoder, where it is installed and gives Pillow's pixels.

    Both use libjpeg-turbo; a Pillow that was built with another library may round differently, and then the data's
    fingerprint would depend on what is installed.
    """
    try:
        library = optional_library("simplejpeg", extra="jpeg", purpose="fast JPEG decoding")
    except (ConfigError, ImportError, ValueError):
        return None
    # The exact transform and upsampling, as Pillow's defaults; the fast ones round otherwise.
    decode: _JpegDecoder = functools.partial(library.decode_jpeg, fastdct=False, fastupsample=False)
    return decode if all(_agrees(decode, **options) for options in _PROBES) else None


_PROBES: tuple[dict[str, Any], ...] = (
    {"mode": "L"},
    {"mode": "RGB", "subsampling": 0},
    {"mode": "RGB", "subsampling": 1},
    {"mode": "RGB", "subsampling": 2},
    {"mode": "RGB", "subsampling": 2, "progressive": True},
)


def _agrees(decode: _JpegDecoder, *, mode: str, **options: Any) -> bool:
    # Sides that are no multiple of a JPEG block, so that cut blocks are compared too.
    ramp_HW = np.arange(45 * 37, dtype=np.uint32).reshape(45, 37) * 2654435761 % 251
    image = Image.fromarray(
        np.stack([ramp_HW, ramp_HW.T.reshape(45, 37), ramp_HW // 2], -1).astype(np.uint8)
    )
    file = io.BytesIO()
    image.convert(mode).save(file, "JPEG", quality=85, **options)
    wanted = np.asarray(Image.open(file))
    found = decode(file.getvalue(), "GRAY" if mode == "L" else "RGB")
    return np.array_equal(found.reshape(wanted.shape), wanted)


_DECODERS: dict[str, Callable[[bytes, Pixels | None], Pixels | None]] = {
    "PNG": _decode_png,
    "JPEG": _decode_jpeg,
}
