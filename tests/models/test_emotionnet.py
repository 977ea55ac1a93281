import pytest
import torch

from fer_ignite.errors import ConfigError
from fer_ignite.models.emotionnet import EmotionNet


def test_seven_classes_take_about_1_77_million_parameters():
    assert sum(p.numel() for p in EmotionNet(7).parameters()) == 1_767_479
    # two more input channels
    assert sum(p.numel() for p in EmotionNet(7, 3).parameters()) == 1_767_479 + 2 * 16 * 9


@pytest.mark.parametrize("side", [32, 48, 65, 224])
def test_any_side_from_32_gives_logits(side):
    model = EmotionNet(7).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 1, side, side)).shape == (1, 7)


def test_attention_stands_at_strides_16_and_32():
    sides = {}
    model = EmotionNet(7).eval()
    for name in ("stage16", "stage32"):
        model.get_submodule(name).register_forward_hook(
            lambda m, i, o, name=name: sides.update({name: o.shape[-1]})
        )
    with torch.no_grad():
        model(torch.randn(1, 1, 224, 224))
    assert sides == {"stage16": 224 // 16, "stage32": 224 // 32}


def test_a_bfloat16_step_reaches_every_parameter():
    torch.manual_seed(0)
    model = EmotionNet(7).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        logits_BK = model(torch.randn(4, 1, 48, 48))
    torch.nn.functional.cross_entropy(logits_BK.float(), torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_with_group_norm_an_image_s_logits_do_not_depend_on_the_batch():
    torch.manual_seed(0)
    model = EmotionNet(7, norm="group", dropout=0.0).train()
    images_BCHW = torch.randn(3, 1, 48, 48)
    torch.testing.assert_close(model(images_BCHW)[:1], model(images_BCHW[:1]), rtol=0, atol=1e-5)


def test_widths_that_heads_cannot_share_are_refused():
    with pytest.raises(ConfigError, match="multiples of 64"):
        EmotionNet(7, widths=(16, 32, 64, 100, 256))
