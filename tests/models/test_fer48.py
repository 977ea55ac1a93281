import pytest
import torch

from fer_ignite.errors import ConfigError
from fer_ignite.models.fer48 import Fer48


def test_the_default_network_has_its_stated_size():
    convolutions = 9 * (1 * 16 + 16 * 32 + 32 * 64 + 64 * 128 + 2 * (32**2 + 64**2 + 128**2))
    norms = 2 * (16 + 32 + 64 + 128 + 2 * (32 + 64 + 128))
    assert (
        sum(p.numel() for p in Fer48(7).parameters())
        == convolutions + norms + 128 * 7 + 7
        == 486_263
    )


@pytest.mark.parametrize("pooling", ["max", "avg", "avgmax"])
@pytest.mark.parametrize("stem", ["full", "pool"])
def test_any_pooling_and_stem_gives_logits_at_odd_sides(pooling, stem):
    model = Fer48(5, 3, widths=(8, 16), blocks=(1, 0), pooling=pooling, stem=stem)
    assert model(torch.randn(2, 3, 33, 33)).shape == (2, 5)


def test_the_width_factor_multiplies_every_width():
    double = Fer48(7, width_factor=2.0)
    assert [stage.conv.out_channels for stage in double.stages] == [32, 64, 128, 256]


def test_with_group_norm_an_image_s_logits_do_not_depend_on_the_batch():
    torch.manual_seed(0)
    model = Fer48(7, norm="group").train()
    images_BCHW = torch.randn(4, 1, 48, 48)
    together, alone = model(images_BCHW)[:1], model(images_BCHW[:1])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())


def test_bfloat16_and_channels_last_give_nearly_the_same_logits():
    torch.manual_seed(0)
    model = Fer48(7).eval()
    images_BCHW = torch.randn(4, 1, 48, 48)
    with torch.no_grad():
        exact_BK = model(images_BCHW)
        model.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            rough_BK = model(images_BCHW.to(memory_format=torch.channels_last))
    assert (rough_BK.float() - exact_BK).abs().max() < 0.05 * exact_BK.abs().max()


def test_dropout_acts_in_training_only():
    model = Fer48(7, dropout=0.5)
    images_BCHW = torch.randn(2, 1, 48, 48)
    model.eval()
    assert torch.equal(model(images_BCHW), model(images_BCHW))
    model.train()
    assert not torch.equal(model(images_BCHW), model(images_BCHW))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"widths": (16, 32), "blocks": (1,)}, "one positive width"),
        ({"pooling": "sum"}, "choose one of max, avg, avgmax"),
        ({"norm": "layer"}, "choose one of batch, group"),
        ({"activation": "tanh"}, "choose one of relu"),
    ],
)
def test_a_wrong_argument_is_answered_with_what_is_allowed(arguments, words):
    with pytest.raises(ConfigError, match=words):
        Fer48(7, **arguments)
