import pytest
import torch
from torch import nn

from fer_ignite import imports
from fer_ignite.errors import ConfigError
from fer_ignite.models.emotionnet import EmotionNet
from fer_ignite.models.fer48 import Fer48
from fer_ignite.models.registry import available_models, build_model

USER_FILE = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self, num_classes, in_channels, hidden=4):
        super().__init__()
        self.body = nn.Conv2d(in_channels, hidden, 3)
        self.head = nn.Linear(hidden, num_classes)
    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

class Map(Tiny):
    def forward(self, x):
        return self.body(x)

class Broken(Tiny):
    def forward(self, x):
        raise RuntimeError("mine")

def not_a_network(num_classes, in_channels):
    return 7
"""


@pytest.fixture
def user_file(tmp_path):
    path = tmp_path / "user_networks.py"
    path.write_text(USER_FILE)
    return path


def build(name, **changes):
    return build_model(name, **{"num_classes": 7, "in_channels": 1, "image_px": 48, **changes})


def test_own_networks_come_by_name_with_their_arguments():
    assert isinstance(build("emotionnet"), EmotionNet)
    model = build(
        "fer48", model_args={"widths": [8, 16], "blocks": [0, 1]}, dropout=0.25, norm="group"
    )
    assert isinstance(model, Fer48)
    assert model.dropout.p == 0.25
    assert model.training


def test_the_list_begins_with_the_own_networks_and_holds_torchvision_s():
    names = available_models()
    assert names[:2] == ["emotionnet", "fer48"]
    assert {"resnet18", "vit_b_16", "densenet121", "squeezenet1_0"} <= set(names)


@pytest.mark.parametrize(
    ("typo", "meant"), [("resnet19", "resnet18"), ("fer84", "fer48"), ("emotion_net", "emotionnet")]
)
def test_an_unknown_name_is_answered_with_the_nearest(typo, meant):
    with pytest.raises(ConfigError, match=f"did you mean .*{meant}"):
        build(typo)


def test_a_user_s_class_is_called_with_classes_channels_and_arguments(user_file):
    model = build(f"{user_file}:Tiny", model_args={"hidden": 6})
    assert model.body.out_channels == 6
    assert model.head.out_features == 7


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("Map", {}, r"gave \[1, 4, 46, 46\].*\[1, 7\]"),
        ("not_a_network", {}, "made a int"),
        ("Tiny", {"model_args": {"depth": 3}}, "depth.*takes num_classes, in_channels, hidden"),
        ("Tiny", {"pretrained": True}, "--pretrained.*own class"),
        ("Tiny", {"dropout": 0.1}, "--dropout.*own class"),
    ],
)
def test_a_user_s_class_that_does_not_fit_is_named(user_file, name, changes, words):
    with pytest.raises(ConfigError, match=words):
        build(f"{user_file}:{name}", **changes)


def test_an_error_inside_a_user_s_network_keeps_its_traceback(user_file):
    with pytest.raises(RuntimeError, match="mine"):
        build(f"{user_file}:Broken")


def test_a_module_is_tried_on_the_device_where_an_earlier_run_left_it(monkeypatch):
    monkeypatch.setitem(imports._OBJECTS, "object:Net", lambda **_: net)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48 * 48, 7)).to("meta")
    assert build("object:Net") is net


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_module_of_another_dtype_is_refused_with_the_remedy(monkeypatch, dtype):
    monkeypatch.setitem(imports._OBJECTS, "object:Net", lambda **_: net)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48 * 48, 7)).to(dtype)
    with pytest.raises(
        ConfigError, match=r"parameters of (float64|bfloat16).*give it with \.float"
    ):
        build("object:Net")


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("fer48", {"model_args": {"width": 3}}, "'width'.*takes.*widths"),
        ("fer48", {"model_args": {"num_classes": 3}}, "num_classes can't stand there"),
        ("fer48", {"pretrained": True}, "no published weights"),
        ("resnet18", {"norm": "group"}, "normalisation of its own"),
        ("resnet18", {"model_args": {"nonsense": 1}}, "refuses its arguments"),
        ("resnet18", {"in_channels": 2}, "1 or 3 channels"),
    ],
)
def test_settings_that_a_network_does_not_have_are_refused(name, changes, words):
    with pytest.raises(ConfigError, match=words):
        build(name, **changes)


def test_an_image_that_is_too_small_is_known_before_the_start():
    with pytest.raises(ConfigError, match="alexnet can't take images of 32 px"):
        build("alexnet", image_px=32)


def test_the_trial_image_leaves_the_network_as_it_was():
    torch.manual_seed(0)
    tried = build("fer48")
    torch.manual_seed(0)
    untried = build("fer48", image_px=None)
    assert all(
        torch.equal(a, b)
        for a, b in zip(tried.state_dict().values(), untried.state_dict().values(), strict=True)
    )
    assert isinstance(tried, nn.Module) and tried.training
