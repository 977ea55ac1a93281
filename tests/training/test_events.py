from ignite.engine import Events

from fer_ignite.training.events import EVENT_TABLE, RunEvents, StepEvents


def test_the_table_names_every_event_once_and_says_all_of_it():
    assert [row.event for row in EVENT_TABLE] == [*StepEvents, *RunEvents]
    for row in EVENT_TABLE:
        assert (
            row.fires and row.payload and row.counter in ("iteration", "optimizer_steps", "epoch")
        )


def test_no_event_is_called_like_one_of_ignite_s():
    """Ignite compares events by name (events.py, 191): a member called COMPLETED would equal Events.COMPLETED."""
    ours, theirs = (
        {event.name for event in [*StepEvents, *RunEvents]},
        {event.name for event in Events},
    )
    assert not ours & theirs
    assert not {event.value for event in [*StepEvents, *RunEvents]} & {
        event.value for event in Events
    }


def test_the_built_in_listeners_of_the_table_are_the_session_s_handles(tiny):
    from fer_ignite import build_session

    session = build_session(
        tiny(clip_grad=1.0, sam_rho=0.05, model_ema=True, plots=True, tensorboard=True, patience=3)
    )
    session.run()
    for row in EVENT_TABLE:
        several_processes = {"unused_parameters"}
        assert set(row.built_in) <= set(session.handles) | several_processes, row.event
    session.close()


def test_filters_count_optimizer_steps(steps, batches):
    made, seen = steps(), []
    halves = [batches(4, window=8, is_last_micro=False), batches(4, window=8, is_first_micro=False)]
    made.trainer.add_event_handler(
        StepEvents.OPTIMIZER_STEPPED(every=2),
        lambda engine: seen.append((engine.state.optimizer_steps, engine.state.iteration)),
    )
    made.trainer.add_event_handler(
        StepEvents.LOSS_READY(once=3), lambda engine: seen.append(("loss", engine.state.iteration))
    )
    made.trainer.run(halves * 4, max_epochs=1, epoch_length=8)
    assert seen == [("loss", 3), (2, 4), (4, 8)]


def test_handlers_attached_with_on_and_several_events_work(steps, batches):
    made, seen = steps(), []

    @made.trainer.on(StepEvents.GRADIENTS_READY | StepEvents.OPTIMIZER_STEPPED)
    def note(engine):
        seen.append(engine.state.optimizer_steps)

    made.trainer.run([batches(4)] * 2, max_epochs=1, epoch_length=2)
    assert seen == [1, 1, 2, 2]
