import functools
from dataclasses import replace

import pytest
import torch

from fer_ignite import build_session
from fer_ignite.checkpoint.format import load_checkpoint
from fer_ignite.data.dataset import dataset_from_cache
from fer_ignite.data.open import find_cache
from fer_ignite.errors import ConfigError, FerError
from fer_ignite.training.components import (
    build_augment_spec,
    build_preprocessing,
    build_sampler,
    build_schedule_from_config,
)


@pytest.fixture
def faces(tiny):
    return dataset_from_cache(find_cache(tiny())[0])


@pytest.fixture
def wired(tiny):
    sessions = []

    def make(**settings):
        sessions.append(build_session(tiny(**settings)))
        return sessions[-1]

    yield make
    for session in sessions:
        session.close()


def test_the_preparation_is_the_data_s_unless_settings_say_otherwise(tiny, faces):
    plain = build_preprocessing(tiny(), faces)
    assert (plain.image_px, plain.resize_px, plain.channels, plain.mean) == (48, 48, 1, faces.mean)
    cropped = build_preprocessing(tiny(image_size=32, resize=40, normalize="imagenet"), faces)
    assert (cropped.image_px, cropped.resize_px) == (32, 40)
    assert cropped.mean == pytest.approx(((0.485 + 0.456 + 0.406) / 3,))


def test_the_data_decides_how_other_images_than_squares_are_resized(tiny, faces):
    cropped = replace(faces, resize_mode="crop")
    assert build_preprocessing(tiny(), cropped).resize_mode == "crop"


def test_finished_tensors_decide_the_side_of_the_input(tiny, faces):
    tensors = replace(faces, cache=None, finished=True, side_px=40)
    assert build_preprocessing(tiny(), tensors).image_px == 40
    assert build_preprocessing(tiny(image_size=40), tensors).image_px == 40
    for settings in ({"image_size": 48}, {"image_size_schedule": "32:0.5,40"}):
        with pytest.raises(ConfigError, match="finished tensors of 40 px, which are not resized"):
            build_preprocessing(tiny(**settings), tensors)


def test_augmentation_is_taken_as_set_or_not_at_all(tiny):
    assert build_augment_spec(tiny(augment=False)) is None
    spec = build_augment_spec(tiny(rotate=7, mixup=0.3, padding="border"))
    assert (spec.rotate_deg, spec.mixup, spec.padding, spec.vflip) == (7, 0.3, "border", 0)


def test_a_trial_run_takes_three_batches(tiny, faces):
    assert build_sampler(tiny(fast_dev_run=True, batch_size=16), faces).iterations_per_epoch == 3
    assert build_sampler(tiny(max_train_samples=40), faces).faces_per_epoch == 40


def test_the_schedule_counts_optimizer_steps(tiny):
    schedule = build_schedule_from_config(
        tiny(sched="step", decay_epochs=1, decay_rate=0.5, epochs=3), steps_per_epoch=4
    )
    assert [schedule(step) for step in range(12)] == [1] * 4 + [0.5] * 4 + [0.25] * 4


def rates(session):
    seen = []
    from ignite.engine import Events

    session.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: seen.append(session.optimizer.param_groups[0]["lr"])
    )
    session.run()
    return seen


def test_the_rate_changes_at_the_first_micro_batch_of_a_group(wired):
    # 2 windows of 2
    seen = rates(wired(sched="cosine", epochs=1, batch_size=64, grad_accum_steps=2, lr=0.1))
    assert seen[0] == seen[1] == pytest.approx(0.1) and seen[2] == seen[3] == pytest.approx(0.05)


@pytest.mark.parametrize("sched", ["exponential", "plateau"])
def test_the_lowest_rate_holds_for_a_user_s_own_optimizer_too(tiny, sched):
    settings = {"plateau_patience": 0, "min_delta": 1.0} if sched == "plateau" else {}
    settings |= {"epochs": 3, "batch_size": 128, "decay_rate": 1e-3, "min_lr": 1e-3}
    own = functools.partial(torch.optim.SGD, lr=0.1)
    with build_session(tiny(sched=sched, lr=0.003, **settings), optimizer=own) as session:
        assert min(rates(session)) == pytest.approx(1e-3)


def test_a_user_s_own_optimizer_keeps_its_weight_decay_but_on_norms_and_biases(tiny):
    own = functools.partial(torch.optim.SGD, lr=0.1, weight_decay=0.01)
    with build_session(tiny(weight_decay=0.0), optimizer=own) as session:
        decays = {group["name"]: group["weight_decay"] for group in session.optimizer.param_groups}
    assert decays == {
        "backbone": 0.01,
        "backbone_no_decay": 0.0,
        "head": 0.01,
        "head_no_decay": 0.0,
    }


