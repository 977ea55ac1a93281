"""Views for test-time averaging: exact copies, mirrored or moved by whole pixels."""

import pytest
import torch

from fer_ignite.data.augment.tta import VIEW_KINDS, count_views, iter_tta_views, views
from fer_ignite.errors import ConfigError

# Dimensions: V views, B images, C channels, H W pixels.


@pytest.mark.parametrize(
    ("kind", "count"), [("none", 1), ("flip", 2), ("shift10", 10), ("shift18", 18)]
)
def test_the_number_of_views(kind, count):
    images_BCHW = torch.rand(3, 1, 48, 48)
    stack_VBCHW = views(images_BCHW, kind)
    assert stack_VBCHW.shape == (count, 3, 1, 48, 48) and count_views(kind) == count
    assert torch.equal(stack_VBCHW[0], images_BCHW)
    assert len({view.numpy().tobytes() for view in stack_VBCHW}) == count


@pytest.mark.parametrize("kind", VIEW_KINDS[1:])
def test_the_second_half_mirrors_the_first(kind):
    first, second = views(torch.rand(2, 3, 32, 32), kind).chunk(2)
    assert torch.equal(second, first.flip(-1))


def test_shifts_move_pixels_and_repeat_the_border():
    images_BCHW = torch.rand(2, 1, 48, 48)
    up_left = views(images_BCHW, "shift10")[1]  # 48 / 16 = 3 px up and left
    assert torch.equal(up_left[..., :45, :45], images_BCHW[..., 3:, 3:])
    assert torch.equal(up_left[..., 45:, :45], images_BCHW[..., 47:, 3:].expand(-1, -1, 3, -1))
    down_right = views(images_BCHW, "shift10")[4]
    assert torch.equal(down_right[..., 3:, 3:], images_BCHW[..., :45, :45])


@pytest.mark.parametrize("kind", VIEW_KINDS)
def test_every_view_keeps_channels_last(kind):
    images_BCHW = torch.rand(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    assert all(
        view.is_contiguous(memory_format=torch.channels_last) for view in views(images_BCHW, kind)
    )


def test_an_empty_batch_has_empty_views():
    assert views(torch.empty(0, 1, 48, 48), "shift10").shape == (10, 0, 1, 48, 48)


def test_an_unknown_kind_is_named_with_what_is_allowed():
    with pytest.raises(ConfigError, match=r"'twelve'.*flip"):
        views(torch.rand(1, 1, 8, 8), "twelve")


@pytest.mark.parametrize("kind", VIEW_KINDS)
def test_views_one_by_one_are_those_of_the_stack(kind):
    images_BCHW = torch.rand(2, 1, 32, 32).to(memory_format=torch.channels_last)
    assert torch.equal(
        torch.stack(list(iter_tta_views(images_BCHW, kind))), views(images_BCHW, kind)
    )
    assert all(view.is_contiguous() for view in iter_tta_views(torch.rand(2, 3, 32, 32), kind))
