import copy
import math

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.profiler import ProfilerActivity, profile

from fer_ignite.errors import ConfigError
from fer_ignite.training import step
from fer_ignite.training.ema import attach_ema, make_ema
from fer_ignite.training.events import StepEvents
from fer_ignite.training.optim import (
    OPTIMIZER_SETTINGS,
    build_optimizer,
    parameter_groups,
    skips_on_device,
)
from fer_ignite.training.precision import resolve_precision
from tests.step_fixtures import network

CPU = torch.device("cpu")
EVENT_OF = {
    "backward": StepEvents.LOSS_READY,
    "unscale": StepEvents.GRADIENTS_READY,
    "gradient_norm": StepEvents.GRADIENTS_READY,
    "clip": StepEvents.GRADIENTS_READY,
    "optimizer_step": StepEvents.OPTIMIZER_STEP,
    "zero_grad": StepEvents.OPTIMIZER_STEPPED,
}


def run(made, batches, epochs=1):
    return made.trainer.run(batches, max_epochs=epochs, epoch_length=len(batches))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def overflowing(batch):
    """Its forward pass is finite in float32 and float16, its gradient is not: a weight of infinity."""
    batch = copy.copy(batch)
    batch.weights_B = batch.weights_B * math.inf
    return batch


@pytest.mark.parametrize("name", EVENT_OF)
def test_each_built_in_handler_can_be_replaced_by_another(steps, batches, name):
    made, called = steps(clip=1.0), []
    made.handles[name].remove()
    own = {
        "backward": lambda engine: engine.state.loss.backward(),
        "unscale": lambda engine: None,
        "gradient_norm": lambda engine: setattr(engine.state, "grad_norm", torch.tensor(2.0)),
        "clip": lambda engine: None,
        "optimizer_step": lambda engine: None,
        "zero_grad": lambda engine: made.optimizer.zero_grad(),
    }[name]

    def replacement(engine):
        called.append(engine.state.iteration)
        own(engine)

    made.trainer.add_event_handler(EVENT_OF[name], replacement)
    before = weights(made.model)
    run(made, [batches(4)] * 2)
    assert called == [1, 2]
    # An own optimizer_step that does nothing leaves the weights alone: ours was really gone.
    assert torch.equal(weights(made.model), before) == (name == "optimizer_step")


def test_a_handler_taken_off_is_really_gone(steps, batches):
    made = steps()
    made.handles["zero_grad"].remove()
    run(made, [batches(4)])
    assert all(p.grad is not None for p in made.model.parameters())
    with_it = steps()
    run(with_it, [batches(4)])
    assert all(p.grad is None for p in with_it.model.parameters())


@pytest.mark.parametrize("mode", ["norm", "value"])
def test_clipping_is_torch_s(steps, batches, mode):
    made, batch, limit = steps(clip=0.05, clip_mode=mode), batches(6), 0.05
    twin = copy.deepcopy(made.model)
    nn.functional.cross_entropy(twin(batch.images_BCHW), batch.targets_BK).backward()
    if mode == "norm":
        norm = nn.utils.clip_grad_norm_(twin.parameters(), limit)
        assert norm > limit  # it does clip
    else:
        norm = nn.utils.get_total_norm([p.grad for p in twin.parameters()])
        nn.utils.clip_grad_value_(twin.parameters(), limit)
    clipped = []
    made.trainer.add_event_handler(
        StepEvents.OPTIMIZER_STEP,
        lambda engine: clipped.extend(p.grad.clone() for p in made.model.parameters()),
    )
    state = run(made, [batch])
    # the norm before clipping
    assert state.grad_norm.item() == pytest.approx(norm.item(), rel=1e-5)
    assert all(
        torch.allclose(a, p.grad, atol=1e-7)
        for a, p in zip(clipped, twin.parameters(), strict=True)
    )


@pytest.mark.parametrize("opt", sorted(OPTIMIZER_SETTINGS))
def test_a_step_with_non_finite_gradients_changes_nothing(steps, batches, opt):
    made = steps(opt=opt, lr=0.01)
    run(made, [batches(4)] * 3)
    before, state_before = weights(made.model), copy.deepcopy(made.optimizer.state_dict()["state"])
    state = run(made, [overflowing(batches(4))] * 3, epochs=2)
    assert torch.equal(weights(made.model), before)
    assert not bool(state.step_taken) and int(state.skipped_steps) > 0
    after = made.optimizer.state_dict()["state"]
    for key, values in state_before.items():
        for name, value in values.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(after[key][name])), (
                key,
                name,
            )


