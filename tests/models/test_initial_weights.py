import pytest
import torch
from torch import nn

from fer_ignite.errors import CheckpointError
from fer_ignite.models.initial_weights import initialise_from


def network(classes=7, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, classes))


def same(a, b):
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model_state_dict": state, "epoch": 3},
        lambda state: {"state_dict": state},
        lambda state: {"model": state, "ema": None, "config": {}},
        lambda state: {"model": network(seed=5).state_dict(), "ema": state},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {
            "model": {f"_orig_mod.module.{name}": value for name, value in state.items()}
        },
        lambda state: {"net": state, "acc": 71.2, "epoch": 40},
        lambda state: {"network": state, "optimizer": {"state": {}}},
        lambda state: {"ema": {"module": state}, "model": network(seed=5).state_dict()},
        lambda state: {
            "state_dict": {f"module.model.{name}": value for name, value in state.items()}
        },
        lambda state: {
            "state_dict": {f"module.module.{name}": value for name, value in state.items()}
        },
        lambda state: {
            f"model._orig_mod.backbone.net.{name}": value for name, value in state.items()
        },
        # an average of another network does not win over the one that fits
        lambda state: {"model": state, "ema": {"features.weight": torch.zeros(3)}},
    ],
)
def test_every_known_form_is_loaded_whole(wrap):
    source, target = network(seed=1), network(seed=2)
    report = initialise_from(target, wrap(source.state_dict()), strict=True)
    assert same(source, target)
    assert report.complete
    assert len(report.loaded) == len(source.state_dict())


def test_another_number_of_classes_is_refused_and_changes_nothing():
    target, before = network(7), network(7)
    with pytest.raises(
        CheckpointError, match=r"3.weight \(\[8, 4\] in the file, \[7, 4\] here\).*--no-strict"
    ):
        initialise_from(target, network(8, seed=1).state_dict(), strict=True)
    assert same(target, before)


def test_without_strict_the_rest_is_loaded_and_every_gap_is_named():
    state = network(8, seed=1).state_dict()
    del state["0.bias"]
    state["aux.weight"] = torch.zeros(1)
    target = network(7)
    report = initialise_from(target, state, strict=False)
    assert torch.equal(target[0].weight, state["0.weight"])
    assert report.missing == ("0.bias",)
    assert [name.split()[0] for name in report.mismatched] == ["3.weight", "3.bias"]
    assert report.unexpected == ("aux.weight",)
    assert "missing in the file: 0.bias" in report.describe()


@pytest.mark.parametrize("strict", [True, False])
def test_loading_nothing_is_always_an_error(strict):
    # the counter of a batch norm fits every other one's: it is no weight
    state = {"features.weight": torch.zeros(3), "1.num_batches_tracked": torch.tensor(4)}
    with pytest.raises(CheckpointError, match=r"none of the 2 entries fits.*features.weight"):
        initialise_from(network(), state, strict=strict)


@pytest.mark.parametrize(
    "state", [{}, {"config": {"lr": 0.1}}, {"model": {"a": 1}}, {"epoch": 3, "model": {}}]
)
def test_a_mapping_without_weights_is_refused(state):
    with pytest.raises(CheckpointError, match="no network weights"):
        initialise_from(network(), state, strict=False)


def test_a_name_of_the_network_that_begins_like_a_prefix_stays():
    source = nn.ModuleDict({"backbone": network(seed=1)})
    target = nn.ModuleDict({"backbone": network(seed=2)})
    report = initialise_from(
        target,
        {"net": {f"module.{name}": value for name, value in source.state_dict().items()}},
        strict=True,
    )
    assert same(source, target)
    assert (report.place, report.prefixes) == ("net", ("module.",))


def test_the_report_says_where_the_weights_were_and_what_was_removed():
    state = {
        "state_dict": {
            f"module.model.{name}": value for name, value in network(seed=1).state_dict().items()
        }
    }
    text = initialise_from(network(), state, strict=True).describe()
    assert "state dict under: state_dict" in text
    assert "prefixes removed from names: module., model." in text


def test_entries_beside_the_network_are_named_and_the_rest_fits():
    state = {f"model.{name}": value for name, value in network(seed=1).state_dict().items()} | {
        "criterion.weight": torch.ones(7)
    }
    report = initialise_from(network(), {"state_dict": state}, strict=False)
    assert (
        report.unexpected == ("criterion.weight",)
        and not report.missing
        and report.prefixes == ("model.",)
    )
