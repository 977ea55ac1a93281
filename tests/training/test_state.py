import json
import logging
import signal
from pathlib import Path

import pytest
import torch
from ignite.engine import Events

from fer_ignite import build_session, train
from fer_ignite.checkpoint.format import load_checkpoint, require_resumable, state_digest
from fer_ignite.errors import ConfigError, FerError
from fer_ignite.training.coordination import StopReason
from fer_ignite.training.state import evaluation_state, restore, resume_state

RICH = {
    "model_ema": True,
    "patience": 9,
    "sched": "plateau",
    "precision": "fp16",
    "mixup": 0.3,
    "dropout": 0.1,
}


@pytest.fixture
def made(tiny):
    sessions = []

    def make(**settings):
        sessions.append(build_session(tiny(**settings)))
        return sessions[-1]

    yield make
    for session in sessions:
        session.close()


def digest(session):
    parts = {
        "model": session.model,
        "optimizer": session.optimizer,
        "scaler": session.scaler,
        "scheduler": session.scheduler,
    }
    if session.ema is not None:
        parts["ema"] = session.ema.ema_model
    return state_digest({name: part.state_dict() for name, part in parts.items()})


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, RICH], ids=["plain", "rich"])
@pytest.mark.parametrize("cut", [1, 4, 6])
def test_a_run_that_was_cut_anywhere_ends_as_the_whole_one(made, settings, cut):
    whole = made(name="whole", **settings)
    whole.run()
    first = made(name="cut", **settings)
    first.coordinator.signal_number = lambda: (
        signal.SIGTERM if first.trainer.state.iteration >= cut else 0
    )
    first.run()
    stopped = first.trainer.state.iteration
    assert cut <= stopped <= cut + 1
    second = made(name="second", **settings)
    restore(second, load_checkpoint(first.folder.checkpoints / f"step-{stopped}.pt"))
    assert second.trainer.state.iteration == stopped
    second.run()
    assert digest(second) == digest(whole)
    assert second.trainer.state.iteration == whole.trainer.state.iteration == 8


@pytest.mark.slow
def test_a_resume_point_has_the_whole_schema_and_a_best_only_what_evaluation_needs(made):
    session = made(**RICH)
    session.run()
    point, best = (
        load_checkpoint(session.folder.checkpoints / name) for name in ("last.pt", "best.pt")
    )
    require_resumable(point)
    assert set(resume_state(session)) <= set(point)
    assert set(evaluation_state(session)) <= set(best) and "optimizer" not in best
    assert point["classes"] == list(session.dataset.classes) and point["outcome"] == "completed"
    assert point["data"]["counts"] == {"train": 112, "val": 14, "test": 14}
    json.dumps(point["config"])


def test_a_scaler_of_another_precision_starts_from_scratch_with_a_warning(made, caplog):
    first = made(name="fp32")
    first.run()
    second = made(name="fp16", precision="fp16")
    logging.getLogger("fer_ignite").propagate = True
    with caplog.at_level("WARNING", logger="fer_ignite"):
        restore(second, load_checkpoint(first.folder.checkpoints / "last.pt"))
    assert "loss scaler starts from its initial state" in caplog.text
    assert second.scaler.get_scale() == 65536


def test_files_are_cut_back_to_the_resume_point(made):
    first = made(epochs=3)
    first.run()
    path = first.folder.checkpoints / "step-8.pt"
    first.close()
    second = made(epochs=3, exist_ok=False, resume=str(path))
    assert second.trainer.state.iteration == 8
    assert [line["iteration"] for line in second.folder.read_history()] == [4, 8]


def test_weights_come_back_as_they_were_saved(made):
    first = made()
    first.run()
    stored = load_checkpoint(first.folder.checkpoints / "last.pt")["model"]
    assert all(torch.equal(value, stored[name]) for name, value in first.model.state_dict().items())


