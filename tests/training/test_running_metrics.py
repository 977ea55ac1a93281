import pytest
import torch
from ignite.engine import Events

from fer_ignite.distributed.collectives import gather_json
from fer_ignite.training.running_metrics import RunningMetrics, attach_running_metrics

CPU = torch.device("cpu")


def recorded(made, *, log_every=2):
    metrics = RunningMetrics(group=None, device=CPU)
    attach_running_metrics(made.trainer, metrics, log_every=log_every)
    return metrics


def test_an_epoch_s_sums_are_means_over_its_faces(steps, batches):
    made = steps(lr=1e-12)  # the network stays as it is, so that every loss can be worked out
    metrics = recorded(made)
    parts = [batches(4, seed=1), batches(4, seed=2), batches(3, seed=3)]
    made.trainer.run(parts, max_epochs=1, epoch_length=3)
    metrics.reduce_across_ranks()
    logits = [made.model(part.images_BCHW) for part in parts]
    losses = torch.cat(
        [
            torch.nn.functional.cross_entropy(y, p.targets_BK, reduction="none")
            for y, p in zip(logits, parts, strict=True)
        ]
    )
    hits = sum(
        int((y.argmax(1) == p.targets_BK.argmax(1)).sum())
        for y, p in zip(logits, parts, strict=True)
    )
    assert metrics.epoch()["train_loss"] == pytest.approx(losses.mean().item(), rel=1e-5)
    assert metrics.epoch()["train_accuracy"] == pytest.approx(hits / 11)


def test_folding_in_the_middle_changes_nothing(steps, batches):
    parts = [batches(4, seed=seed) for seed in range(4)]
    sums = []
    for folds in ((), (1, 3)):
        made = steps()
        metrics = recorded(made)
        made.trainer.add_event_handler(
            Events.ITERATION_COMPLETED(
                event_filter=lambda engine, count, folds=folds: count in folds
            ),
            metrics.reduce_across_ranks,
        )
        made.trainer.run(parts, max_epochs=1, epoch_length=4)
        metrics.reduce_across_ranks()
        sums.append(metrics.epoch())
    assert sums[0] == sums[1]


def test_folded_sums_go_on_after_a_restart(steps, batches):
    parts = [batches(4, seed=seed) for seed in range(4)]
    made = steps()
    whole = recorded(made)
    made.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), whole.reduce_across_ranks)
    kept = {}
    made.trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=2), lambda: kept.update(whole.state_dict())
    )
    second = RunningMetrics(group=None, device=CPU)
    made.trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=3), lambda: second.load_state_dict(kept)
    )
    made.trainer.add_event_handler(Events.ITERATION_COMPLETED(after=2), second.update)
    made.trainer.run(parts, max_epochs=1, epoch_length=4)
    whole.reduce_across_ranks()
    second.reduce_across_ranks()
    assert second.epoch() == whole.epoch()


@pytest.mark.parametrize(("reduce", "value"), [("mean", 2.0), ("sum", 6.0), ("last", 3.0)])
def test_logged_values_are_reduced_over_the_epoch_as_requested(reduce, value):
    metrics = RunningMetrics(group=None, device=CPU)
    for iteration in (1, 2, 3):
        metrics.log("x", torch.tensor(float(iteration)), iteration=iteration, reduce=reduce)
    metrics.reduce_across_ranks()
    assert metrics.epoch() == {"x": value}


def test_step_values_reach_listeners_with_their_iteration_and_epoch_values_do_not():
    metrics, flushed = RunningMetrics(group=None, device=CPU), []
    metrics.on_flush.append(lambda values, iteration: flushed.append((iteration, values)))
    metrics.log("a", 1.0, iteration=5)
    metrics.log("b", 2.0, iteration=7, on="epoch")
    metrics.log("a", 3.0, iteration=6, bar=True)
    metrics.flush()
    assert flushed == [(5, {"a": 1.0}), (6, {"a": 3.0})]
    assert metrics.bar == {"a": 3.0}
    metrics.flush()
    assert len(flushed) == 2  # nothing twice


def test_a_logged_tensor_is_taken_as_it_is_now():
    metrics, value = RunningMetrics(group=None, device=CPU), torch.tensor(1.0)
    metrics.log("x", value, iteration=1)
    value.fill_(9)
    metrics.reduce_across_ranks()
    assert metrics.epoch()["x"] == 1


def test_a_new_epoch_begins_at_nothing(steps, batches):
    made = steps()
    metrics = recorded(made)
    made.trainer.run([batches(4)] * 2, max_epochs=1, epoch_length=2)
    metrics.log("x", 1.0, iteration=2)
    metrics.reduce_across_ranks()
    metrics.clear()
    assert metrics.epoch() == {}


def test_one_process_alone_gets_its_own_value():
    assert gather_json({"a": [1, None]}, None) == [{"a": [1, None]}]
