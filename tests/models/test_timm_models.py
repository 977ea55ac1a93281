import pytest
import torch

from fer_ignite import load_model, train
from fer_ignite.config import check
from fer_ignite.errors import ConfigError
from fer_ignite.models.heads import head_prefixes
from fer_ignite.models.registry import build_model, check_name
from fer_ignite.models.timm_models import published_statistics

timm = pytest.importorskip("timm")


@pytest.mark.parametrize(
    ("name", "channels", "head"),
    [
        ("timm:resnet10t", 1, "fc"),
        ("timm:mobilenetv3_small_050", 3, "classifier"),
        ("timm:vit_tiny_patch16_224", 1, "head"),
    ],
)
def test_networks_are_made_for_the_data_s_channels_size_and_classes(name, channels, head):
    model = build_model(name, num_classes=7, in_channels=channels, image_px=48, dropout=0.2)
    assert model(torch.zeros(2, channels, 48, 48)).shape == (2, 7)
    assert head_prefixes(model) == (head,)


def test_a_run_trains_and_its_checkpoint_loads_without_the_name_again(tiny):
    summary = train(tiny(model="timm:resnet10t", model_args={}, epochs=1, name=None))
    assert "resnet10t-demo" in summary["folder"]
    network = load_model(summary["folder"])
    assert network.config.model == "timm:resnet10t"
    assert network.probabilities(torch.zeros(2, 48, 48, 1, dtype=torch.uint8)).shape == (2, 7)


def test_published_means(tiny):
    assert published_statistics("timm:vit_tiny_patch16_224")[0] == (0.5, 0.5, 0.5)
    summary = train(
        tiny(model="timm:vit_tiny_patch16_224", model_args={}, normalize="model", epochs=1)
    )
    preprocessing = load_model(summary["folder"]).preprocessing
    assert preprocessing.mean == pytest.approx((0.5,)) and preprocessing.std == pytest.approx(
        (0.5,)
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:resnet10x", "did you mean timm:resnet10"),
        ("timm:qqqqqqqq", "timm.list_models"),
        ("timm:resnet18.foo", r"no weights 'resnet18\.foo'; .*timm:resnet18\.a1_in1k"),
    ],
)
def test_names_that_timm_does_not_have_are_refused(name, said):
    with pytest.raises(ConfigError, match=said):
        check_name(name)


def test_arguments_that_timm_refuses_are_one_sentence():
    with pytest.raises(ConfigError, match="timm refuses the arguments"):
        build_model("timm:resnet10t", num_classes=7, in_channels=1, model_args={"nonsense": 3})
    with pytest.raises(ConfigError, match="--norm group"):
        build_model("timm:resnet10t", num_classes=7, in_channels=1, norm="group")


def test_weights_that_can_t_be_had_are_one_sentence(monkeypatch):
    def fails(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", fails)
    with pytest.raises(ConfigError, match=r"published weights can't be had \(no route to host\)"):
        build_model("timm:resnet10t.c3_in1k", num_classes=7, in_channels=1, pretrained=True)
    with pytest.raises(ConfigError, match="published weights can't be had"):
        build_model("timm:hf-hub:timm/resnet10t", num_classes=7, in_channels=1)


def test_without_timm_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'-m pip install "\S+\[timm\]"'):
        check_name("timm:resnet10t")
    assert check({"model": "timm:resnet10t"}).model == "timm:resnet10t"


def test_an_unreachable_hub_is_refused_without_retries(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    seen = []
    monkeypatch.setattr(
        timm, "create_model", lambda *args, **options: seen.append(constants.HF_HUB_OFFLINE)
    )
    build_model("timm:resnet10t.c3_in1k", num_classes=7, in_channels=1, pretrained=True)
    build_model("timm:resnet10t", num_classes=7, in_channels=1)
    assert seen == [True, False] and not constants.HF_HUB_OFFLINE