def test_a_run_whose_epochs_have_another_length_is_not_gone_on_with(made):
    first = made(name="first")
    first.run()
    second = made(name="second", batch_size=16, epochs=9)
    with pytest.raises(ConfigError, match=r"has 4 iterations, and 7 .*--init-from"):
        restore(second, load_checkpoint(first.folder.checkpoints / "last.pt"))


def test_going_on_takes_away_the_summary_of_an_end_that_is_none_any_more(tiny):
    folder = Path(train(tiny(epochs=1))["folder"])

    def fail(session):
        assert not session.folder.summary.exists() or session.resumed is None
        session.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=6), lambda: 1 / 0)

    with pytest.raises(FerError):
        train(tiny(epochs=2, resume="auto", override=("epochs", "sched")), handlers=[fail])
    assert not (folder / "summary.json").exists()
    assert (
        train(tiny(epochs=2, resume="auto"))["status"]
        == json.loads((folder / "summary.json").read_text())["status"]
        == "completed"
    )


def resumed(made, before, **settings):
    first = made(name="first", **before)
    first.run()
    second = made(name="second", **{**before, **settings})
    with second.own_state():  # its log
        restore(second, load_checkpoint(first.folder.checkpoints / "last.pt"))
    return first, second


def test_under_another_metric_the_best_is_chosen_again(made, capfd):
    """An accuracy of 0.65 as best score would keep every loss from being better, for ever."""
    first, second = resumed(made, {"patience": 9}, monitor="loss", epochs=3)
    assert "--monitor was accuracy" in capfd.readouterr().err
    assert (
        first.best_checkpoint.best["value"] is not None
        and second.best_checkpoint.best["value"] is None
    )
    second.run()
    assert second.best_checkpoint.best["epoch"] == 3 and second.early_stopping.counter == 0


def test_under_another_metric_the_rate_stays_lowered_and_the_old_best_files_go(made):
    settings = {"sched": "plateau", "plateau_patience": 0, "min_delta": 1.0, "keep_best": 2}
    first = made(**settings)
    first.run()
    kept, checkpoints = first.plateau.state_dict(), first.folder.checkpoints
    assert kept["value"] == pytest.approx(0.1) and sorted(checkpoints.glob("best-*.pt"))
    first.close()
    second = made(**settings, monitor="uar", epochs=3, resume="auto")
    assert second.plateau.value == kept["value"]
    assert second.plateau.state_dict()["last_epoch"] == 0  # its evaluations are counted again
    second.run()
    assert [path.name for path in checkpoints.glob("best-*.pt")] == ["best-12.pt"]


def test_what_is_set_of_an_optimizer_is_as_it_is_set_now_and_what_it_learned_comes_back(made):
    first, second = resumed(
        made, {"opt": "adamw", "weight_decay": 0.1}, weight_decay=0.3, betas=(0.8, 0.999), epochs=3
    )
    groups = second.optimizer.param_groups
    assert {group["weight_decay"] for group in groups} <= {0.0, 0.3} and any(
        group["weight_decay"] == 0.3 for group in groups
    )
    assert all(group["betas"][0] == 0.8 for group in groups)
    moments = [
        optimizer.state_dict()["state"][0]["exp_avg"]
        for optimizer in (first.optimizer, second.optimizer)
    ]
    assert torch.equal(*moments) and moments[0].any()


@pytest.mark.slow
def test_another_optimizer_starts_from_scratch_with_a_warning(made, capfd):
    _, second = resumed(made, {"opt": "adamw"}, opt="sgd", epochs=3)
    assert (
        "the optimizer starts from its initial state, without its moments: adamw is now sgd"
        in capfd.readouterr().err
    )
    second.run()
    assert second.trainer.state.iteration == 12


def test_an_average_that_is_new_starts_at_the_weights(made):
    first, second = resumed(made, {}, model_ema=True, epochs=3)
    average = second.ema.ema_model.state_dict()
    assert all(
        torch.equal(value, average[name]) for name, value in first.model.state_dict().items()
    )


