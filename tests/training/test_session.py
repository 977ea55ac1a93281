import logging
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from ignite.engine import Events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fer_ignite import RunEvents, StepEvents, build_session, train
from fer_ignite.checkpoint.format import newest_valid, state_digest
from fer_ignite.errors import ConfigError, FolderInUseError, NonFiniteError
from fer_ignite.training.coordination import StopReason
from fer_ignite.training.events import REMOVAL_EFFECTS
from fer_ignite.training.session import global_random_state, restore_global_random_state, versions


@pytest.fixture
def made(tiny):
    sessions = []

    def make(handlers=(), **settings):
        sessions.append(build_session(tiny(**settings), handlers=handlers))
        return sessions[-1]

    yield make
    for session in sessions:
        session.close()


def history(session):
    return list(session.folder.read_history())


def test_a_session_runs_to_its_last_epoch(made):
    session = made()
    assert session.run() is StopReason.NONE
    assert (session.trainer.state.epoch, session.trainer.state.iteration) == (2, 8)
    # nothing left to do
    assert session.run() is StopReason.NONE and session.trainer.state.iteration == 8


def test_every_built_in_handler_can_be_taken_off_by_name(made):
    session = made()
    for name in ("history", "gradient_norm", "train_mode", "resume_points", "best"):
        session.handles[name].remove()
    session.run()
    assert history(session) == []
    assert list(session.folder.checkpoints.glob("*.pt")) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "event"),
    [
        ("trainer", Events.EPOCH_COMPLETED),
        ("trainer", RunEvents.VALIDATED),
        ("evaluator", Events.COMPLETED),
        ("trainer", Events.ITERATION_COMPLETED),
    ],
)
@pytest.mark.parametrize("on", ["step", "epoch"])
def test_what_a_user_logs_on_any_event_stands_in_the_same_epoch_s_line(made, engine, event, on):
    session = made()

    @getattr(session, engine).on(event)
    def note(_):
        session.log("mine", session.trainer.state.epoch, on=on, reduce="last")

    session.run()
    assert [line["mine"] for line in history(session)] == [1, 2]


def test_the_decisions_come_behind_the_user_s_handlers(made):
    session, order = made(patience=5), []
    best = session.folder.checkpoints / "best.pt"
    session.evaluator.add_event_handler(
        Events.COMPLETED, lambda: order.append(("metric", best.exists()))
    )
    session.trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: order.append(("user", len(history(session))))
    )
    session.trainer.add_event_handler(
        RunEvents.RESUME_POINT,
        lambda: order.append(("point", len(list(session.folder.checkpoints.glob("step-*.pt"))))),
    )
    session.run()
    assert order[:3] == [("metric", False), ("user", 0), ("point", 0)]
    assert order[3] == ("metric", True) and order[4:6] == [("user", 1), ("point", 1)]


def test_a_handler_may_replace_an_early_stopping_or_a_best_that_is_still_there(made):
    session, chosen = made(patience=1), []
    session.handles["best"].remove()
    session.evaluator.add_event_handler(
        Events.COMPLETED, lambda engine: chosen.append(engine.state.metrics["uar"])
    )
    session.run()
    assert len(chosen) == 2 and not (session.folder.checkpoints / "best.pt").exists()


def test_a_user_may_stop_the_run_and_a_resume_point_is_left(made):
    session = made(epochs=5)
    session.trainer.add_event_handler(StepEvents.OPTIMIZER_STEPPED(once=5), lambda: session.stop())
    assert session.run() is StopReason.HANDLER
    assert session.trainer.state.iteration == 6
    assert (session.folder.checkpoints / "step-6.pt").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize(
    "event", [Events.ITERATION_STARTED(once=6), Events.EPOCH_COMPLETED(once=2)]
)
def test_a_run_that_an_error_has_ended_continues_in_a_new_session_only(made, error, event):
    def end():
        raise error

    session = made(epochs=2)
    session.trainer.add_event_handler(event, end)
    with pytest.raises(error):
        session.run()
    with pytest.raises(
        ConfigError, match=f"ended by {error.__name__} at iteration .*name='run', resume='auto'"
    ):
        session.run()
    assert session.summary is None and session.folder.test_evaluations() == 0
    session.close()
    again = made(epochs=2, resume="auto")
    assert again.run() is StopReason.NONE and again.trainer.state.iteration == 8


