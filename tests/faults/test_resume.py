"""Wherever a run was cut, the resumed one ends as the uninterrupted one: weights, history, scalars, best."""

import importlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Events

from fer_ignite.api import train

support = importlib.import_module("support")  # conftest.py has put this folder on the path
handlers = importlib.import_module("handlers")
HERE = Path(__file__).parent

LOADER = {"sample_transform": f"{HERE}/handlers.py:shaken", "augment": False, "normalize": "train"}
VARIANTS: dict[str, dict[str, Any]] = {
    "accumulation": {"grad_accum_steps": 4, "save_iterations": 3},
    "plateau": {"sched": "plateau", "warmup_epochs": 0, "plateau_patience": 0, "lr": 0.03},
    "mixup_cutmix": {"mixup": 0.4, "cutmix": 1.0, "logit_adjustment": 0.5},
    "balanced": {"sampler": "balanced"},
    "loader": LOADER,
    "batch_norm_sgd": {"norm": "batch", "opt": "sgd", "lr": 0.05, "clip_grad": 1.0},
    "dropout_rmsprop": {
        "dropout": 0.5,
        "opt": "rmsprop",
        "lr": 0.001,
        "sched": "step",
        "decay_epochs": 1,
    },
    "fp16": {"precision": "fp16", "nonfinite_patience": 50},
    "erasing_letterbox": {
        "reprob": 0.5,
        "blur": 1.0,
        "noise": 0.1,
        "brightness": 0.3,
        "contrast": 0.3,
        "loss": "ce+0.5*focal",
        "sched": "onecycle",
        "warmup_epochs": 0,
    },
    "early_stopping": {"patience": 1, "lr": 0.3},
    "muon": {"opt": "muon", "lr": 0.003},
    "sam": {"sam_rho": 0.05, "dropout": 0.3, "norm": "batch"},
    "swa": {"swa_start": 0.3, "model_ema": False, "norm": "batch"},
    "resizing": {"image_size_schedule": "32:0.3,40:0.6,48", "mixup": 0.4, "keep_best": 2},
}


def snapshots_of(run: Path, to: Path):
    """A handler that copies the run's folder whenever the next iteration begins: what SIGKILL would leave there."""

    def setup(session):
        @session.trainer.on(Events.GET_BATCH_STARTED)
        def copy(engine):
            shutil.copytree(run, to / str(engine.state.iteration))

    return setup


def cut_and_resumed(
    faces: Path, tmp_path: Path, points: list[int], extra=(), **changed: Any
) -> None:
    """Asserts that the run, cut after each of ``points`` iterations, ends as it does uncut."""
    changed = {"save_iterations": 1, "tensorboard": True, **changed}
    (tmp_path / "at").mkdir()
    config = support.config_of(faces, tmp_path, **changed)
    train(config, handlers=[*extra, snapshots_of(tmp_path / "run", tmp_path / "at")])
    uncut = support.final(tmp_path / "run")
    for point in points:
        if not (tmp_path / "at" / str(point)).exists():
            continue  # the run has stopped before
        support.as_killed_after(tmp_path / "at", point, tmp_path / f"from-{point}")
        train(
            support.config_of(faces, tmp_path / f"from-{point}", **changed, resume="auto"),
            handlers=extra,
        )
        resumed = support.final(tmp_path / f"from-{point}" / "run")
        assert resumed == uncut, (
            f"cut after iteration {point}: {[key for key in uncut if uncut[key] != resumed[key]]}"
        )


@pytest.mark.slow
def test_a_run_cut_within_an_epoch_or_at_its_end_ends_as_the_uncut_one(faces, tmp_path):
    cut_and_resumed(faces, tmp_path, [3, 7])


@pytest.mark.slow
def test_a_run_cut_at_any_of_its_iterations_ends_as_the_uncut_one(faces, tmp_path):
    cut_and_resumed(faces, tmp_path, list(range(support.STEPS)))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["accumulation", "mixup_cutmix", "batch_norm_sgd"])
def test_many_ways_to_train_can_be_cut(faces, tmp_path, variant):
    cut_and_resumed(faces, tmp_path, [10 if variant != "accumulation" else 5], **VARIANTS[variant])


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_way_to_train_can_be_cut_anywhere(faces, tmp_path, variant):
    points = (
        [1, 6, 7, 8, 13, 17, 20] if variant != "accumulation" else [3, 6, 13, 26, 27, 29, 50, 77]
    )
    if variant == "fp16":  # which CPUs compute slowly
        points = [6, 8]
    cut_and_resumed(faces, tmp_path, points, **VARIANTS[variant])


