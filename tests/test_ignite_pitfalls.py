"""What the project relies on or works around in Ignite 0.5.5, one test each, so that an upgrade tells.

A failing test here is news about Ignite, not about this project: read what changed, then the code that the test names.
"""

import copy
import math

import pytest
import torch
from ignite.engine import Engine, EventEnum, Events
from ignite.handlers import Checkpoint, EarlyStopping, EMAHandler
from ignite.handlers.checkpoint import BaseSaveHandler
from ignite.handlers.param_scheduler import LRScheduler
from torch import nn


def idle():
    return Engine(lambda engine, batch: batch)


def sgd(lr=0.1):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


class Shelf(BaseSaveHandler):
    """A save handler that records its calls."""

    def __init__(self, fails_at=None):
        self.calls, self.fails_at, self.saved = [], fails_at, []

    def __call__(self, checkpoint, filename, metadata=None):
        self.calls.append(("save", filename))
        if len(self.saved) == self.fails_at:
            raise OSError("disk full")
        self.saved.append(copy.deepcopy(checkpoint))

    def remove(self, filename):
        self.calls.append(("remove", filename))


def test_i1_a_finished_run_that_is_run_again_trains_all_over():
    """Session.run returns before it calls Ignite."""
    engine = idle()
    engine.run([0, 1, 2], max_epochs=2)
    other = idle()
    other.load_state_dict(engine.state_dict())
    ran = []
    other.add_event_handler(Events.ITERATION_COMPLETED, lambda e: ran.append(e.state.iteration))
    other.run([0, 1, 2], max_epochs=2)
    assert len(ran) == 6


def test_i3_an_epoch_length_that_changed_is_refused_only_when_it_is_given():
    """Session.run always gives it."""
    state = {"iteration": 5, "epoch_length": 5, "max_epochs": 2}
    silent, restored = idle(), idle()
    silent.load_state_dict(state)
    assert silent.run(range(10), max_epochs=2).iteration == 10  # five more, not ten
    restored.load_state_dict(state)
    with pytest.raises(ValueError, match="epoch_length"):
        restored.run(range(10), max_epochs=2, epoch_length=10)


def test_i4_data_starts_again_in_the_middle_of_an_epoch():
    """TrainLoader reads the trainer's iteration and begins there."""
    engine, seen = idle(), []
    engine.load_state_dict({"iteration": 5, "epoch_length": 10, "max_epochs": 1})
    engine.add_event_handler(
        Events.ITERATION_STARTED, lambda e: seen.append((e.state.iteration, e.state.batch))
    )
    engine.run(range(10), epoch_length=10)
    assert seen[0] == (6, 0)


def test_a_resumed_epoch_fires_its_beginning_again():
    """Trainer._fire_event passes it over."""
    engine, started = idle(), []
    engine.load_state_dict({"iteration": 5, "epoch_length": 10, "max_epochs": 1})
    engine.add_event_handler(Events.EPOCH_STARTED, lambda e: started.append(e.state.iteration))
    engine.run(range(10), epoch_length=10)
    assert started == [5]


def test_i6_a_scaler_that_is_on_refuses_the_state_of_one_that_was_off():
    """state._restore_scaler compares them first."""
    off, on = (torch.amp.GradScaler("cpu", enabled=enabled) for enabled in (False, True))
    assert off.state_dict() == {}
    with pytest.raises(RuntimeError, match="empty"):
        on.load_state_dict({})
    off.load_state_dict(on.state_dict())


def test_i8_the_old_file_is_removed_before_the_new_one_is_written():
    """AtomicSaver only notes removals and carries them out afterwards."""
    trainer, shelf = idle(), Shelf(fails_at=1)
    handler = Checkpoint(
        {"a": nn.Linear(1, 1), "t": trainer},
        shelf,
        n_saved=1,
        global_step_transform=lambda *_: trainer.state.iteration,
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, handler)
    with pytest.raises(OSError, match="disk full"):
        trainer.run([0, 1], max_epochs=1)
    assert [what for what, _ in shelf.calls] == ["save", "remove", "save"]


def test_i10_a_first_score_of_nan_blocks_the_best_checkpoint_for_ever():
    """stopping.finite_score makes it the worst score there is."""
    scores = iter([math.nan, 0.5, 0.9])
    trainer, shelf = idle(), Shelf()
    handler = Checkpoint(
        {"a": nn.Linear(1, 1), "t": trainer},
        shelf,
        n_saved=1,
        score_function=lambda e: next(scores),
        score_name="acc",
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, handler)
    trainer.run([0, 1, 2], max_epochs=1)
    assert shelf.calls == [("save", "checkpoint_acc=nan.pt")]


def test_i11_a_single_object_is_saved_without_its_name():
    """_SafeCheckpoint refuses fewer than two."""
    trainer, shelf = idle(), Shelf()
    trainer.add_event_handler(Events.COMPLETED, Checkpoint({"model": nn.Linear(1, 1)}, shelf))
    trainer.run([0], max_epochs=1)
    assert set(shelf.saved[0]) == {"weight", "bias"}


def test_i14_a_type_error_while_saving_is_swallowed_and_the_saver_called_again():
    """AtomicSaver turns it into a RuntimeError."""
    calls = []

    def saver(checkpoint, filename, metadata=None):
        calls.append(metadata is not None)
        if metadata is not None:
            raise TypeError("inside the saver")

    trainer = idle()
    trainer.add_event_handler(
        Events.COMPLETED, Checkpoint({"a": nn.Linear(1, 1), "t": trainer}, saver)
    )
    trainer.run([0], max_epochs=1)
    assert calls == [True, False]