def test_an_error_in_a_user_s_handler_ends_the_run_even_with_a_handler_on_exceptions(made):
    session, seen = made(), []
    session.trainer.add_event_handler(
        Events.EXCEPTION_RAISED, lambda engine, error: seen.append(error)
    )

    @session.trainer.on(Events.ITERATION_COMPLETED(once=2))
    def fails(engine):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        session.run()
    assert seen and session.trainer.state.iteration == 2


@pytest.mark.parametrize("event", [Events.COMPLETED, Events.ITERATION_COMPLETED])
def test_an_error_in_the_evaluator_ends_the_run_too(made, event):
    session = made()
    session.evaluator.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error: None)

    def fails(engine):
        raise KeyError("evaluating")

    session.evaluator.add_event_handler(event, fails)
    with pytest.raises(KeyError, match="evaluating"):
        session.run()


class Counter:
    def __init__(self):
        self.count = 0

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def counting(session):
    counter = Counter()

    @session.trainer.on(Events.ITERATION_COMPLETED)
    def count(engine):
        counter.count += 1

    return counter


def other_counting(session):
    return counting(session)


def test_a_handler_s_own_state_continues_after_a_resume(made):
    first = made([counting], epochs=2)
    first.run()
    first.close()
    second = made([counting], epochs=3, resume="auto")
    (counter,) = second.kept.values()
    assert counter.count == 8
    second.run()
    assert counter.count == 12


def test_a_handler_finds_its_state_also_where_the_others_are_gone(made):
    first = made([other_counting, counting], epochs=1)
    first.run()
    first.close()
    second = made([counting], epochs=2, resume="auto")
    (counter,) = second.kept.values()
    assert counter.count == 4
    second.run()
    assert "other_counting#0" in second.folder.log.read_text() and counter.count == 8


@pytest.mark.parametrize(
    "name", ["iteration", "lr", "is_best", "step_loss", "grad_norm", "train_loss", "val_mine"]
)
def test_the_epoch_s_own_columns_can_t_be_logged_over(made, name):
    session = made()
    with pytest.raises(ConfigError, match=f"'{name}'.*another name"):
        session.log(name, 1.0)


@pytest.mark.parametrize("method", ["terminate_epoch", "interrupt"])
def test_ends_that_other_processes_would_wait_at_are_refused(made, method):
    session = made()
    session.trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=2), lambda engine: getattr(engine, method)()
    )
    with pytest.raises(ConfigError, match=r"session\.stop\(\)"):
        session.run()


def test_user_code_draws_the_same_in_two_runs(made):
    drawn = []

    def draw(session):
        drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))

    for name in ("one", "two"):
        made([draw], name=name, seed=7)
    assert drawn[0] == drawn[1]


def test_a_second_run_of_a_session_scores_nothing(made):
    session = made()
    reason = session.run()
    summary, looks = session.summary, session.folder.test_access.read_text()
    assert session.run() is reason
    assert session.summary is summary and session.folder.test_access.read_text() == looks


def test_a_closed_session_gives_its_folder_and_its_log_free(tiny):
    for _ in range(2):  # the second would find the folder locked
        with build_session(tiny(exist_ok=True)) as session:
            session.run()
    assert not any(
        isinstance(handler, logging.FileHandler)
        for handler in logging.getLogger("fer_ignite").handlers
    )


def test_keep_refuses_what_has_no_state(made):
    session = made()
    with pytest.raises(ConfigError, match="int has no state_dict"):
        session.add_to_checkpoint("x", 3)
    assert session.add_to_checkpoint("y", Counter()).count == 0


def test_the_network_s_own_randomness_follows_from_the_iteration(made):
    session, drawn = made(), []
    session.trainer.add_event_handler(
        StepEvents.LOSS_READY, lambda: drawn.append(torch.rand(1).item())
    )
    # a user's draw changes nothing
    session.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: torch.rand(7))
    session.run()
    expected = []
    for iteration in range(1, 9):
        session.trainer.state.iteration = iteration
        session.reseed(session.trainer)
        expected.append(torch.rand(1).item())
    assert drawn == expected and len(set(drawn)) == 8


