"""The drawn faces: repeatable, independent of how many are requested, varied, and separable by a small network."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fer_ignite.data.drawn_faces import DEMO_CLASSES, draw_faces
from fer_ignite.errors import ConfigError

# Dimensions: N faces, H W pixels.


def test_the_same_seed_draws_the_same_pixels():
    first_NHW1, first_N = draw_faces(21, seed=5)
    second_NHW1, second_N = draw_faces(21, seed=5)
    assert np.array_equal(first_NHW1, second_NHW1) and np.array_equal(first_N, second_N)


def test_another_seed_draws_other_faces():
    first_NHW1, _ = draw_faces(7, seed=0)
    second_NHW1, _ = draw_faces(7, seed=1)
    assert all(
        (first != second).any() for first, second in zip(first_NHW1, second_NHW1, strict=True)
    )


def test_a_face_does_not_depend_on_how_many_are_drawn_or_where_drawing_starts():
    many_NHW1, many_N = draw_faces(20, seed=3)
    some_NHW1, some_N = draw_faces(5, seed=3, start=9)
    assert np.array_equal(many_NHW1[9:14], some_NHW1) and np.array_equal(many_N[9:14], some_N)


def test_every_expression_is_drawn_equally_often():
    _, labels_N = draw_faces(7 * 6, seed=0)
    assert np.bincount(labels_N).tolist() == [6] * len(DEMO_CLASSES)


@pytest.mark.parametrize("size", [16, 48, 97])
def test_shape_and_types_are_those_of_a_pack(size):
    images_NHW1, labels_N = draw_faces(3, seed=0, size=size)
    assert (
        images_NHW1.shape == (3, size, size, 1)
        and images_NHW1.dtype == np.uint8
        and labels_N.dtype == np.int64
    )


def test_no_face_is_drawn_when_none_is_requested():
    images_NHW1, labels_N = draw_faces(0, seed=0)
    assert images_NHW1.shape == (0, 48, 48, 1) and labels_N.shape == (0,)


def test_no_two_faces_are_equal_and_each_has_light_and_dark():
    images_NHW1, _ = draw_faces(700, seed=0)
    assert len(np.unique(images_NHW1.reshape(700, -1), axis=0)) == 700
    assert images_NHW1.reshape(700, -1).std(axis=1).min() > 5


@pytest.mark.parametrize("wrong", [{"count": -1}, {"seed": -1}, {"size": 4}, {"start": -2}])
def test_numbers_out_of_range_are_refused_in_one_sentence(wrong):
    arguments = {"count": 1, "seed": 0} | wrong
    with pytest.raises(ConfigError, match=r"faces of -?\d+ px"):
        draw_faces(arguments.pop("count"), **arguments)


def test_drawing_needs_no_torch():
    code = "import sys, fer_ignite.data.drawn_faces; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_small_network_learns_the_expressions(seed):
    images_NHW1, labels_N = draw_faces(2600, seed=seed)
    images_NCHW = torch.from_numpy(images_NHW1).permute(0, 3, 1, 2).float().sub(115).div(64)
    labels = torch.from_numpy(labels_N)
    torch.manual_seed(seed)
    model = _network()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    epochs, batch, train = 6, 50, 2000
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.1, total_steps=epochs * train // batch
    )
    for _ in range(epochs):
        for chosen in torch.randperm(train).split(batch):
            optimizer.zero_grad()
            F.cross_entropy(model(images_NCHW[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    with torch.inference_mode():
        accuracy = (
            (model.eval()(images_NCHW[train:]).argmax(1) == labels[train:]).float().mean().item()
        )
    assert accuracy > 0.9


def _network() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 64), (64, 96)):
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(
        *layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(96, len(DEMO_CLASSES))
    )
