"""The fast decoders give Pillow's pixels or nothing."""

import io
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fer_ignite.data.cache import plain_files
from fer_ignite.data.cache.plain_files import decode_plain
from fer_ignite.data.images import decode_image
from fer_ignite.errors import DataError

RNG = np.random.default_rng(3)
RED = Image.fromarray(RNG.integers(0, 256, (37, 53, 3), dtype=np.uint8)).resize((53, 37))
GRAY = RED.convert("L")


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pillow_pixels(data, kind):
    pixels = np.asarray(decode_image(data, "a", expected=kind))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(png, kind, body, *, at=33):
    return png[:at] + chunk(kind, body) + png[at:]


@pytest.mark.parametrize("image", [GRAY, RED], ids=["gray", "colour"])
@pytest.mark.parametrize("options", [{}, {"compress_level": 0}, {"optimize": True}])
def test_plain_png_files_are_decoded_with_equal_pixels(image, options):
    data = encoded(image, "PNG", **options)
    found = decode_plain(data, expected="PNG")
    assert found is not None and np.array_equal(found, np.asarray(image).reshape(found.shape))


@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2},
        {"progressive": True},
        {"restart_marker_rows": 1},
        {"quality": 5},
        {"comment": b"x" * 300},
        {"icc_profile": b"profile" * 20},
    ],
)
@pytest.mark.parametrize("image", [GRAY, RED], ids=["gray", "colour"])
def test_plain_jpeg_files_are_decoded_with_equal_pixels(image, options):
    pytest.importorskip("simplejpeg")
    data = encoded(image, "JPEG", **options)
    wanted = pillow_pixels(data, "JPEG")
    assert np.array_equal(decode_plain(data, expected="JPEG"), wanted)
    out = np.zeros_like(wanted)
    assert decode_plain(data, expected="JPEG", out=out) is out and np.array_equal(out, wanted)
    other = np.zeros((8, 8, 3), dtype=np.uint8)  # of another shape: not written to
    assert np.array_equal(decode_plain(data, expected="JPEG", out=other), wanted)
    assert not other.any()


def exif(orientation=6):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


PNG = encoded(GRAY, "PNG")
JPEG = encoded(RED, "JPEG")
NOT_PLAIN = {
    "turned png": (encoded(GRAY, "PNG", exif=exif()), "PNG"),
    "palette": (encoded(RED.quantize(16), "PNG"), "PNG"),
    "alpha": (encoded(RED.convert("RGBA"), "PNG"), "PNG"),
    "16 bits": (encoded(Image.fromarray(np.full((4, 4), 40_000, np.uint16)), "PNG"), "PNG"),
    "transparent gray": (encoded(GRAY, "PNG", transparency=7), "PNG"),
    "text": (with_chunk(PNG, b"tEXt", b"Raw profile type exif\0" + b"00"), "PNG"),
    "animated": (encoded(GRAY, "PNG", save_all=True, append_images=[GRAY.rotate(90)]), "PNG"),
    "odd pHYs": (with_chunk(PNG, b"pHYs", b"\0"), "PNG"),
    "turned jpeg": (encoded(RED, "JPEG", exif=exif()), "JPEG"),
    "four inks": (encoded(RED.convert("CMYK"), "JPEG"), "JPEG"),
    "two pictures": (encoded(RED, "MPO", save_all=True, append_images=[GRAY]), "JPEG"),
    "a jpeg named png": (JPEG, "PNG"),
    "a png named jpeg": (PNG, "JPEG"),
    "bmp": (encoded(GRAY, "BMP"), "BMP"),
    "nothing": (b"", "PNG"),
    "no jpeg": (b"\xff\xd8", "JPEG"),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_needs_attention_is_left_to_pillow(name):
    data, kind = NOT_PLAIN[name]
    assert decode_plain(data, expected=kind) is None


def test_chunks_without_effect_and_split_data_stay_plain():
    png = encoded(GRAY, "PNG", dpi=(72, 72))
    at = png.index(b"IDAT") - 4
    length = struct.unpack_from(">I", png, at)[0]
    body, end = png[at + 8 : at + 8 + length], png[at + 12 + length :]
    split = png[:at] + chunk(b"IDAT", body[:100]) + chunk(b"IDAT", body[100:]) + end
    found = decode_plain(split, expected="PNG")
    assert found is not None and np.array_equal(found[..., 0], np.asarray(GRAY))


def damaged_copies(data, count):
    """Copies with a byte changed, cut off or with bytes taken out."""
    rng = np.random.default_rng(11)
    for number in range(count):
        place = int(rng.integers(2, len(data)))
        if number % 3 == 0:
            yield data[:place]
        elif number % 3 == 1:
            yield data[:place] + data[place + int(rng.integers(1, 30)) :]
        else:
            yield (
                data[:place]
                + bytes([data[place] ^ (1 << int(rng.integers(8)))])
                + data[place + 1 :]
            )


def damaged_streams(count):
    """PNG files whose checksums of chunks are right and whose compressed data is damaged."""
    at = PNG.index(b"IDAT") - 4
    length = struct.unpack_from(">I", PNG, at)[0]
    for body in damaged_copies(PNG[at + 8 : at + 8 + length], count):
        yield PNG[:at] + chunk(b"IDAT", body) + PNG[at + 12 + length :]
    longer = zlib.compress(zlib.decompress(PNG[at + 8 : at + 8 + length]) + bytes(500))
    yield PNG[:at] + chunk(b"IDAT", longer) + PNG[at + 12 + length :]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    ("copies", "kind"),
    [
        (list(damaged_copies(PNG, 150)), "PNG"),
        (list(damaged_streams(150)), "PNG"),
        (list(damaged_copies(JPEG, 300)), "JPEG"),
        (list(damaged_copies(encoded(GRAY, "JPEG", progressive=True), 150)), "JPEG"),
    ],
    ids=["png", "png stream", "jpeg", "progressive jpeg"],
)
def test_a_damaged_file_is_never_read_where_pillow_refuses_or_reads_otherwise(copies, kind):
    for data in copies:
        found = decode_plain(data, expected=kind)
        if found is None:
            continue
        try:
            wanted = pillow_pixels(data, kind)
        except DataError as error:
            pytest.fail(f"the fast decoder read what Pillow refuses: {error}")
        assert np.array_equal(found, wanted)


@pytest.fixture
def new_decoder():
    plain_files._jpeg_decoder.cache_clear()
    yield
    plain_files._jpeg_decoder.cache_clear()


@pytest.mark.usefixtures("new_decoder")
def test_a_jpeg_decoder_that_rounds_otherwise_is_not_used(monkeypatch):
    library = pytest.importorskip("simplejpeg")

    def brighter(data, space, **options):
        return library.decode_jpeg(data, space) | np.uint8(1)

    other = SimpleNamespace(decode_jpeg=brighter)
    monkeypatch.setattr(plain_files, "optional_library", lambda *_, **__: other)
    assert decode_plain(JPEG, expected="JPEG") is None


@pytest.mark.usefixtures("new_decoder")
def test_without_the_library_jpeg_files_are_left_to_pillow(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert decode_plain(JPEG, expected="JPEG") is None
    assert decode_plain(PNG, expected="PNG") is not None
