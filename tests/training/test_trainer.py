import copy

import numpy as np
import pytest
import torch
from ignite.engine import Events
from torch import nn

from fer_ignite.data.loader import EvalBatch
from fer_ignite.training.components import loss_terms
from fer_ignite.training.events import StepEvents
from fer_ignite.training.losses import build_loss
from fer_ignite.training.trainer import create_evaluator, tta_logits

CPU = torch.device("cpu")


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def run(made, batches, epochs=1):
    return made.trainer.run(batches, max_epochs=epochs, epoch_length=len(batches))


def test_one_step_is_the_step_that_torch_makes(steps, batches):
    made, batch = steps(), batches(6)
    twin = copy.deepcopy(made.model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    loss = nn.functional.cross_entropy(twin(batch.images_BCHW), batch.targets_BK)
    loss.backward()
    optimizer.step()
    state = run(made, [batch])
    assert torch.allclose(weights(made.model), weights(twin), atol=1e-7)
    assert state.output["loss"].item() == pytest.approx(loss.item(), rel=1e-6)
    assert state.loss.grad_fn is None  # the graph is gone after the step


def test_an_accumulation_group_is_weighted_by_its_samples_the_short_one_too(steps, batches):
    whole = batches(7)
    parts = [copy.copy(whole) for _ in range(3)]
    for part, (start, stop) in zip(parts, ((0, 3), (3, 6), (6, 7)), strict=True):
        part.images_BCHW, part.targets_BK = (
            whole.images_BCHW[start:stop],
            whole.targets_BK[start:stop],
        )
        part.labels_B = whole.labels_B[start:stop]
        part.weights_B, part.count, part.is_first_micro, part.is_last_micro = (
            torch.ones(stop - start),
            stop - start,
            start == 0,
            stop == 7,
        )
    once, thrice = steps(), steps()
    state = run(once, [whole]), run(thrice, parts)
    assert torch.allclose(weights(once.model), weights(thrice.model), atol=1e-6)
    assert [s.optimizer_steps for s in state] == [1, 1]
    assert state[1].iteration == 3


def test_the_events_of_a_step_come_in_order_and_a_group_steps_once(steps, batches):
    made, seen = steps(), []
    for event in StepEvents:
        made.trainer.add_event_handler(
            event, lambda engine, name=event.value: seen.append((engine.state.iteration, name))
        )
    run(
        made,
        [batches(4, window=8, is_last_micro=False), batches(4, window=8, is_first_micro=False)],
    )
    assert seen == [
        (1, "loss_ready"),
        (2, "loss_ready"),
        (2, "gradients_ready"),
        (2, "optimizer_step"),
        (2, "optimizer_stepped"),
    ]


def test_stand_ins_of_an_empty_slice_count_nowhere(steps, batches):
    made, empty = steps(), batches(2, window=4)
    empty.weights_B, empty.count, empty.indices_B = torch.zeros(2), 0, np.arange(0)
    before = weights(made.model)
    state = run(made, [empty])
    assert torch.equal(weights(made.model), before)
    assert state.output["count"] == 0 and len(state.output["y_pred"]) == 0
    assert state.output["loss"].item() == 0  # a number, not NaN


def test_each_term_of_a_summed_loss_is_in_the_output(steps, batches):
    state = run(steps(loss="ce+0.5*focal"), [batches(5)])
    losses = state.output["losses"]
    assert set(losses) == {"loss", "ce", "focal"}
    assert torch.allclose(losses["loss"], losses["ce"] + 0.5 * losses["focal"], atol=1e-6)


def test_terminate_is_a_request_until_all_ranks_execute_it(steps, batches):
    made = steps()
    made.trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=1), lambda engine: engine.terminate()
    )
    made.trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=3), lambda engine: engine.stop_now()
    )
    state = run(made, [batches(2)] * 5)
    assert made.trainer.state.stop_requested and state.iteration == 3


def test_an_epoch_that_continues_has_had_its_beginning(steps, batches):
    made, started = steps(), []
    made.trainer.add_event_handler(
        Events.EPOCH_STARTED, lambda engine: started.append(engine.state.epoch)
    )
    made.trainer.inside_epoch = True
    run(made, [batches(2)] * 2, epochs=3)
    assert started == [2, 3]


def test_the_trainer_s_state_travels_with_its_own_counters(steps, batches):
    made = steps()
    run(made, [batches(2)] * 3)
    state = made.trainer.state_dict()
    assert state["iteration"] == 3 and state["optimizer_steps"] == 3
    other = steps().trainer
    other.load_state_dict(state)
    assert other.state.optimizer_steps == 3 and int(other.state.skipped_steps) == 0


def evaluated(model, batch, **changes):
    made = create_evaluator(
        model,
        loss_terms(build_loss("ce")),
        device=CPU,
        precision=changes.pop("precision", "fp32"),
        **changes,
    )
    return made.run([batch]).output


def eval_batch(batch):
    return EvalBatch(
        batch.images_BCHW,
        batch.targets_BK.argmax(dim=1),
        batch.targets_BK,
        torch.arange(batch.count),
    )


def test_an_evaluator_gives_predictions_losses_and_places_without_a_graph(steps, batches):
    model, batch = steps().model, eval_batch(batches(5))
    output = evaluated(model, batch)
    logits_BK = model(batch.images_BCHW)
    assert torch.allclose(output["y_pred"], logits_BK) and not output["y_pred"].requires_grad
    expected = nn.functional.cross_entropy(logits_BK, batch.labels_B, reduction="none")
    assert torch.allclose(output["losses"]["loss"], expected, atol=1e-6)
    assert not model.training


def test_an_empty_batch_is_evaluated_to_nothing(steps, batches):
    output = evaluated(steps().model, eval_batch(batches(0)))
    assert output["y_pred"].shape == (0, 3) and output["losses"]["loss"].shape == (0,)


def test_views_are_averaged_as_probabilities(steps, batches):
    model, images = steps().model, batches(5).images_BCHW
    plain = tta_logits(model, images, device=CPU, precision="fp32", tta="none")
    both = tta_logits(model, images, device=CPU, precision="fp32", tta="flip")
    assert torch.allclose(plain, model(images))
    expected = (model(images).softmax(1) + model(images.flip(-1)).softmax(1)) / 2
    assert torch.allclose(both.exp(), expected, atol=1e-6)


def test_the_evaluator_computes_in_the_requested_precision_and_gives_float32(steps, batches):
    model, batch = steps().model, eval_batch(batches(5))
    half = evaluated(model, batch, precision="bf16")["y_pred"]
    assert half.dtype == torch.float32
    difference = (half - model(batch.images_BCHW)).abs().max().item()
    assert 0 < difference < 0.05