@pytest.mark.parametrize("opt", sorted(OPTIMIZER_SETTINGS))
@pytest.mark.parametrize("taken", [True, False])
def test_step_if_steps_where_the_flag_says_so(opt, taken):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    twin = copy.deepcopy(model)
    optimizer, plain = (
        build_optimizer(opt, parameter_groups(m, lr=0.1), lr=0.1) for m in (model, twin)
    )
    for parameter in [*model.parameters(), *twin.parameters()]:
        parameter.grad = (
            torch.ones_like(parameter) if taken else torch.full_like(parameter, math.nan)
        )
    step.conditional_step(optimizer, torch.tensor(taken))
    if taken:
        plain.step()
    assert torch.allclose(weights(model), weights(twin))
    assert not hasattr(optimizer, "found_inf") and (
        skips_on_device(optimizer) or opt in ("rmsprop", "adadelta", "muon")
    )


def test_fp16_scales_the_loss_and_counts_the_steps_that_it_skips(steps, batches):
    made = steps(precision="fp16")
    assert made.scaler.is_enabled()
    scale = made.scaler.get_scale()
    good, bad = batches(4), overflowing(batches(4))
    state = run(made, [good, bad, good])
    assert int(state.skipped_steps) == 1 and state.optimizer_steps == 3
    assert made.scaler.get_scale() == scale / 2  # backed off once
    before = weights(made.model)
    run(made, [bad] * 3, epochs=2)
    assert torch.equal(weights(made.model), before)


def test_fp16_takes_the_step_that_fp32_takes(steps, batches):
    half, full = steps(precision="fp16"), steps()
    for made in (half, full):
        run(made, [batches(4, seed=seed) for seed in range(3)])
    assert (weights(half.model) - weights(full.model)).abs().max() < 1e-3


def test_the_scaler_s_state_is_saved_and_restored(steps, batches):
    made = steps(precision="fp16")
    run(made, [overflowing(batches(4))] * 2)
    state = made.scaler.state_dict()
    other = step.make_scaler(CPU, "fp16")
    other.load_state_dict(state)
    assert other.get_scale() == made.scaler.get_scale() == 65536 / 4
    assert (
        step.make_scaler(CPU, "bf16").state_dict()
        == step.make_scaler(CPU, "fp32").state_dict()
        == {}
    )


def test_bf16_computes_the_forward_pass_in_bfloat16_without_a_scaler(steps, batches):
    made, seen = steps(precision="bf16"), []
    made.model[1].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    state = run(made, [batches(4)])
    assert seen == [torch.bfloat16] and not made.scaler.is_enabled()
    assert (
        state.output["y_pred"].dtype == torch.bfloat16
        or state.output["y_pred"].dtype == torch.float32
    )
    assert all(p.dtype == torch.float32 for p in made.model.parameters())


def test_auto_is_settled_by_the_device_and_the_rest_stays_as_requested():
    assert resolve_precision("auto", CPU) in ("fp32", "bf16")
    assert resolve_precision("auto", torch.device("mps")) == "fp32"
    assert [resolve_precision(p, CPU) for p in ("fp32", "fp16", "bf16")] == ["fp32", "fp16", "bf16"]


def test_a_non_finite_loss_is_seen_by_the_flag_in_the_same_step(steps, batches):
    made, flags = steps(), []
    made.trainer.add_event_handler(
        StepEvents.OPTIMIZER_STEPPED, lambda engine: flags.append(bool(engine.state.step_taken))
    )
    run(made, [batches(4), overflowing(batches(4)), batches(4)])
    assert flags == [True, False, True]


def test_an_overflow_leaves_no_mark_in_batch_statistics(steps, batches):
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 3))
    model.train()
    made = steps(model=model)
    step.attach_batchnorm_guard(made.trainer, model)
    ema = make_ema(model, decay=0.5)
    attach_ema(made.trainer, ema)
    broken = batches(4, seed=1)
    broken.images_BCHW[0, 0, 1, 2] = float("nan")  # feature 6
    good = [batches(4, seed=seed) for seed in (2, 3)]
    run(made, [good[0]])
    before = model[1].running_mean.clone()
    run(made, [broken])
    assert made.trainer.state.skipped_steps == 1
    assert model[1].running_mean.isfinite().all() and model[1].running_mean[6] == before[6]
    assert (model[1].running_mean != before).sum() == 15  # what was finite is taken up
    run(made, [good[1]])
    assert model[1].running_mean[6] != before[6]
    assert all(value.isfinite().all() for value in ema.ema_model.state_dict().values())


def norms(count):
    torch.manual_seed(count)
    return nn.Sequential(*[nn.BatchNorm1d(3 + number) for number in range(count)])


