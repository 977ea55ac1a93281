"""One file at a time: what people have is read as they mean it, everything else is refused by name."""

import io
import os
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fer_ignite
from fer_ignite.data.images import (
    MAX_PIXELS,
    MISNAMED,
    fit_image,
    is_colourless,
    printable,
    read_image,
    read_image_bytes,
)
from fer_ignite.errors import DataError

ENV = os.environ | {"PYTHONPATH": str(Path(fer_ignite.__file__).parent.parent)}
OLD = int(Image.__version__.split(".")[0]) < 13
NEW_PILLOW = pytest.mark.skipif(
    OLD, reason="Pillow 12.3 can't read the YCbCr TIFF that it has written; 13 can"
)
RAMP = np.linspace(0, 255, 24 * 32).reshape(24, 32).astype(np.uint8)


def save(path, image, **options):
    image.save(path, **options)
    return path


def colour(mode="RGB"):
    red = np.stack([RAMP, RAMP[::-1], np.full_like(RAMP, 40)], axis=-1)
    return Image.fromarray(red).convert(mode)


def png_header(width, height):
    """A small PNG that claims any size; its pixel data is never reached."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = zlib.compress(bytes(10_000))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def run_code(code, argument):
    return subprocess.run(
        [sys.executable, "-c", code, argument], env=ENV, capture_output=True, text=True
    )


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".pgm", ".webp", ".gif"])
def test_gray_pixels_come_through_unchanged(tmp_path, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    path = save(tmp_path / f"a{suffix}", Image.fromarray(RAMP), **options)
    assert np.array_equal(
        fit_image(read_image(path), None, mode="squash", channels="gray")[:, :, 0], RAMP
    )


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_gray_is_scaled_not_cut(tmp_path, mode, suffix):
    values = RAMP.astype(np.uint16) * 257
    image = (
        Image.frombytes("I;16B", (32, 24), values.astype(">u2").tobytes())
        if mode == "I;16B"
        else Image.fromarray(values)
    )
    read = np.asarray(read_image(save(tmp_path / f"a{suffix}", image)))
    assert np.abs(read.astype(int) - RAMP).mean() <= 1


def test_sixteen_bit_pgm_and_rgb_png_are_scaled(tmp_path):
    values = RAMP.astype(">u2") * 257
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 32 24 65535\n" + values.astype(">u2").tobytes())
    assert np.abs(np.asarray(read_image(path)).astype(int) - RAMP).max() <= 1

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rgb = np.repeat(values.astype(">u2")[:, :, None], 3, axis=2)
    rows = b"".join(b"\0" + row.tobytes() for row in rgb)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 24, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.abs(np.asarray(read_image_bytes(data))[:, :, 0].astype(int) - RAMP).max() <= 1


@pytest.mark.parametrize(
    ("mode", "suffix", "expected"),
    [
        ("RGB", ".png", "RGB"),
        ("P", ".png", "RGB"),
        ("1", ".png", "L"),
        ("LA", ".png", "L"),
        ("RGBA", ".png", "RGB"),
        ("CMYK", ".jpg", "RGB"),
        ("CMYK", ".tif", "RGB"),
        pytest.param("YCbCr", ".tif", "RGB", marks=NEW_PILLOW),
        ("RGB", ".gif", "RGB"),
        ("L", ".jpg", "L"),
    ],
)
def test_every_usual_mode_becomes_gray_or_rgb_and_looks_the_same(tmp_path, mode, suffix, expected):
    original = colour(mode)
    read = read_image(save(tmp_path / f"a{suffix}", original))
    assert read.mode == expected and read.size == (32, 24)
    wanted = np.asarray(original.convert(expected), dtype=int)
    # JPEG and palettes are not exact
    assert np.abs(np.asarray(read, dtype=int) - wanted).mean() < 8


def test_transparent_places_are_white(tmp_path):
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert np.asarray(read_image(save(tmp_path / "a.png", image))).min() == 255
    palette = Image.new("P", (4, 4), 0)
    assert np.asarray(read_image(save(tmp_path / "p.png", palette, transparency=0))).min() == 255
    gray = Image.new("L", (4, 4), 7)
    read = read_image(save(tmp_path / "g.png", gray, transparency=7))
    assert read.mode == "L" and np.asarray(read).min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_exif_orientation_is_undone(tmp_path, orientation, suffix):
    upright = Image.fromarray(RAMP)
    # What the camera stores, so that the turn named by the tag brings it upright (EXIF 2.3, tag 0x0112).
    stored = {
        1: RAMP,
        2: RAMP[:, ::-1],
        3: RAMP[::-1, ::-1],
        4: RAMP[::-1],
        5: RAMP.T,
        6: np.rot90(RAMP),
        7: RAMP[::-1, ::-1].T,
        8: np.rot90(RAMP, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a{suffix}", Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    read = read_image(path)
    assert read.size == upright.size and np.array_equal(np.asarray(read), RAMP)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_leaves_the_picture_as_stored():
    data = io.BytesIO()
    Image.fromarray(RAMP).save(data, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff\x01")
    assert read_image_bytes(data.getvalue()).size == (32, 24)


def test_the_first_frame_of_a_gif_is_read_and_other_moving_pictures_are_refused(tmp_path):
    frames = [Image.fromarray(RAMP), Image.fromarray(RAMP[::-1].copy())]
    gif = save(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert np.array_equal(np.asarray(read_image(gif).convert("L")), RAMP)
    for name, reason in (
        ("a.png", "a moving PNG"),
        ("a.webp", "a moving WEBP"),
        ("a.tif", "several pages"),
    ):
        path = save(tmp_path / name, frames[0], save_all=True, append_images=frames[1:])
        with pytest.raises(DataError, match=reason):
            read_image(path)


def test_progressive_jpeg_phone_pairs_and_extreme_shapes_are_read(tmp_path):
    assert read_image(save(tmp_path / "a.jpg", colour(), progressive=True)).size == (32, 24)
    pair = save(
        tmp_path / "pair.jpg", colour(), format="MPO", save_all=True, append_images=[colour()]
    )
    assert read_image(pair).size == (32, 24)
    for size in ((1, 1), (1, 10_000), (10_000, 1)):
        image = read_image(save(tmp_path / "b.png", Image.new("L", size, 9)))
        for mode in ("squash", "letterbox", "crop"):
            assert fit_image(image, 48, mode=mode, channels="rgb").shape == (48, 48, 3)


def corpus_of_refusals(folder: Path) -> dict[str, Path]:
    jpeg = io.BytesIO()
    colour().save(jpeg, "JPEG")
    png = io.BytesIO()
    colour().save(png, "PNG")
    flipped = bytearray(png.getvalue())
    flipped[len(flipped) // 2] ^= 0x10
    contents = {
        "truncated.jpg": jpeg.getvalue()[: len(jpeg.getvalue()) // 2],
        "truncated.png": png.getvalue()[: len(png.getvalue()) // 2],
        "flipped.png": bytes(flipped),
        "empty.jpg": b"",
        "text.jpg": b"this is no picture",
        "page.png": b"<!DOCTYPE html><html><body>404</body></html>",
        "eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(x) run\n",
        "eps.tif": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        "pdf.jpg": b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n",
        "icns.jpg": b"icns\x00\x00\x00\x10ic07\x00\x00\x00\x08",
        "blp.jpg": b"BLP2\x01\x00\x00\x00\x01\x00\x00\x00",
        "fits.tif": b"SIMPLE  =                    T".ljust(2880),
        "89mp.png": png_header(9450, 9450),
        "178mp.png": png_header(13_350, 13_350),
        "182mp.png": png_header(13_500, 13_500),
        "20mp.png": png_header(MAX_PIXELS + 1, 1),
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    Image.fromarray(RAMP.astype(np.float32)).save(folder / "float.tif")
    Image.fromarray(RAMP.astype(np.int32)).save(folder / "int32.tif")
    Image.fromarray(RAMP).save(folder / "no_suffix", "PNG")
    os.mkfifo(folder / "fifo.png")
    (folder / "folder.png").mkdir()
    os.symlink("loop.png", folder / "loop.png")
    os.symlink("nowhere.png", folder / "gone.png")
    os.symlink("/dev/zero", folder / "device.png")
    return {path.name: path for path in folder.iterdir()}


def test_every_file_that_is_no_sound_image_is_refused_by_name_at_once(tmp_path):
    paths = corpus_of_refusals(tmp_path)
    for name, path in paths.items():
        with pytest.raises(DataError) as caught:
            read_image(path)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    assert len(paths) == 24


@pytest.mark.parametrize(("suffix", "kind"), [(".jpg", "PNG"), (".png", "JPEG"), (".bmp", "WEBP")])
def test_a_file_is_read_by_what_it_holds(tmp_path, suffix, kind):
    path = tmp_path / f"a{suffix}"
    colour().save(path, kind)
    assert read_image(path).info[MISNAMED]
    colour().save(path)
    assert not read_image(path).info[MISNAMED]


def test_a_socket_is_refused(tmp_path):
    os.chdir(tmp_path)  # a socket's whole path must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.png")
        with pytest.raises(DataError, match=r"s\.png"):
            read_image("s.png")


@pytest.mark.slow
def test_refusals_start_no_program_and_bombs_take_no_memory(tmp_path):
    for path in corpus_of_refusals(tmp_path).values():
        assert path.name
    code = (
        "import os, sys, resource, subprocess\n"
        "from fer_ignite.data.images import read_image\n"
        "from fer_ignite.errors import DataError\n"
        "sys.addaudithook(lambda event, _: event in ('os.exec', 'subprocess.Popen', 'os.posix_spawn', 'os.fork')"
        " and os._exit(9))\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "paths = sorted(os.listdir(sys.argv[1]))\n"
        "before = peak()\n"
        "for name in paths:\n"
        "    try: read_image(os.path.join(sys.argv[1], name)); print('read', name)\n"
        "    except DataError: pass\n"
        "print(len(paths), peak() - before < 20 * 1024)\n"
    )
    done = run_code(code, str(tmp_path))
    assert done.stdout.split() == ["24", "True"], done.stderr


def test_large_images_of_the_application_itself_are_no_errors(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(png_header(10_000, 10_000))
    code = (
        "import sys\n"
        "from PIL import Image\n"
        "from fer_ignite.data.images import read_image\n"
        "from fer_ignite.errors import DataError\n"
        "print(Image.open(sys.argv[1]).size)\n"
        "try: read_image(sys.argv[1])\n"
        "except DataError as error: print('more than 20000000 pixels' in str(error))\n"
    )
    done = run_code(code, str(path))
    assert done.stdout.splitlines() == ["(10000, 10000)", "True"], done.stderr


def test_a_link_that_leads_outside_is_refused_and_one_inside_is_read(tmp_path):
    (tmp_path / "in").mkdir()
    save(tmp_path / "out.png", colour())
    save(tmp_path / "in" / "real.png", colour())
    os.symlink("../out.png", tmp_path / "in" / "out.png")
    os.symlink("real.png", tmp_path / "in" / "link.png")
    assert read_image(tmp_path / "in" / "link.png", root=tmp_path / "in").size == (32, 24)
    with pytest.raises(DataError, match="leads outside"):
        read_image(tmp_path / "in" / "out.png", root=tmp_path / "in")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is unreadable for root"
)
def test_an_unreadable_file_is_refused(tmp_path):
    path = save(tmp_path / "a.png", colour())
    path.chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        read_image(path)


def test_squash_letterbox_and_crop_place_a_wide_picture_as_named():
    pixels = np.zeros((20, 40), dtype=np.uint8)
    pixels[:, 10:30] = 200  # the middle square
    image = Image.fromarray(pixels)
    assert (fit_image(image, 20, mode="crop", channels="gray") == 200).all()
    letterbox = fit_image(image, 20, mode="letterbox", channels="gray")[:, :, 0]
    assert (
        (letterbox[:5] == 0).all()
        and (letterbox[15:] == 0).all()
        and (letterbox[5:15, 6:14] == 200).all()
    )
    squash = fit_image(image, 20, mode="squash", channels="gray")[:, :, 0]
    assert (squash[:, 7:13] == 200).all() and (squash[:, :4] == 0).all()


def test_an_image_of_the_requested_size_is_not_resampled():
    noise = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
    for mode in ("squash", "letterbox", "crop"):
        assert np.array_equal(
            fit_image(Image.fromarray(noise), 48, mode=mode, channels="gray")[:, :, 0], noise
        )


def test_gray_kept_as_rgb_is_colourless():
    assert is_colourless(Image.fromarray(RAMP).convert("RGB")) and not is_colourless(colour())


@pytest.mark.parametrize(
    "name", [b"a\nb", b"\xff\xfe", "e\u0301 \U0001f600 \u202e".encode(), b"tab\there", b"%s -x"]
)
def test_any_name_prints_as_one_line_of_ascii_safe_text(name):
    text = printable(name)
    assert text.isprintable() and text.encode("utf-8") and "\n" not in text
