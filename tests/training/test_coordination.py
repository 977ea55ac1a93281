import math
import signal
import time

import pytest
import torch
from ignite.engine import Engine, Events

from fer_ignite.errors import ConfigError, NonFiniteError
from fer_ignite.training.coordination import StopCoordinator, StopReason, coordination_handlers
from fer_ignite.training.early_stopping import attach_early_stopping
from fer_ignite.training.events import RunEvents
from fer_ignite.training.monitor import finite_score, lower_is_better


def voting(made, **settings):
    coordinator = StopCoordinator(made.trainer, **settings)
    for _, event, handler in coordination_handlers(coordinator):
        made.trainer.add_event_handler(event, handler)
    saved = []
    made.trainer.add_event_handler(
        RunEvents.RESUME_POINT, lambda engine: saved.append(engine.state.iteration)
    )
    return coordinator, saved


def run(made, batches, epochs=1):
    return made.trainer.run(batches, max_epochs=epochs, epoch_length=len(batches))


@pytest.mark.parametrize(
    ("value", "lower", "score"),
    [
        (0.5, False, 0.5),
        (0.5, True, -0.5),
        (math.nan, False, -math.inf),
        (math.nan, True, -math.inf),
        (math.inf, False, -math.inf),
        (-math.inf, True, -math.inf),
        (torch.ones(2, 2), False, -math.inf),
    ],
)
def test_what_is_not_finite_is_the_worst_score(value, lower, score):
    assert finite_score(value, lower_is_better=lower) == score


def test_losses_and_errors_are_better_when_lower():
    assert [
        lower_is_better(name)
        for name in ("loss", "val_loss", "my_error", "accuracy", "uar", "worst_recall")
    ] == [True, True, True, False, False, False]
    assert lower_is_better("nll", "min") and not lower_is_better("loss", "max")
    for unknown in ("nll", "ece", "lossless"):
        with pytest.raises(ConfigError, match="--monitor-mode max, or min"):
            lower_is_better(unknown)


def stopped_after(scores, **settings):
    """Epochs that a run with these scores lasts."""
    scores = [finite_score(score, lower_is_better=False) for score in scores]
    trainer, evaluator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
    settings = {"patience": 2, "min_delta": 0.0, **settings}
    attach_early_stopping(
        trainer, evaluator, score=lambda engine: scores[trainer.state.epoch - 1], **settings
    )
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run([0]))
    return trainer.run([0], max_epochs=len(scores)).epoch


@pytest.mark.parametrize(
    ("scores", "settings", "epochs"),
    [
        ([1, 2, 3, 4, 5], {}, 5),
        ([3, 2, 1, 5, 6], {}, 3),
        ([1, 1, 1, 1], {}, 3),  # equal is no gain
        # NaN is one evaluation without gain, and no new best
        ([1, 2, math.nan, 3, 4, 4, 4, 9], {}, 7),
        ([math.nan, math.nan, 1, 2, 3], {}, 5),
        ([math.nan, math.nan, math.nan, 1, 2], {}, 3),
        ([1, 1.05, 1.2, 1.25, 1.28, 2], {"min_delta": 0.1}, 5),
        ([3, 2, 4, 2, 5], {"patience": 1}, 2),
    ],
)
def test_early_stopping_waits_for_patience_evaluations_without_gain(scores, settings, epochs):
    assert stopped_after(scores, **settings) == epochs


def test_a_stop_request_is_executed_an_iteration_later_with_a_resume_point(steps, batches):
    made = steps()
    coordinator, saved = voting(made)
    made.trainer.add_event_handler(
        Events.ITERATION_STARTED(once=3), lambda engine: engine.terminate()
    )
    state = run(made, [batches(4)] * 10)
    assert state.iteration == 4 and saved == [4]
    assert coordinator.reason is StopReason.HANDLER and coordinator.status == "early_stopped"