def early_stopped(attach, scores):
    trainer, evaluator = idle(), idle()
    stopper = EarlyStopping(1, lambda engine: scores[trainer.state.epoch - 1], trainer)
    attach(stopper, evaluator)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run([0]))
    return trainer.run([0], max_epochs=len(scores)).epoch


def test_i17_attach_resets_the_counter_at_every_evaluation():
    """attach_early_stopping adds the handler itself."""
    falling = [5, 4, 3, 2, 1]
    assert early_stopped(lambda stopper, evaluator: stopper.attach(evaluator), falling) == 5
    assert (
        early_stopped(
            lambda stopper, evaluator: evaluator.add_event_handler(Events.COMPLETED, stopper),
            falling,
        )
        == 2
    )


def test_i18_nan_counts_as_a_gain():
    """finite_score again."""
    scores = [5.0, math.nan, math.nan, math.nan, 1.0]
    assert (
        early_stopped(
            lambda stopper, evaluator: evaluator.add_event_handler(Events.COMPLETED, stopper),
            scores,
        )
        == 5
    )


def test_i21_terminate_in_an_iteration_fires_no_end_of_the_epoch():
    """Votes.exchange saves a resume point itself before it stops."""
    engine, fired = idle(), []
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=2), lambda e: e.terminate())
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: fired.append("epoch"))
    engine.add_event_handler(Events.COMPLETED, lambda: fired.append("run"))
    engine.run(range(5), max_epochs=2)
    assert fired == ["run"]


def test_i22_with_a_handler_on_exceptions_the_engine_continues():
    """Session._reraise_last adds one that raises again."""
    engine, seen = idle(), []
    engine.logger.disabled = True
    engine.add_event_handler(Events.EXCEPTION_RAISED, lambda e, error: seen.append(error))

    @engine.on(Events.ITERATION_COMPLETED(once=1))
    def fails(e):
        raise ValueError

    assert engine.run([0, 1], max_epochs=3).epoch == 3  # no exception, and the next epochs ran
    assert seen


def test_i23_or_ed_events_fire_twice_where_they_meet():
    """Resume points hang on an event of our own."""
    engine, fired = idle(), []
    engine.add_event_handler(
        Events.EPOCH_COMPLETED(every=2) | Events.COMPLETED, lambda e: fired.append(e.state.epoch)
    )
    engine.run([0], max_epochs=4)
    assert fired == [2, 4, 4]


def test_i24_custom_events_are_compared_by_name():
    """No event of ours is called like one of Ignite's (test_events)."""

    class Mine(EventEnum):
        COMPLETED = "completed"

    assert Mine.COMPLETED == Events.COMPLETED


def test_i24_a_filtered_custom_event_needs_a_counter():
    """create_trainer registers every event with one."""

    class Other(EventEnum):
        UNCOUNTED = "uncounted"

    engine = Engine(lambda e, batch: e.fire_event(Other.UNCOUNTED))
    engine.logger.disabled = True
    engine.register_events(*Other)
    engine.add_event_handler(Other.UNCOUNTED(every=2), lambda: None)
    with pytest.raises(RuntimeError, match="Unknown event name"):
        engine.run([0], max_epochs=1)


def rates(scheduler, optimizer, steps):
    engine, seen = idle(), []
    engine.add_event_handler(Events.ITERATION_STARTED, scheduler)
    engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: seen.append(optimizer.param_groups[0]["lr"])
    )
    engine.run(range(steps), max_epochs=1)
    return seen


def test_i28_wrapped_torch_schedules_start_a_step_late_but_lambda_is_right():
    """Schedules are pure functions behind one LRScheduler(LambdaLR)."""
    optimizer = sgd()
    wrapped = rates(
        LRScheduler(torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)), optimizer, 3
    )
    assert wrapped == pytest.approx([0.09, 0.081, 0.0729])
    optimizer = sgd()
    exact = rates(
        LRScheduler(torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)),
        optimizer,
        3,
    )
    assert exact == pytest.approx([0.1, 0.09, 0.081])


def test_i31_copied_buffers_of_the_average_are_shared():
    """attach_ema takes handle_buffers='update'."""
    model = nn.BatchNorm1d(2)
    handler = EMAHandler(model, momentum=0.1, handle_buffers="copy")
    engine = Engine(lambda e, batch: model(torch.randn(4, 2)))
    handler.attach(engine)
    engine.run([0], max_epochs=1)
    assert handler.ema_model.running_mean.data_ptr() == model.running_mean.data_ptr()


def test_i33_precision_and_recall_can_t_be_computed_without_data_but_a_confusion_matrix_can():
    """Every score is derived from one confusion matrix."""
    from ignite.exceptions import NotComputableError
    from ignite.metrics import ConfusionMatrix, Recall

    with pytest.raises(NotComputableError):
        Recall(average="macro").compute()
    with pytest.raises(NotComputableError):
        ConfusionMatrix(3).compute()
    matrix = ConfusionMatrix(3)
    matrix.update((torch.eye(3), torch.arange(3)))
    assert matrix.compute().sum() == 3


def test_engine_times_stand_in_the_state_after_a_run():
    """scoring reads state.times['COMPLETED']."""
    assert idle().run([0], max_epochs=1).times["COMPLETED"] >= 0