@pytest.mark.slow
def test_a_run_with_a_teacher_can_be_cut(faces, tmp_path):
    train(support.config_of(faces, tmp_path / "teacher", epochs=1))
    teacher = (str(tmp_path / "teacher" / "run"),)
    cut_and_resumed(faces, tmp_path, [6, 14], teacher=teacher, mixup=0.3)


@pytest.mark.slow
def test_loader_processes_change_nothing(faces, tmp_path):
    cut_and_resumed(faces, tmp_path, [5, 14, 16], workers=2, **LOADER)


@pytest.mark.slow
def test_handlers_with_state_go_on_where_they_were(faces, tmp_path):
    cut_and_resumed(faces, tmp_path, [2, 11], extra=[handlers.keep_diary])


@pytest.mark.slow
def test_a_run_saved_once_an_epoch_repeats_what_was_lost(faces, tmp_path):
    cut_and_resumed(faces, tmp_path, [4, 9, 20], save_iterations=None)


@pytest.mark.slow
def test_a_run_killed_before_its_first_resume_point_starts_from_scratch_with_no_line_twice(
    faces, tmp_path
):
    cut_and_resumed(faces, tmp_path, [9], save_iterations=None, save_epochs=2)


@pytest.mark.slow
def test_a_worse_epoch_after_a_resume_leaves_the_best_checkpoint_alone(
    faces, tmp_path, monkeypatch
):
    (tmp_path / "at").mkdir()
    monkeypatch.setenv("FER_TEST_SCORES", "[0.2, 0.9, 0.8]")  # the second epoch's is the best
    changed = {"save_iterations": 1, "monitor": "made_up", "monitor_mode": "max"}
    config = support.config_of(faces, tmp_path, **changed)
    summary = train(
        config, handlers=[handlers.score, snapshots_of(tmp_path / "run", tmp_path / "at")]
    )
    assert summary["best"]["epoch"] == 2
    run = support.as_killed_after(tmp_path / "at", 15, tmp_path / "resumed")
    before = support.without_temperature(run / "checkpoints" / "best.pt")
    again = train(
        support.config_of(faces, tmp_path / "resumed", **changed, resume="auto"),
        handlers=[handlers.score],
    )
    assert again["best"] == summary["best"]
    assert support.without_temperature(run / "checkpoints" / "best.pt") == before


@pytest.mark.slow
def test_a_run_that_continues_in_another_folder_and_finds_no_better_network_scores_its_last_one(
    faces, tmp_path, monkeypatch
):
    # the first epoch's is the best, and its best.pt stays behind
    monkeypatch.setenv("FER_TEST_SCORES", "[0.9, 0.8, 0.7]")
    changed = {"save_iterations": 1, "monitor": "made_up", "monitor_mode": "max"}
    train(support.config_of(faces, tmp_path, **changed), handlers=[handlers.score])
    point = str(support.newest(tmp_path / "run").with_name("step-20.pt"))
    summary = train(
        support.config_of(faces, tmp_path / "elsewhere", **changed, resume=point),
        handlers=[handlers.score],
    )
    assert (summary["status"], summary["iterations"], summary["best"]["epoch"]) == (
        "completed",
        support.STEPS,
        1,
    )
    assert summary["val"]["n"] == support.VAL
    assert "best.pt isn't here" in (tmp_path / "elsewhere" / "run" / "log.txt").read_text()


def test_a_handlers_stop_request_survives_a_kill(faces, tmp_path):
    def stop_at_ten(session):
        session.trainer.add_event_handler(
            Events.ITERATION_COMPLETED(once=10), lambda: session.stop()
        )

    (tmp_path / "at").mkdir()
    setups = [stop_at_ten, snapshots_of(tmp_path / "run", tmp_path / "at")]
    train(support.config_of(faces, tmp_path, save_iterations=1), handlers=setups)
    uncut = support.final(tmp_path / "run")
    assert uncut["file"] == "step-11.pt"
    support.as_killed_after(tmp_path / "at", 10, tmp_path / "resumed")
    train(
        support.config_of(faces, tmp_path / "resumed", save_iterations=1, resume="auto"),
        handlers=[stop_at_ten],
    )
    assert support.final(tmp_path / "resumed" / "run") == uncut
