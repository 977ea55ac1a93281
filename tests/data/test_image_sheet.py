"""The preview sheet: every image in its place, enlarged by whole pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from fer_ignite.data.drawn_faces import draw_faces
from fer_ignite.data.image_sheet import draw_sheet
from fer_ignite.errors import StorageError


def test_a_sheet_of_sixty_four_faces_shows_each_in_its_place(tmp_path):
    images_BHWC, _ = draw_faces(64, seed=0)
    sheet = np.asarray(Image.open(draw_sheet(images_BHWC, tmp_path / "new" / "sheet.png")))
    # 48 px faces are doubled to 96; a gap of 2 px, doubled, follows each
    assert sheet.shape == (8 * 100, 8 * 100)
    for place in (0, 7, 8, 63):
        top, left = place // 8 * 100, place % 8 * 100
        assert np.array_equal(
            sheet[top : top + 96 : 2, left : left + 96 : 2], images_BHWC[place, :, :, 0]
        )


def test_float_tensors_are_shown_as_they_are(tmp_path):
    images_BHWC, _ = draw_faces(3, seed=0)
    floats_BCHW = torch.from_numpy(images_BHWC).permute(0, 3, 1, 2) / 255
    first, second = (
        draw_sheet(images_BHWC, tmp_path / "a.png"),
        draw_sheet(floats_BCHW, tmp_path / "b.png"),
    )
    assert np.array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(second)))


def test_colour_and_any_number_of_columns(tmp_path):
    path = draw_sheet(np.zeros((5, 100, 100, 3), np.uint8), tmp_path / "sheet.png", columns=2)
    with Image.open(path) as picture:
        assert picture.mode == "RGB" and picture.size == (2 * 102, 3 * 102)


def test_a_place_that_cannot_be_written_gives_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="preview"):
        draw_sheet(np.zeros((1, 8, 8, 1), np.uint8), tmp_path / "file" / "sheet.png")
