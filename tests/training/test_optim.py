import copy

import pytest
import torch
from torch import nn

from fer_ignite.errors import ConfigError
from fer_ignite.models.emotionnet import EmotionNet
from fer_ignite.models.fer48 import Fer48
from fer_ignite.training.optim import (
    OPTIMIZER_SETTINGS,
    build_optimizer,
    frozen_modules,
    keep_frozen_in_eval,
    parameter_groups,
    skips_on_device,
)

SETTINGS = {
    "sgd": {"momentum": 0.9, "nesterov": True},
    "adam": {"amsgrad": True},
    "adamw": {"betas": (0.8, 0.9)},
    "adagrad": {"lr_decay": 0.1},
    "rmsprop": {"alpha": 0.9, "momentum": 0.5},
    "adadelta": {"rho": 0.8},
    "muon": {"momentum": 0.9, "betas": (0.8, 0.9)},
}
FUSED = ("sgd", "adam", "adamw", "adagrad")


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))


def groups_of(model, **changes):
    return parameter_groups(model, **{"lr": 0.1, "weight_decay": 0.01, **changes})


def fill_gradients(model, value):
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, value)


def snapshot(model, optimizer):
    return copy.deepcopy((dict(model.named_parameters()), optimizer.state_dict()["state"]))


def assert_same(before, after):
    (parameters, state), (parameters_now, state_now) = before, after
    assert all(torch.equal(parameters[name], parameters_now[name]) for name in parameters)
    for index in state:
        assert all(torch.equal(state[index][key], state_now[index][key]) for key in state[index])


def test_norms_and_biases_do_not_decay_and_every_parameter_is_in_one_group():
    for model in (Fer48(7), EmotionNet(7, norm="group")):
        groups = groups_of(model)
        assert [group["name"] for group in groups] == [
            "backbone",
            "backbone_no_decay",
            "head",
            "head_no_decay",
        ]
        ids = [id(p) for group in groups for p in group["params"]]
        assert sorted(ids) == sorted(id(p) for p in model.parameters())
        names = {id(p): name for name, p in model.named_parameters()}
        for group in groups:
            assert group["weight_decay"] == (0 if group["name"].endswith("no_decay") else 0.01)
            for parameter in group["params"]:
                name = names[id(parameter)]
                assert name.startswith("head.") == group["name"].startswith("head")
                plain = "norm" in name or name.endswith(("bias", "scale_C"))
                assert plain == group["name"].endswith("no_decay"), name


def test_backbone_and_head_learn_at_their_own_rates_in_the_same_groups():
    model = Fer48(7)
    rates = {
        group["name"]: group["lr"] for group in groups_of(model, backbone_lr=0.01, head_lr=1.0)
    }
    assert rates == {"backbone": 0.01, "backbone_no_decay": 0.01, "head": 1.0, "head_no_decay": 1.0}
    assert [group["name"] for group in groups_of(model)] == list(rates)


@pytest.mark.parametrize("pattern", ["stages.0", "stages.0.*", "stages.0."])
def test_freezing_by_prefix_or_glob_takes_parameters_out(pattern):
    model = Fer48(7)
    total = sum(len(group["params"]) for group in groups_of(model))
    left = sum(len(group["params"]) for group in groups_of(model, freeze=(pattern,)))
    assert total - left == len(list(model.stages[0].parameters())) == 3
    assert not any(p.requires_grad for p in model.stages[0].parameters())
    assert all(p.requires_grad for p in model.stages[1].parameters())


def test_a_frozen_batch_norm_stays_in_evaluation_mode():
    model = Fer48(7)
    groups_of(model, freeze=("stages.0",))
    assert frozen_modules(model) == [model.stages[0].norm]
    model.train()
    keep_frozen_in_eval(model)
    before = model.stages[0].norm.running_mean.clone()
    model(torch.randn(4, 1, 48, 48))
    assert torch.equal(model.stages[0].norm.running_mean, before)
    assert model.stages[1].norm.training


def test_freezing_nothing_or_everything_is_refused():
    with pytest.raises(
        ConfigError, match=r"'backbon' names no parameter; the network has stages, head"
    ):
        groups_of(Fer48(7), freeze=("backbon",))
    with pytest.raises(ConfigError, match="no parameter is left"):
        groups_of(Fer48(7), freeze=("*",))


