"""Grad-CAM finds what a network whose ways are known looks at, and finds a map in every kind of network."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

from fer_ignite.apps.report.explanations import GradCam
from fer_ignite.apps.report.grad_cam import (
    Layer,
    as_map,
    attention_maps,
    find_layer,
    mask_brightest,
)
from fer_ignite.errors import ConfigError
from fer_ignite.models.registry import build_model


class Quadrants(nn.Module):
    """Class 0 is light in the upper left quarter, class 1 light in the lower right one; nothing else counts."""

    def __init__(self):
        super().__init__()
        self.blur = nn.AvgPool2d(4)
        self.mark = nn.Conv2d(1, 2, 1, bias=False)
        nn.init.ones_(self.mark.weight)
        where_2HW = torch.zeros(2, 6, 6)
        where_2HW[0, :3, :3] = where_2HW[1, 3:, 3:] = 1
        self.register_buffer("where_2HW", where_2HW)
        self.places = Weighted(where_2HW)

    def forward(self, images_BCHW):
        return self.places(self.mark(self.blur(images_BCHW))).mean(dim=(2, 3))


class Weighted(nn.Module):
    def __init__(self, where_2HW):
        super().__init__()
        self.where_2HW = where_2HW

    def forward(self, x_BCHW):
        return x_BCHW * self.where_2HW


def test_the_map_is_bright_where_the_class_is_decided():
    model, images_BCHW = (
        Quadrants(),
        torch.rand(3, 1, 24, 24, generator=torch.Generator().manual_seed(0)),
    )
    layer = find_layer(model, images_BCHW)
    assert layer == Layer("places", 0, 6, 6)
    for target, inside in ((0, slice(0, 12)), (1, slice(12, 24))):
        maps_BHW = attention_maps(
            model, images_BCHW, targets_B=torch.full((3,), target), layer=layer
        )
        assert maps_BHW.shape == (3, 24, 24) and maps_BHW.amax(
            dim=(1, 2)
        ).tolist() == pytest.approx([1, 1, 1])
        shares = maps_BHW[:, inside, inside].sum(dim=(1, 2)) / maps_BHW.sum(dim=(1, 2))
        assert (
            shares > 0.9
        ).all()  # the rest is what enlarging from 6 to 24 pixels smears over the border


def test_the_map_is_the_published_formula_worked_out_by_hand():
    """One channel with weight 2 and one with -1 before mean pooling: relu(2 a - b) / places, scaled to a top of 1."""
    head = nn.Linear(2, 1, bias=False)
    head.weight.data = torch.tensor([[2.0, -1.0]])
    model = nn.Sequential(nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    images_BCHW = torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    layer = find_layer(model, images_BCHW)
    assert layer == Layer("0", 0, 4, 4)
    maps_BHW = attention_maps(model, images_BCHW, targets_B=torch.tensor([0]), layer=layer)
    pooled_CHW = model[0](images_BCHW)[0]
    expected_HW = (2 * pooled_CHW[0] - pooled_CHW[1]).clamp_min(0)
    expected_HW = nn.functional.interpolate(
        expected_HW[None, None], (8, 8), mode="bilinear", align_corners=False
    )[0, 0]
    assert torch.allclose(maps_BHW[0], expected_HW / expected_HW.max(), atol=1e-5)


def network(name):
    """A network of each kind, small, and the side of its images."""
    if name == "vision transformer":
        return VisionTransformer(
            image_size=64,
            patch_size=16,
            num_layers=2,
            num_heads=2,
            hidden_dim=16,
            mlp_dim=16,
            num_classes=7,
        ), 64
    if name == "swin":
        return SwinTransformer([4, 4], 8, [1, 1, 1, 1], [1, 1, 1, 1], [4, 4], num_classes=7), 128
    side = {"fer48": 48, "emotionnet": 48, "resnet18": 128, "mobilenet_v3_small": 128}[name]
    return build_model(name, num_classes=7, in_channels=3), side


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["fer48", "emotionnet", "resnet18", "mobilenet_v3_small", "vision transformer", "swin"]
)
def test_every_kind_of_network_has_a_map(name):
    torch.manual_seed(0)
    model, side = network(name)
    # a fresh head may be zero, and residual branches: no gradient to follow
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.05)
    images_BCHW = torch.randn(2, 3, side, side)
    layer = find_layer(model, images_BCHW)
    assert layer.height == layer.width >= 4
    maps_BHW = attention_maps(model, images_BCHW, targets_B=torch.tensor([0, 3]), layer=layer)
    assert (
        maps_BHW.shape == (2, side, side)
        and maps_BHW.min() >= 0
        and maps_BHW.max() <= 1
        and maps_BHW.isfinite().all()
    )
    assert model.training  # as it was before


def test_a_frozen_network_is_explained_too_also_where_gradients_are_switched_off():
    model = build_model("fer48", num_classes=7, in_channels=1).eval().requires_grad_(False)
    with torch.no_grad():
        images_BCHW = torch.randn(2, 1, 48, 48)
        layer = find_layer(model, images_BCHW)
        assert attention_maps(
            model, images_BCHW, targets_B=torch.tensor([0, 1]), layer=layer
        ).shape == (2, 48, 48)
    assert not any(
        parameter.requires_grad or parameter.grad is not None for parameter in model.parameters()
    )


def test_a_network_without_maps_is_said_to_have_none():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
    with pytest.raises(ConfigError, match="no layer of Sequential gives a map"):
        find_layer(model, torch.rand(1, 1, 8, 8))


def test_maps_are_read_in_every_layout():
    channels_first = torch.rand(2, 5, 4, 4)
    assert torch.equal(as_map(channels_first, 2), channels_first)
    assert torch.equal(as_map(channels_first.permute(0, 2, 3, 1), 2), channels_first)
    tokens_BNC = channels_first.flatten(2).transpose(1, 2)
    assert torch.equal(as_map(tokens_BNC, 2), channels_first)
    with_class = torch.cat([torch.zeros(2, 1, 5), tokens_BNC], dim=1)
    assert torch.equal(as_map(with_class, 2), channels_first)
    assert (
        as_map(channels_first, 3) is None
        and as_map(torch.rand(2, 7), 2) is None
        and as_map(torch.rand(2, 7, 5), 2) is None
    )


def test_the_brightest_share_is_hidden():
    images_BCHW = torch.ones(1, 2, 5, 5)
    maps_BHW = torch.arange(25.0).view(1, 5, 5)
    hidden_BCHW = mask_brightest(images_BCHW, maps_BHW, share=0.2)
    assert hidden_BCHW[0, :, 4].sum() == 0 and hidden_BCHW[0, :, :4].sum() == 40


class OneByOne(GradCam):
    """Batches of one face each, as the last batch of a split may be."""

    def images(self, rows):
        return iter(self.data.images_BCHW[rows].split(1))


@pytest.mark.parametrize("count", [2, 1])
def test_the_deletion_test_s_control_is_another_face_s_map(count):
    """Each face is light in its own class's quarter alone: the other one's map hides what is black anyway."""
    images_BCHW = torch.zeros(2, 1, 24, 24)
    images_BCHW[0, :, :12, :12] = images_BCHW[1, :, 12:, 12:] = 1
    data = SimpleNamespace(
        images_BCHW=images_BCHW,
        labels_N=torch.arange(count),
        network=SimpleNamespace(model=Quadrants()),
    )
    found = OneByOne(data, Layer("places", 0, 6, 6)).deletion_test()
    assert found["count"] == count and found["own"] > 0.01
    assert math.isnan(found["other"]) if count == 1 else found["other"] == pytest.approx(0)
