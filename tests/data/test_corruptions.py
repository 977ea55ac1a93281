import numpy as np
import pytest
import torch

from fer_ignite.data.augment.corruptions import CORRUPTIONS, corruptions_for
from fer_ignite.data.drawn_faces import draw_faces

CASES = [(kind, severity) for kind, c in CORRUPTIONS.items() for severity in c.severities]


def faces(count=16, channels=3):
    pixels_NHWC = torch.from_numpy(np.ascontiguousarray(draw_faces(count, seed=2)[0]))
    return pixels_NHWC.expand(-1, -1, -1, channels).contiguous()


@pytest.mark.parametrize(("kind", "severity"), CASES)
def test_every_corruption_keeps_type_and_shape_and_changes_faces(kind, severity):
    images = faces()
    images[..., 0] //= 2  # colour, for gray to take out
    changed = CORRUPTIONS[kind](images.clone(), np.arange(16), severity)
    assert changed.dtype == torch.uint8 and changed.shape == images.shape
    moved = (changed.float() - images.float()).abs().mean()
    assert 0.2 < moved < 90


@pytest.mark.parametrize(("kind", "severity"), CASES)
def test_a_face_s_result_depends_on_its_index_alone(kind, severity):
    images, indices = faces(), np.arange(100, 116)
    together = CORRUPTIONS[kind](images.clone(), indices, severity)
    parts = [
        CORRUPTIONS[kind](images[part].clone(), indices[part], severity)
        for part in (slice(0, 5), slice(5, 16))
    ]
    assert torch.equal(together, torch.cat(parts))


@pytest.mark.parametrize(
    "kind",
    [k for k in CORRUPTIONS if k not in ("gray", "face scale", "brightness", "contrast", "gamma")],
)
def test_severities_rise(kind):
    images, indices = faces(channels=1), np.arange(16)
    if CORRUPTIONS[kind].needs_color:
        return
    moved = [
        (CORRUPTIONS[kind](images.clone(), indices, name).float() - images).abs().mean().item()
        for name in CORRUPTIONS[kind].severities
    ]
    assert moved == sorted(moved)


def test_a_crop_offset_moves_the_picture_by_its_share_in_eight_directions():
    images = torch.zeros(8, 40, 40, 1, dtype=torch.uint8)
    images[:, 18:22, 18:22] = 255
    moved = CORRUPTIONS["crop offset"](images, np.arange(8), "10 %")
    centres = set()
    for image in moved[..., 0].float():
        rows, columns = torch.nonzero(image > 127, as_tuple=True)
        centres.add(
            (round(rows.float().mean().item() - 19.5), round(columns.float().mean().item() - 19.5))
        )
    assert centres == {(a, b) for a in (-4, 0, 4) for b in (-4, 0, 4)} - {(0, 0)}


def test_rotation_turns_to_both_sides_and_repeats_the_border():
    images = torch.full((2, 48, 48, 1), 200, dtype=torch.uint8)
    turned = CORRUPTIONS["rotation"](images, np.arange(2), "20")
    assert (turned == 200).all()  # no black corners


def test_an_occluded_quarter_is_a_quarter():
    images = torch.zeros(4, 48, 48, 1, dtype=torch.uint8)
    covered = CORRUPTIONS["occlusion"](images, np.arange(4), "1/4") == 128
    assert covered.float().mean(dim=(1, 2, 3)).tolist() == [0.25] * 4
    assert covered.any(dim=0).all()  # every corner in turn


def test_gray_is_for_colour_faces_only():
    assert "gray" not in corruptions_for(1) and "gray" in corruptions_for(3)