@pytest.mark.parametrize(
    "name", sorted(set(SETTINGS) - {"muon"})
)  # torch's Muon takes matrices only
def test_each_optimizer_steps_as_torch_s_own(name):
    ours, theirs = small(), small()
    optimizer = build_optimizer(name, groups_of(ours), lr=0.1, **SETTINGS[name])
    kinds = {
        "sgd": "SGD",
        "adam": "Adam",
        "adamw": "AdamW",
        "adagrad": "Adagrad",
        "rmsprop": "RMSprop",
    }
    torchs = getattr(torch.optim, kinds.get(name, "Adadelta"))(
        groups_of(theirs), lr=0.1, **SETTINGS[name]
    )
    for value in (0.5, -1.0, 2.0):
        fill_gradients(ours, value)
        fill_gradients(theirs, value)
        optimizer.step()
        torchs.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert skips_on_device(optimizer) == (name in FUSED)


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("steps_before", [0, 1])
def test_a_step_with_found_inf_set_changes_neither_parameters_nor_state(name, steps_before):
    model = small()
    optimizer = build_optimizer(name, groups_of(model), lr=0.1, fused=True, **SETTINGS[name])
    for _ in range(steps_before):
        fill_gradients(model, 1.0)
        optimizer.step()
    before = snapshot(model, optimizer)
    fill_gradients(model, float("nan"))
    optimizer.grad_scale, optimizer.found_inf = None, torch.ones(())
    optimizer.step()
    after = snapshot(model, optimizer)
    assert_same(before, after)
    for state in after[
        1
    ].values():  # what the skipped step made must be what a fresh optimizer begins with
        assert all(value.isfinite().all() for value in state.values())


@pytest.mark.parametrize("name", FUSED)
def test_a_run_whose_first_step_was_skipped_continues_as_if_it_had_not_been(name):
    skipped, plain = small(), small()
    for model in (skipped, plain):
        optimizer = build_optimizer(name, groups_of(model), lr=0.1, **SETTINGS[name])
        if model is skipped:
            fill_gradients(model, float("inf"))
            optimizer.grad_scale, optimizer.found_inf = None, torch.ones(())
            optimizer.step()
            optimizer.found_inf = torch.zeros(())
        for value in (1.0, -0.5):
            fill_gradients(model, value)
            optimizer.step()
    assert all(
        torch.equal(a, b) for a, b in zip(skipped.parameters(), plain.parameters(), strict=True)
    )


def momentum_after_a_skipped_first_step(make):
    """The momentum of one parameter; fresh memory holds NaN, so that what torch doesn't fill shows."""
    parameter = nn.Parameter(torch.ones(3))
    optimizer = make([parameter])
    parameter.grad = torch.ones(3)
    optimizer.grad_scale, optimizer.found_inf = None, torch.ones(())
    torch.use_deterministic_algorithms(True)
    try:
        optimizer.step()
    finally:
        torch.use_deterministic_algorithms(False)
    return optimizer.state[parameter]["momentum_buffer"]


def test_torch_s_fused_sgd_does_not_fill_a_skipped_first_momentum_and_ours_does():
    # When torch fills it, the first line fails and our zeros can go.
    options = {"lr": 0.1, "momentum": 0.9, "fused": True}
    assert (
        momentum_after_a_skipped_first_step(lambda p: torch.optim.SGD(p, **options)).isnan().all()
    )
    ours = momentum_after_a_skipped_first_step(
        lambda p: build_optimizer("sgd", [{"params": p}], **options)
    )
    assert torch.equal(ours, torch.zeros(3))


def test_the_state_is_plain_and_loads_weights_only(tmp_path):
    model = small()
    optimizer = build_optimizer("sgd", groups_of(model), lr=0.1, **SETTINGS["sgd"])
    fill_gradients(model, 1.0)
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "o.pt")
    again = build_optimizer("sgd", groups_of(small()), lr=0.1, **SETTINGS["sgd"])
    again.load_state_dict(torch.load(tmp_path / "o.pt", weights_only=True))
    assert [group["name"] for group in again.param_groups] == [
        group["name"] for group in optimizer.param_groups
    ]


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("lion", {}, "choose one of adadelta, adagrad, adam, adamw, muon, rmsprop, sgd"),
        ("sgd", {"nesterov": True}, "needs a --momentum"),
        ("adam", {"momentum": 0.9}, "adam has no setting momentum.*betas, eps, amsgrad"),
        ("sgd", {"amsgrad": True}, "sgd has no setting amsgrad"),
        ("rmsprop", {"fused": True}, "no fused rmsprop"),
        ("adam", {"betas": (0.9, 1.5)}, "Invalid beta"),
    ],
)
def test_settings_that_contradict_are_refused(name, settings, words):
    with pytest.raises(ConfigError, match=words):
        build_optimizer(name, groups_of(small()), lr=0.1, **settings)


def test_switches_that_are_off_contradict_nothing():
    build_optimizer("adam", groups_of(small()), lr=0.1, nesterov=False)
    assert set(OPTIMIZER_SETTINGS) == set(SETTINGS)
    assert not skips_on_device(build_optimizer("sgd", groups_of(small()), lr=0.1, fused=False))