def test_frozen_batch_statistics_stay_as_they_are(made):
    session = made(freeze="*norm*")
    before = {
        name: value.clone()
        for name, value in session.model.state_dict().items()
        if "running" in name
    }
    session.run()
    after = session.model.state_dict()
    assert before and all(torch.equal(after[name], value) for name, value in before.items())


def test_the_global_random_states_are_plain_and_can_be_put_back():
    kept = global_random_state()
    first = (
        random.random(),
        np.random.rand(),
        torch.rand(1).item(),
        random.gauss(0, 1),
        np.random.randn(),
    )
    restore_global_random_state(kept)
    assert (
        random.random(),
        np.random.rand(),
        torch.rand(1).item(),
        random.gauss(0, 1),
        np.random.randn(),
    ) == first


def test_versions_name_what_numbers_depend_on():
    assert set(versions()) == {"fer_ignite", "python", "torch", "torchvision", "ignite", "numpy"}
    assert all(isinstance(value, str) and value for value in versions().values())


def test_validation_can_run_at_any_time(made):
    session = made()
    metrics = session.validate()
    assert 0 <= metrics["accuracy"] <= 1 and metrics["confusion_matrix"].sum() == 14


def test_validation_begins_anew_after_one_that_an_error_has_cut(made):
    session, evaluated = made(batch_size=8, eval_batch_size=8), []

    def fails(engine):
        raise KeyError("evaluating")

    with (
        session.evaluator.add_event_handler(Events.ITERATION_COMPLETED(once=1), fails),
        pytest.raises(KeyError),
    ):
        session.validate()
    assert session.val_metrics == {}
    session.evaluator.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: evaluated.append(len(engine.state.output["y"]))
    )
    assert session.validate()["confusion_matrix"].sum() == sum(evaluated) == 14


SETTINGS_OF_DECISIONS = {
    "epochs": 3,
    "patience": 9,
    "keep_best": 2,
    "sched": "plateau",
    "plateau_patience": 0,
    "min_delta": 1.0,
    "tensorboard": True,
}


def evaluating_train_too(session):
    """A common handler of Ignite users: the same evaluator over train, to compare the two."""
    loader = replace(session.val_loader, indices_N=session.dataset.indices["train"])

    @session.trainer.on(Events.EPOCH_COMPLETED)
    def evaluate(engine):
        found = session.evaluator.run(loader, epoch_length=len(loader)).metrics
        assert found["confusion_matrix"].sum() == 112
        found["gap"] = engine.state.epoch


@pytest.mark.slow
def test_an_evaluation_of_other_images_decides_and_reports_nothing(made):
    plain = made(name="plain", **SETTINGS_OF_DECISIONS)
    plain.run()
    session = made([evaluating_train_too], name="both", **SETTINGS_OF_DECISIONS)
    session.run()
    assert state_digest(session.model.state_dict()) == state_digest(plain.model.state_dict())
    for part in ("best_checkpoint", "top_checkpoints", "early_stopping", "plateau"):
        assert getattr(session, part).state_dict() == getattr(plain, part).state_dict()
    for line, expected in zip(history(session), history(plain), strict=True):
        # What the handler has put among the metrics is reported with those of val.
        assert line.pop("val_gap") == line["epoch"]
        assert {n: v for n, v in line.items() if n.startswith("val_")} == {
            n: v for n, v in expected.items() if n.startswith("val_")
        }
    assert session.val_metrics["confusion_matrix"].sum() == 14


