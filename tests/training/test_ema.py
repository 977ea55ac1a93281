import pytest
import torch
from torch import nn

from fer_ignite.training.ema import attach_ema, make_ema
from fer_ignite.training.events import StepEvents


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_average_is_the_formula_s_after_each_optimizer_step(steps, batches):
    made = steps()
    ema = make_ema(made.model, decay=0.9)
    attach_ema(made.trainer, ema)
    expected = [weights(made.model).clone()]
    made.trainer.add_event_handler(
        StepEvents.OPTIMIZER_STEPPED,
        lambda: expected.append(0.9 * expected[-1] + 0.1 * weights(made.model)),
    )
    halves = [batches(4, window=8, is_last_micro=False), batches(4, window=8, is_first_micro=False)]
    made.trainer.run(halves * 3, max_epochs=1, epoch_length=6)
    assert len(expected) == 4  # per window, not per micro-batch
    assert torch.allclose(weights(ema.ema_model), expected[-1], atol=1e-6)
    assert not torch.allclose(weights(ema.ema_model), weights(made.model))


@pytest.mark.parametrize("decay", [0.1, 0.5])
def test_batch_statistics_are_averaged_too_and_share_no_memory(steps, batches, decay):
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 3))
    made = steps(model=model)
    model.train()
    ema = make_ema(model, decay=decay)
    attach_ema(made.trainer, ema)
    before = model[1].running_mean.clone()
    made.trainer.run([batches(8)], max_epochs=1, epoch_length=1)
    moved = model[1].running_mean
    assert torch.allclose(
        ema.ema_model[1].running_mean, decay * before + (1 - decay) * moved, atol=1e-6
    )
    ema.ema_model[1].running_mean.fill_(7)
    assert not (model[1].running_mean == 7).any()


def test_the_average_can_be_taken_off(steps, batches):
    made = steps()
    ema = make_ema(made.model, decay=0.5)
    handle = attach_ema(made.trainer, ema)
    before = weights(ema.ema_model).clone()
    handle.remove()
    made.trainer.run([batches(4)], max_epochs=1, epoch_length=1)
    assert torch.equal(weights(ema.ema_model), before)