@pytest.mark.slow
def test_a_signal_beside_an_early_stop_costs_no_step_more(made):
    """The signal outranks the stop request; the resumed run finds the request in the resume point and ends at once."""

    def ended(name, number):
        session = made(name=name, epochs=9)
        session.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), session.trainer.terminate)
        session.coordinator.signal_number = lambda: (
            number
            if session.trainer.state.epoch >= 2 and session.trainer.state.stop_requested
            else 0
        )
        return session, session.run()

    whole, reason = ended("whole", 0)
    assert reason is StopReason.HANDLER and whole.trainer.state.iteration == 8
    cut, reason = ended("cut", signal.SIGTERM)
    assert reason is StopReason.SIGTERM and cut.trainer.state.iteration == 8
    again = made(name="again", epochs=9)
    restore(again, load_checkpoint(cut.folder.checkpoints / "last.pt"))
    assert again.run() is StopReason.HANDLER
    assert digest(again) == digest(whole) and again.trainer.state.iteration == 8


def test_a_refused_resume_leaves_the_configuration_as_it_was(tiny):
    folder = Path(train(tiny(epochs=1))["folder"])
    before = (folder / "config.yaml").read_bytes()
    with pytest.raises(ConfigError, match="iterations"):
        train(tiny(epochs=3, batch_size=16, resume="auto", override=("batch_size", "sched")))
    assert (folder / "config.yaml").read_bytes() == before


def scores_of(*values):
    """A handler that gives the evaluations' accuracies, by epoch."""

    def setup(session):
        @session.evaluator.on(Events.COMPLETED)
        def give(engine):
            engine.state.metrics["accuracy"] = values[session.trainer.state.epoch - 1]

    return setup


FALLING = scores_of(0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1)


def stopped_early(tiny, handler=FALLING, **settings):
    summary = train(tiny(patience=2, epochs=8, **settings), handlers=[handler])
    # epoch 1 is the best, 2 and 3 bring nothing
    assert (summary["status"], summary["epochs"]) == ("early_stopped", 3)
    return summary


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patience", "epochs", "status"),
    [(4, 5, "early_stopped"), (3, 4, "early_stopped"), (0, 8, "completed")],
)
def test_a_run_that_stopped_early_continues_under_more_patience(tiny, patience, epochs, status):
    stopped_early(tiny)
    summary = train(tiny(patience=patience, epochs=8, resume="auto"), handlers=[FALLING])
    assert (summary["status"], summary["epochs"]) == (status, epochs)
    assert summary["best"]["epoch"] == 1


@pytest.mark.slow
def test_more_patience_gives_the_network_that_it_would_have_given_from_the_start(tiny):
    whole = train(tiny(name="whole", patience=4, epochs=8), handlers=[FALLING])
    stopped_early(tiny)
    assert (
        train(tiny(patience=4, epochs=8, resume="auto"), handlers=[FALLING])["weights_sha256"]
        == whole["weights_sha256"]
    )


@pytest.mark.parametrize("patience", [1, 2])
def test_no_more_patience_than_was_used_up_leaves_nothing_to_do(tiny, patience):
    stopped_early(tiny)
    before = json.loads(Path(tiny().out, "run", "summary.json").read_text())
    summary = train(tiny(patience=patience, epochs=8, resume="auto"), handlers=[FALLING])
    assert (summary["epochs"], summary["finished"]) == (3, before["finished"])


def test_patience_does_not_revive_a_run_that_its_user_s_handler_stopped(tiny):
    def stop(session):
        session.trainer.add_event_handler(
            Events.EPOCH_COMPLETED(once=2), lambda engine: session.stop()
        )

    train(tiny(patience=5, epochs=8), handlers=[stop])
    assert train(tiny(patience=9, epochs=8, resume="auto"))["epochs"] == 2


def test_more_patience_on_a_run_killed_before_its_summary_continues_too(tiny):
    folder = Path(stopped_early(tiny)["folder"])
    (folder / "summary.json").unlink()
    assert train(tiny(patience=4, epochs=8, resume="auto"), handlers=[FALLING])["epochs"] == 5