def test_a_stop_waits_for_the_end_of_the_accumulation_group(steps, batches):
    made = steps()
    window = [
        batches(4, window=12, is_last_micro=False),
        batches(4, window=12, is_first_micro=False, is_last_micro=False),
        batches(4, window=12, is_first_micro=False),
    ]
    _votes, saved = voting(made)
    made.trainer.add_event_handler(
        Events.ITERATION_STARTED(once=3), lambda engine: engine.terminate()
    )
    state = run(made, window * 4)
    assert state.iteration == 6 and saved == [6]  # voted in 3, read in 4, window closes at 6
    assert state.optimizer_steps == 2


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGINT, StopReason.SIGINT), (signal.SIGTERM, StopReason.SIGTERM)]
)
def test_a_signal_is_a_reason_of_its_own(steps, batches, number, reason):
    made = steps()
    coordinator, saved = voting(
        made, signal_number=lambda: number if made.trainer.state.iteration >= 2 else 0
    )
    state = run(made, [batches(4)] * 10)
    assert coordinator.reason is reason and coordinator.status == "interrupted"
    assert saved == [state.iteration] and state.iteration == 3


def test_the_time_limit_ends_a_run_in_good_order(steps, batches):
    made = steps()
    coordinator, saved = voting(made, time_limit_s=0.0)
    time.sleep(0.01)
    state = run(made, [batches(4)] * 10)
    assert coordinator.status == "time_limit" and state.iteration == 2 and saved == [2]


def test_the_highest_of_several_reasons_wins(steps, batches):
    made = steps()
    coordinator, _ = voting(made, time_limit_s=0.0, signal_number=lambda: signal.SIGTERM)
    made.trainer.add_event_handler(
        Events.ITERATION_STARTED(once=1), lambda engine: engine.terminate()
    )
    run(made, [batches(4)] * 10)
    assert coordinator.reason is StopReason.SIGTERM


def test_a_stop_at_an_epoch_s_end_comes_behind_the_validation(steps, batches):
    made, seen = steps(), []
    made.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: seen.append("validation"))
    coordinator, _saved = voting(made)
    made.trainer.add_event_handler(
        RunEvents.RESUME_POINT, lambda engine: seen.append("resume point")
    )
    made.trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: engine.terminate())
    state = run(made, [batches(4)], epochs=5)
    assert (state.epoch, seen, coordinator.status) == (
        1,
        ["validation", "resume point"],
        "early_stopped",
    )


@pytest.mark.parametrize(
    ("settings", "points"),
    [
        ({}, [4, 8, 12]),
        ({"save_epochs": 2}, [8, 12]),
        ({"save_iterations": 3}, [3, 4, 6, 8, 9, 12]),
    ],
)
def test_resume_points_come_by_epochs_iterations_and_at_the_end(steps, batches, settings, points):
    made = steps()
    coordinator, saved = voting(made, **settings)
    run(made, [batches(4)] * 4, epochs=3)
    assert saved == points
    assert coordinator.reason is StopReason.NONE and coordinator.status == "completed"


def test_resume_points_come_by_the_clock(steps, batches):
    made = steps()
    _, saved = voting(made, save_every_s=0.0, save_epochs=100)
    run(made, [batches(4)] * 5)
    assert len(saved) >= 3


def test_gradients_that_stay_non_finite_end_the_run_by_name(steps, batches):
    made, bad = steps(), batches(4)
    bad.weights_B = bad.weights_B * math.nan
    _votes, _ = voting(made, nonfinite_patience=3)
    with pytest.raises(NonFiniteError, match=r"3 optimizer steps in a row.*--lr"):
        run(made, [batches(4), bad, batches(4), bad, bad, bad, bad, bad])
    # the third in a row is 6; coordinator are read a step later
    assert made.trainer.state.iteration in (7, 8)
    assert torch.isfinite(torch.cat([p.detach().flatten() for p in made.model.parameters()])).all()


def test_a_vote_under_way_is_waited_for(steps, batches):
    made = steps()
    coordinator, _ = voting(made)
    run(made, [batches(4)] * 2)
    coordinator.wait_pending()
    assert coordinator._pending is None