def test_an_epoch_without_a_validation_reports_none(made, tmp_path):
    def every_second_epoch(session):
        session.handles["validate"].remove()
        session.trainer.add_event_handler(Events.EPOCH_COMPLETED(every=2), session.validate)

    session = made([every_second_epoch], epochs=3, tensorboard=True, plots=True)
    session.run()
    assert ["val_loss" in line for line in history(session)] == [False, True, False]
    assert session.best_checkpoint.best["epoch"] == 2 and session.val_metrics
    assert "could not be drawn" not in session.folder.log.read_text()
    session.close()
    events = EventAccumulator(str(session.folder.tensorboard))
    events.Reload()
    steps = {event.step for tag in ("val/loss", "recall/happy") for event in events.Scalars(tag)}
    assert steps == {2 * len(session.train_loader)}


def test_what_is_logged_behind_the_last_line_is_warned_about(made):
    def at_the_end(session):
        session.trainer.add_event_handler(Events.COMPLETED, lambda: session.log("late", 1.0))
        session.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: session.log("early", 1.0))

    session = made([at_the_end], epochs=1)
    session.run()
    assert "early" in history(session)[0] and "late" not in history(session)[0]
    assert "session.log('late', ...) comes behind the last" in session.folder.log.read_text()


@pytest.mark.parametrize("as_type", [np.float32, np.int64, torch.tensor])
def test_a_metric_of_numpy_or_torch_is_monitored_as_any_other(made, as_type):
    def rising(session):
        @session.evaluator.on(Events.COMPLETED)
        def give(engine):
            engine.state.metrics["my_auc"] = as_type(session.trainer.state.epoch)

    session = made([rising], epochs=3, monitor="my_auc", patience=1)
    assert session.run() is StopReason.NONE
    assert session.best_checkpoint.best["value"] == 3.0
    assert [line["val_my_auc"] for line in history(session)] == [1.0, 2.0, 3.0]


def test_without_the_scheduler_s_handle_the_rate_stays(made):
    session = made(sched="step", decay_epochs=0.25, tensorboard=True, lr=0.01)
    session.handles["scheduler"].remove()
    session.handles["tensorboard_val"].remove()
    session.run()
    assert {line["lr"] for line in history(session)} == {0.01}


# What differs from the plain run below when each built-in handler is removed; "refused" and "error" are ConfigErrors.
REMOVED = {
    "reseed": {"weights"},
    "scheduler": {"weights", "lr"},
    "plateau": {"weights", "lr"},
    "train_mode": set(),
    "backward": {"error"},
    "unscale": set(),
    "gradient_norm": {"logged"},
    "clip": {"weights"},
    "optimizer_step": {"weights"},
    "batchnorm_guard": set(),
    "ema": {"refused"},
    "sam": {"weights"},
    "top": set(),
    "swa": {"refused"},
    "zero_grad": {"weights"},
    "clear_metrics": {"train"},
    "log_step": {"logged"},
    "update_metrics": {"train"},
    "flush_metrics": set(),
    "reduce_metrics": {"refused"},
    "validate": {"val", "best", "weights", "lr"},
    "history": {"lines", "train", "val", "lr", "logged"},
    "plots": {"plots"},
    "tensorboard_val": set(),
    "tensorboard_train": set(),
    "tensorboard_recall": set(),
    "tensorboard_curves": set(),
    "tensorboard_confusion": set(),
    "tensorboard_lr": set(),
    "tensorboard_flush": set(),
    "best": {"best"},
    "early_stopping": set(),
    "resume_points": {"points"},
    "report": {"lines", "train", "val", "lr", "logged", "plots"},
    "record_step_taken": set(),
    "sync_iteration": set(),
    "sync_epoch": {"points"},
}
SEVERAL_PROCESSES = {"unused_parameters"}  # attached for these only
SWA = {"model_ema": False, "swa_start": 0.3}  # one average at a time
FULL = {
    "clip_grad": 0.5,
    "sam_rho": 0.05,
    "keep_best": 2,
    "model_ema": True,
    "plots": True,
    "tensorboard": True,
    "patience": 5,
    "log_every": 2,
    "sched": "plateau",
    "plateau_patience": 0,
    "min_delta": 1.0,
    "decay_rate": 0.5,
    "max_train_samples": 64,
    "epochs": 3,
    "model_args": {"widths": [8, 8], "blocks": [0, 0]},
    "dropout": 0.3,
}