def test_plateau_lowers_the_rate_when_the_monitored_metric_stands_still(wired):
    session = wired(
        sched="plateau",
        plateau_patience=0,
        decay_rate=0.5,
        epochs=4,
        lr=1e-9,
        batch_size=128,
        min_delta=0.9,
    )
    assert rates(session) == pytest.approx([1e-9, 1e-9, 5e-10, 2.5e-10])


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, None),
        ({"clip_grad": 1.0}, "clip"),
        ({"patience": 2}, "early_stopping"),
        ({"plots": True}, "plots"),
        ({"model_ema": True}, "ema"),
    ],
)
def test_a_behaviour_is_attached_where_a_setting_asks_for_it(wired, settings, kind):
    handles = set(wired(**settings).handles)
    everyday = {
        "reseed",
        "train_mode",
        "backward",
        "unscale",
        "gradient_norm",
        "optimizer_step",
        "zero_grad",
        "validate",
        "history",
        "best",
        "resume_points",
        "report",
        "record_step_taken",
        "sync_iteration",
        "sync_epoch",
        "batchnorm_guard",
        "log_step",
        "scheduler",
        "clear_metrics",
        "update_metrics",
        "flush_metrics",
        "reduce_metrics",
    }
    assert handles == everyday | ({kind} if kind else set())


def test_an_average_of_the_weights_is_what_evaluation_uses(wired):
    session = wired(model_ema=True)
    assert session.evaluated is session.ema.ema_model and session.evaluated is not session.model
    plain = wired(name="plain")
    assert plain.evaluated is plain.model


def test_validation_losses_are_plain_cross_entropy_whatever_was_trained(wired):
    """Scores of runs with other smoothing or losses can be compared."""
    losses = [
        wired(name=f"n{i}", **settings).validate()["loss"]
        for i, settings in enumerate([{}, {"loss": "focal"}, {"smoothing": 0.5}])
    ]
    assert len(set(losses)) == 1


@pytest.mark.parametrize("loss", ["ce", "focal", "soft", "bce", "ce+0.5*focal"])
def test_every_loss_trains(wired, loss):
    session = wired(loss=loss, epochs=1, class_weights="balanced")
    session.run()
    line = next(iter(session.folder.read_history()))
    assert line["train_loss"] > 0
    assert ("train_focal" in line) == ("+" in loss)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize(
    "settings",
    [{"model_ema": True}, {"mixup": 0.4, "cutmix": 0.2}, {"channels_last": False, "norm": "group"}],
)
def test_other_ways_to_train_work_together(wired, precision, settings):
    session = wired(precision=precision, epochs=1, **settings)
    session.run()
    assert session.trainer.state.iteration == 4
    assert all(torch.isfinite(p).all() for p in session.model.parameters())


def test_init_from_takes_up_the_weights_of_another_run(wired, finished_run, capsys):
    best = finished_run / "checkpoints" / "best.pt"
    session = wired(init_from=str(best))
    kept = load_checkpoint(best)["model"]
    assert all(torch.equal(value, kept[name]) for name, value in session.model.state_dict().items())
    assert "loaded" in session.folder.log.read_text()


def test_init_from_another_network_is_refused_unless_gaps_are_allowed(wired, finished_run):
    best = str(finished_run / "checkpoints" / "best.pt")
    other = {"model_args": {"widths": [8, 16], "blocks": [0, 0]}, "init_from": best}
    with pytest.raises(FerError, match="--no-strict"):
        wired(**other)
    session = wired(name="gaps", strict=False, **other)
    assert "[16] here" in session.folder.log.read_text()


def test_a_frozen_part_does_not_learn(wired):
    session = wired(freeze="head", weight_decay=0.1)
    before = {name: value.clone() for name, value in session.model.named_parameters()}
    session.run()
    changed = {
        name
        for name, value in session.model.named_parameters()
        if not torch.equal(value, before[name])
    }
    assert changed and not any(name.startswith("head") for name in changed)


@pytest.mark.parametrize("sched", ["constant", "plateau"])
def test_a_monitor_that_is_no_metric_is_refused_with_those_that_are(wired, sched):
    session = wired(monitor="top5_accuracy", sched=sched)
    with pytest.raises(
        ConfigError, match=r"--monitor 'top5_accuracy' is no metric.*there are.*uar"
    ):
        session.run()


def test_parameters_are_frozen_before_the_network_is_wrapped_for_several_processes(
    wired, monkeypatch
):
    """DistributedDataParallel would wait for the gradients of parameters that are frozen later."""
    trained = []

    def note(model, config):
        trained.extend(name for name, p in model.named_parameters() if p.requires_grad)
        return model

    monkeypatch.setattr("fer_ignite.training.build._distributed_model", note)
    wired(freeze="head", weight_decay=0.1)
    assert trained and not any(name.startswith("head") for name in trained)
