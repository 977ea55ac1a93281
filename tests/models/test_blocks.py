import pytest
import torch
from torch.nn import functional as F

from fer_ignite.models.blocks import (
    AreaAttention,
    AttentionStage,
    CspStage,
    norm_layer,
    number_of_areas,
)


@pytest.mark.parametrize(
    ("tokens", "wanted", "areas"),
    [
        (14 * 14, 4, 4),
        (3 * 3, 4, 1),
        (7 * 7, 4, 1),
        (64, 4, 2),
        (13 * 13, 4, 1),
        (40 * 40, 4, 4),
        (15 * 15, 4, 3),
    ],
)
def test_areas_are_equal_and_never_small(tokens, wanted, areas):
    assert number_of_areas(tokens, wanted) == areas
    assert tokens % areas == 0


def test_attention_equals_torch_s_own_within_each_area():
    torch.manual_seed(0)
    layer = AreaAttention(64, heads=2, areas=4).eval()
    x_BCHW = torch.randn(2, 64, 16, 16)
    with torch.no_grad():
        query, key, value_BCHW = layer.qkv(x_BCHW).chunk(3, dim=1)
        # rows 0-3 are the first area of a 16x16 map in 4 areas
        parts = [
            p.flatten(2)[:, :, :64].unflatten(1, (2, 32)).transpose(2, 3)
            for p in (query, key, value_BCHW)
        ]
        mixed = F.scaled_dot_product_attention(*parts).transpose(2, 3).reshape(2, 64, 4, 16)
        expected = layer.out.norm(layer.out.conv(mixed + layer.position(value_BCHW)[:, :, :4]))
        torch.testing.assert_close(layer(x_BCHW)[:, :, :4], expected, rtol=1e-4, atol=1e-5)


def test_a_pixel_is_not_mixed_with_far_areas():
    layer = AreaAttention(64, heads=2, areas=4).eval()
    x_BCHW = torch.randn(1, 64, 16, 16)
    changed = x_BCHW.clone()
    changed[:, :, 12:] += 1  # the last area; the 7x7 position convolution reaches 3 rows further
    with torch.no_grad():
        difference = (layer(changed) - layer(x_BCHW)).abs().amax(dim=(0, 1, 3))
    assert difference[:9].max() < 1e-5 < difference[12:].min()


def test_stages_keep_the_side_and_give_the_channels_requested():
    x_BCHW = torch.randn(2, 32, 5, 7)
    assert CspStage(32, 48, hidden=16, depth=2)(x_BCHW).shape == (2, 48, 5, 7)
    assert AttentionStage(32, hidden=32, depth=1, areas=4)(x_BCHW).shape == x_BCHW.shape


def test_groups_divide_any_number_of_channels():
    assert norm_layer("group", 12).num_groups == 4
    assert norm_layer("group", 7).num_groups == 1