@pytest.mark.parametrize("mixed", [False, True])
def test_the_guard_of_batch_statistics_equals_a_copy_per_buffer(mixed):
    model, trainer = (
        norms(4),
        Engine(lambda engine, batch: engine.fire_event(StepEvents.OPTIMIZER_STEPPED)),
    )
    trainer.register_events(*StepEvents)
    if mixed:
        model[1].double()
    statistics = [b for module in model for b in (module.running_mean, module.running_var)]
    step.attach_batchnorm_guard(trainer, model)
    expected = [b.clone() for b in statistics]

    @trainer.on(Events.ITERATION_STARTED)
    def move(engine):
        for number, buffer in enumerate(statistics):
            buffer.add_(torch.randn_like(buffer))
            if (engine.state.iteration + number) % 3 == 0:
                buffer[number % len(buffer)] = (math.nan, math.inf, -math.inf)[number % 3]
            expected[number] = torch.where(buffer.isfinite(), buffer, expected[number])

    @trainer.on(Events.ITERATION_COMPLETED)
    def compare(engine):
        assert all(torch.equal(a, b) for a, b in zip(statistics, expected, strict=True))

    trainer.run(range(7), max_epochs=1)
    assert not any(
        torch.equal(a, b) for a, b in zip(statistics[::2], statistics[2::2], strict=False)
    )


def test_the_guard_s_work_does_not_grow_with_the_number_of_batch_normalisations():
    counts = []
    for depth in (2, 40):
        model, trainer = (
            norms(depth),
            Engine(lambda engine, batch: engine.fire_event(StepEvents.OPTIMIZER_STEPPED)),
        )
        trainer.register_events(*StepEvents)
        step.attach_batchnorm_guard(trainer, model)
        trainer.fire_event(Events.STARTED)
        # flatten, view and split make no kernel
        with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiled:
            trainer.fire_event(StepEvents.OPTIMIZER_STEPPED)
        kernels = (
            "aten::cat",
            "aten::where",
            "aten::isfinite",
            "aten::clone",
            "aten::_foreach_copy_",
        )
        counts.append(sum(event.count for event in profiled.key_averages() if event.key in kernels))
    assert counts[0] == counts[1] == 4


def test_the_guard_has_nothing_to_do_without_batch_normalisation(steps, batches):
    made = steps()
    step.attach_batchnorm_guard(made.trainer, made.model)
    assert run(made, [batches(4)]).optimizer_steps == 1


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_clipping_does_not_depend_on_the_handlers_before_it(steps, batches, precision):
    """Gradient norms 898 were seen with a limit of 1 where the norm's handler was removed."""
    seen = []
    for removed in ((), ("gradient_norm",), ("unscale",), ("unscale", "gradient_norm")):
        made, norm = steps(clip=0.05, precision=precision), []
        for name in removed:
            made.handles[name].remove()

        def note(engine, model=made.model, norm=norm):
            norm.append(nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())

        made.trainer.add_event_handler(StepEvents.OPTIMIZER_STEP, note)
        run(made, [batches(6, seed=seed) for seed in range(3)])
        assert max(norm) <= 0.05 * 1.001
        seen.append(weights(made.model))
    assert all(torch.equal(seen[0], other) for other in seen[1:])


def test_nothing_of_an_earlier_step_stands_in_the_state(steps, batches):
    made, seen = steps(), []
    # as after a resume
    made.trainer.state.grad_norm, made.trainer.state.step_taken = (
        torch.tensor(1e-6),
        torch.tensor(False),
    )
    made.handles["gradient_norm"].remove()
    made.trainer.add_event_handler(
        StepEvents.OPTIMIZER_STEP,
        lambda engine: seen.append((engine.state.grad_norm, bool(engine.state.step_taken))),
    )
    run(made, [batches(4)])
    assert seen == [(None, True)]


def test_a_step_without_any_gradient_is_refused(steps, batches):
    for precision in ("fp32", "fp16"):
        made = steps(precision=precision)
        made.handles["backward"].remove()
        with pytest.raises(ConfigError, match="LOSS_READY"):
            run(made, [batches(4)])


class Unused(nn.Module):
    """Parameters, a module and a part of a module that the loss does not depend on."""

    def __init__(self):
        super().__init__()
        self.used, self.aux = network(), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        self.partly = nn.Bilinear(16, 1, 1, bias=False)
        self.partly.scale = nn.Parameter(torch.ones(()))
        self.alone = nn.Parameter(torch.ones(3))

    def forward(self, images_BCHW):
        return self.used(images_BCHW) * self.partly.scale


def test_parameters_that_ddp_would_wait_for_are_named_with_their_freeze_flag(steps, batches):
    made = steps(model=Unused())
    step.attach_unused_parameter_check(made.trainer, made.model)
    names = "aux,alone,partly.weight"
    with pytest.raises(ConfigError, match=f"reached {names}, .* --freeze {names}, "):
        run(made, [batches(4)])
    model = Unused()
    parameter_groups(model, lr=0.1, freeze=names.split(","))
    made = steps(model=model)
    step.attach_unused_parameter_check(made.trainer, made.model)
    assert run(made, [batches(4)] * 2).optimizer_steps == 2
    made.handles["backward"].remove()  # no gradient at all: the optimizer step's own sentence
    with pytest.raises(ConfigError, match="LOSS_READY"):
        run(made, [batches(4)])
