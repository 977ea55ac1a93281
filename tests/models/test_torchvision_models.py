import socket
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import nn

from fer_ignite.errors import ConfigError
from fer_ignite.models.heads import head_prefixes
from fer_ignite.models.registry import build_model
from fer_ignite.models.torchvision_models import DropoutLinear, _take_imagenet_scale, zoo_names

# One of each family that builds its ends in another way, and the image side it is tried with.
FAMILIES = {
    "convnext_tiny": 48,
    "densenet121": 48,
    "efficientnet_b0": 48,
    "googlenet": 48,
    "inception_v3": 96,
    "mnasnet0_5": 48,
    "mobilenet_v3_small": 48,
    "regnet_y_400mf": 48,
    "resnet18": 48,
    "shufflenet_v2_x0_5": 48,
    "squeezenet1_1": 48,
    "swin_t": 48,
    "alexnet": 64,
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty torch hub folder and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refuse(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def put_weights(folder, name, state):
    url = torchvision.models.get_model_weights(name).DEFAULT.url
    torch.save(state, folder / url.rsplit("/", 1)[-1])


def build(name, **changes):
    return build_model(name, **{"num_classes": 7, "in_channels": 1, **changes})


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), FAMILIES.items())
def test_every_family_takes_gray_faces_and_gives_one_set_of_logits(name, side):
    model = build(name, image_px=side, dropout=0.1)
    model.train()
    assert model(torch.randn(2, 1, side, side)).shape == (2, 7)
    (head,) = head_prefixes(model)
    assert model.get_submodule(head).weight.shape[0] == 7


def test_every_name_belongs_to_a_known_family():
    roots = {
        "alexnet",
        "convnext",
        "densenet",
        "efficientnet",
        "googlenet",
        "inception",
        "maxvit",
        "mnasnet",
        "mobilenet",
        "regnet",
        "resnet",
        "resnext",
        "shufflenet",
        "squeezenet",
        "swin",
        "vgg",
        "vit",
        "wide",
    }
    assert {
        next((root for root in roots if name.startswith(root)), name) for name in zoo_names()
    } == roots


def test_vit_is_made_for_the_image_side():
    model = build("vit_b_32", image_px=64)
    assert model.encoder.pos_embedding.shape[1] == (64 // 32) ** 2 + 1
    with pytest.raises(ConfigError, match="vit_b_32 refuses"):
        build("vit_b_32", image_px=48)


def test_gray_gives_what_the_same_image_in_rgb_gave():
    torch.manual_seed(0)
    colour = build("resnet18", in_channels=3).eval()
    torch.manual_seed(0)
    gray = build("resnet18", in_channels=1).eval()
    images_BCHW = torch.randn(2, 1, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(
            gray(images_BCHW), colour(images_BCHW.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4
        )


def test_dropout_keeps_the_names_of_the_weights():
    plain, dropped = build("resnet18"), build("resnet18", dropout=0.5)
    assert list(plain.state_dict()) == list(dropped.state_dict())
    assert isinstance(dropped.fc, DropoutLinear)
    images_BCHW = torch.randn(2, 1, 48, 48)
    dropped.eval()
    assert torch.equal(dropped(images_BCHW), dropped(images_BCHW))
    dropped.fc.train()
    assert not torch.equal(dropped(images_BCHW), dropped(images_BCHW))


def test_dropout_that_a_network_has_gets_the_rate():
    model = build("squeezenet1_1", dropout=0.125)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.125]


def test_published_weights_are_loaded_from_the_hub_s_folder_all_but_the_head(hub):
    torch.manual_seed(1)
    published = torchvision.models.resnet18(num_classes=1000).state_dict()
    put_weights(hub, "resnet18", published)
    model = build("resnet18", pretrained=True)
    assert torch.equal(model.conv1.weight, published["conv1.weight"].sum(dim=1, keepdim=True))
    assert torch.equal(model.layer4[1].conv2.weight, published["layer4.1.conv2.weight"])
    assert model.fc.weight.shape == (7, 512)
    # also when the classes happen to be as many as ImageNet's
    assert not torch.equal(
        build("resnet18", num_classes=1000, pretrained=True).fc.weight, published["fc.weight"]
    )


def test_published_weights_under_densenet_s_old_names_are_loaded(hub):
    modern = torchvision.models.densenet121().state_dict()
    old = {
        k.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") if "denselayer" in k else k: v
        for k, v in modern.items()
    }
    assert old.keys() != modern.keys()
    put_weights(hub, "densenet121", old)
    model = build("densenet121", pretrained=True)
    key = "features.denseblock1.denselayer1.conv2.weight"
    assert torch.equal(model.state_dict()[key], modern[key])


def test_auxiliary_heads_in_the_published_file_are_left_out(hub):
    put_weights(hub, "googlenet", torchvision.models.googlenet(init_weights=False).state_dict())
    assert build("googlenet", pretrained=True)(torch.randn(2, 1, 48, 48)).shape == (2, 7)


@pytest.mark.slow
def test_weights_for_another_scale_give_what_torchvision_s_own_transform_gave():
    torch.manual_seed(0)
    stem = torchvision.models.googlenet(init_weights=False, aux_logits=False).conv1.eval()
    stem.bn.running_mean.normal_()
    images_BCHW = torch.randn(1, 3, 32, 32)
    given_BCHW = torchvision.models.GoogLeNet._transform_input(
        SimpleNamespace(transform_input=True), images_BCHW
    )
    with torch.no_grad():
        expected = stem(given_BCHW)
        _take_imagenet_scale(stem)
        found = stem(images_BCHW)
    inside = (..., slice(2, -2), slice(2, -2))  # the border is padded with other zeros
    torch.testing.assert_close(found[inside], expected[inside], rtol=1e-4, atol=1e-4)


def test_vit_positions_are_interpolated_to_the_image_side(hub):
    put_weights(hub, "vit_b_32", torchvision.models.vit_b_32().state_dict())
    model = build("vit_b_32", pretrained=True, image_px=96)
    assert model.encoder.pos_embedding.shape[1] == 3 * 3 + 1


def test_pretrained_without_a_network_is_one_clear_sentence(hub):
    with pytest.raises(
        ConfigError,
        match=r"--pretrained: the weights of resnet18 can't be had from https.*download",
    ) as e:
        build("resnet18", pretrained=True)
    assert str(hub) in str(e.value)
    assert "\n" not in str(e.value)


def test_a_damaged_file_of_weights_is_a_sentence_too(hub):
    put_weights(hub, "resnet18", {"conv1.weight": torch.zeros(64, 3, 7, 7)})
    with pytest.raises(ConfigError, match=r"lacks .* entries"):
        build("resnet18", pretrained=True)
    for file in hub.iterdir():
        file.write_bytes(b"not a checkpoint")
    with pytest.raises(ConfigError, match="can't be had"):
        build("resnet18", pretrained=True)