def aspects(session):
    """What a run left behind, by aspect; each compares equal for equal runs."""
    lines, folder = history(session), session.folder
    learned = session.model.state_dict()
    return {
        "weights": state_digest(
            {name: value for name, value in learned.items() if "running" not in name}
        ),
        "lines": len(lines),
        "lr": [line["lr"] for line in lines],
        "train": [[line.get("train_loss"), line.get("train_accuracy")] for line in lines],
        "val": ["val_accuracy" in line for line in lines],
        "logged": [["grad_norm" in line, "step_loss" in line] for line in lines],
        "best": (folder.checkpoints / "best.pt").exists(),
        "points": len(list(folder.checkpoints.glob("step-*.pt"))),
        "plots": (folder.plots / "curves.png").exists(),
        "iterations": session.trainer.state.iteration,
        "skipped": int(session.trainer.state.skipped_steps),
    }


def test_every_built_in_handler_states_the_effect_of_its_removal(made):
    handles = set(made(**FULL).handles) | {"swa"}
    assert handles == set(REMOVED) == set(REMOVAL_EFFECTS) - SEVERAL_PROCESSES
    assert "swa" in made(**{**FULL, **SWA}, name="swa").handles
    assert all(text.endswith(".") for text in REMOVAL_EFFECTS.values())


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    from fer_ignite.config import check
    from tests.conftest import TINY

    with build_session(
        check({**TINY, "out": str(tmp_path_factory.mktemp("whole")), **FULL})
    ) as session:
        session.run()
        return aspects(session)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(REMOVED))
def test_removing_a_handler_has_its_documented_effect_and_no_other(made, whole_run, name):
    session = made(**{**FULL, **(SWA if name == "swa" else {})})
    if REMOVED[name] == {"refused"}:
        with pytest.raises(ConfigError, match="can't be removed"):
            session.handles[name].remove()
        return
    session.handles[name].remove()
    assert not session.is_attached(name)
    if REMOVED[name] == {"error"}:
        with pytest.raises(ConfigError, match="no parameter has a gradient"):
            session.run()
        return
    session.run()
    assert not session.is_attached(name)
    found = aspects(session)
    differing = {aspect for aspect, value in whole_run.items() if found[aspect] != value}
    if "weights" in differing:  # other weights have other training figures
        differing.discard("train")
    assert differing == REMOVED[name]


@pytest.mark.slow
def test_a_handler_that_needs_fp16_s_gradients_cleared_or_unscaled_says_so_or_unscales(made):
    session = made(name="cleared", precision="fp16")
    with pytest.raises(ConfigError, match=r"zero_grad.*fp16"):
        session.handles["zero_grad"].remove()
    digests = []
    for name in ("with", "without"):
        session = made(name=name, precision="fp16", clip_grad=0.5)
        if name == "without":
            session.handles["unscale"].remove()
        session.run()
        digests.append(state_digest(session.model.state_dict()))
    assert digests[0] == digests[1]
    session = made(name="no-step", precision="fp16")
    session.handles["optimizer_step"].remove()
    with pytest.raises(ConfigError, match=r"session\.scaler\.update"):
        session.run()


def test_fold_may_be_removed_with_the_resume_points(made):
    session = made()
    session.handles["resume_points"].remove()
    session.handles["reduce_metrics"].remove()
    session.run()
    assert len(history(session)) == 2


@pytest.mark.parametrize("sched", ["onecycle", "step"])
def test_without_the_scheduler_the_rate_is_the_one_set(made, sched):
    session = made(sched=sched, lr=0.01)
    session.handles["scheduler"].remove()
    session.run()
    assert {line["lr"] for line in history(session)} == {0.01}


def test_clipping_holds_without_the_norm_s_handler_in_a_run_and_after_a_resume(made):
    norms = []

    def measured(session):
        session.handles["gradient_norm"].remove()

        @session.trainer.on(StepEvents.OPTIMIZER_STEP)
        def note(engine):
            norms.append(
                torch.nn.utils.get_total_norm([p.grad for p in session.model.parameters()]).item()
            )

    first = made([measured], clip_grad=0.05, epochs=1)
    first.run()
    first.close()
    second = made(
        [measured], clip_grad=0.05, epochs=2, resume="auto", override="sched", sched="constant"
    )
    assert second.trainer.state.iteration == 4
    second.run()
    assert len(norms) == 8 and max(norms) <= 0.05 * 1.001 and min(norms) > 0.045


