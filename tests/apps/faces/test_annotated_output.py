"""Where annotated pictures go."""

import os

import numpy as np
import pytest
from PIL import Image

from fer_ignite.apps.faces.annotated_output import AnnotatedOutput
from fer_ignite.errors import ConfigError, StorageError

PICTURE = np.full((40, 60, 3), 200, np.uint8)


def test_names_are_the_source_s_and_never_given_twice(tmp_path):
    annotated_output = AnnotatedOutput(tmp_path / "new" / "album")
    names = [
        annotated_output.write_picture(source, PICTURE).name
        for source in ("a/x.jpg", "b/x.jpg", "x.JPEG", "x.webp", "y.z.gif")
    ]
    assert names == [
        "x.faces.jpg",
        "x.faces-2.jpg",
        "x.faces-3.jpg",
        "x.faces.png",
        "y.z.faces.png",
    ]
    with (
        Image.open(annotated_output.folder / "x.faces.jpg") as jpeg,
        Image.open(annotated_output.folder / "x.faces.png") as png,
    ):
        assert jpeg.format == "JPEG" and png.size == (60, 40)


def test_a_source_in_the_same_folder_is_never_overwritten(tmp_path):
    source = tmp_path / "x.faces.png"
    source.write_bytes(b"mine")
    os.symlink(source, tmp_path / "x.png")
    assert (
        AnnotatedOutput(tmp_path).write_picture(str(tmp_path / "x.png"), PICTURE).name
        == "x.faces-2.png"
    )
    assert source.read_bytes() == b"mine"


def test_no_other_source_is_overwritten(tmp_path):
    sources = [str(tmp_path / name) for name in ("x.png", "x.faces.png")]
    for source in sources:
        Image.fromarray(PICTURE).save(source)
    annotated_output = AnnotatedOutput(tmp_path, sources=[*sources, "webcam:0"])
    names = [annotated_output.write_picture(source, 255 - PICTURE).name for source in sources]
    assert names == ["x.faces-2.png", "x.faces.faces.png"]
    assert (np.asarray(Image.open(sources[1])) == PICTURE).all()


def test_names_that_are_odd_or_too_long_are_written(tmp_path):
    annotated_output = AnnotatedOutput(tmp_path)
    for name in (
        b"x" * 251 + b".png",
        b"new\nline.png",
        b"bytes\xff\xfe.png",
        "\u00e9".encode() * 120 + b".png",
    ):
        assert annotated_output.write_picture(os.fsdecode(name), PICTURE).exists()


def test_a_folder_that_can_t_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="--save-annotated"):
            AnnotatedOutput(place)


def test_a_picture_that_can_t_be_written_is_a_storage_error(tmp_path):
    annotated_output = AnnotatedOutput(tmp_path / "album")
    (tmp_path / "album").rmdir()
    with pytest.raises(StorageError, match=r"x\.faces\.png"):
        annotated_output.write_picture("x.png", PICTURE)