def test_with_stale_flags_gone_a_step_is_taken_after_the_norm_s_handler_is_removed(made):
    session = made()

    @session.trainer.on(StepEvents.OPTIMIZER_STEPPED(once=2))
    def remove(engine):
        engine.state.step_taken = torch.zeros((), dtype=torch.bool)
        session.handles["gradient_norm"].remove()

    taken = []
    session.trainer.add_event_handler(
        StepEvents.OPTIMIZER_STEP, lambda engine: taken.append(bool(engine.state.step_taken))
    )
    session.run()
    assert taken == [True] * 8


SAID = r"iteration \d+.*Lower --lr, set --clip-grad 1, or try --precision fp32"


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tta": "none"},
        {"precision": "bf16"},
        {"model_ema": True},
        {"momentum": 0.99},
        {"tensorboard": True},
        {"save_iterations": 1},
        {"grad_accum_steps": 2},
        {"monitor": "loss"},
        {"patience": 3},
        {"plots": True},
        {"epochs": 9},
    ],
    ids=str,
)
def test_a_run_that_diverges_ends_with_exit_code_3_and_says_where_and_what_to_try(tiny, settings):
    with pytest.raises(NonFiniteError, match=SAID) as ended:
        train(tiny(**{"opt": "sgd", "lr": 1000.0, "weight_decay": 0.1, "epochs": 4, **settings}))
    assert ended.value.exit_code == 3


def never_finite(of):
    """A handler that makes the loss of every step NaN: with its gradients, or beside finite ones."""

    def setup(session):
        def spoil(engine):
            engine.state.loss = (
                engine.state.loss * math.nan if of == "gradients" else engine.state.loss + math.nan
            )

        before = session.trainer.add_event_handler(StepEvents.LOSS_READY, spoil)
        session.trainer._event_handlers[
            StepEvents.LOSS_READY
        ].reverse()  # ahead of the backward pass
        return before

    return setup


@pytest.mark.slow
@pytest.mark.parametrize("of", ["gradients", "loss"])
@pytest.mark.parametrize(
    "epochs", [1, 2, 5]
)  # 4, 8 and 20 steps: fewer and more than --nonfinite-patience
def test_a_run_without_one_finite_step_fails_however_short_it_is(tiny, of, epochs):
    with pytest.raises(
        NonFiniteError, match="the loss or the gradients were not finite in.*" + SAID
    ):
        train(tiny(epochs=epochs), handlers=[never_finite(of)])


def test_weights_that_are_not_finite_never_reach_a_resume_point(tiny, tmp_path):
    def setup(session):
        @session.trainer.on(StepEvents.OPTIMIZER_STEPPED(once=6))
        def spoil(engine):
            next(session.model.parameters()).data.view(-1)[0] = math.inf

    with pytest.raises(
        NonFiniteError, match=r"weights are not finite at iteration 6.*no resume point was written"
    ):
        train(tiny(save_iterations=1), handlers=[setup])
    newest = newest_valid(tmp_path / "run" / "checkpoints")
    assert newest is not None and newest.path.name == "step-5.pt"
    assert all(value.isfinite().all() for value in newest.mapping["model"].values())


def test_a_single_step_that_is_not_taken_is_no_failure(tiny):
    def setup(session):
        @session.trainer.on(Events.ITERATION_STARTED(once=3))
        def spoil(engine):
            engine.state.batch.images_BCHW.fill_(math.nan)

    summary = train(tiny(tensorboard=True), handlers=[setup])
    assert (summary["status"], summary["skipped_steps"]) == ("completed", 1)


def test_a_second_session_in_the_same_folder_closes_the_first(tiny):
    first = build_session(tiny())
    second = build_session(tiny())
    second.run()
    second.close()
    first.close()
    with pytest.raises(FolderInUseError, match="holds a run"):
        build_session(tiny())
