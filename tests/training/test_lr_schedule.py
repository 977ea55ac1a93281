import math

import pytest
import torch
from ignite.engine import Engine, Events
from torch.optim import lr_scheduler

from fer_ignite.errors import ConfigError
from fer_ignite.training.lr_schedule import PlateauFactor, attach_schedule, build_schedule
from fer_ignite.training.plot_schedule import plot_schedule

EPOCHS, PER_EPOCH = 6, 5
TOTAL = EPOCHS * PER_EPOCH
LR = 0.2


def optimizer_at(lr=LR):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def factors(name, steps=TOTAL, **settings):
    schedule = build_schedule(name, steps_per_epoch=PER_EPOCH, epochs=EPOCHS, **settings)
    return [schedule(step) for step in range(steps)]


def torch_factors(make, *, per_epoch=False, steps=TOTAL):
    optimizer = optimizer_at()
    scheduler = make(optimizer)
    values = []
    for step in range(steps):
        values.append(optimizer.param_groups[0]["lr"] / LR)
        optimizer.step()
        if not per_epoch or (step + 1) % PER_EPOCH == 0:
            scheduler.step()
    return values


CASES = {
    "constant": ({}, lambda o: lr_scheduler.ConstantLR(o, factor=1.0), False),
    "step": (
        {"decay_epochs": 2, "decay_rate": 0.5},
        lambda o: lr_scheduler.StepLR(o, 2, 0.5),
        True,
    ),
    "multistep": ({"milestones": (1, 4)}, lambda o: lr_scheduler.MultiStepLR(o, [1, 4], 0.1), True),
    "exponential": ({"decay_rate": 0.8}, lambda o: lr_scheduler.ExponentialLR(o, 0.8), True),
    "cosine": (
        {"min_factor": 0.1},
        lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL, eta_min=0.1 * LR),
        False,
    ),
    "cyclic": (
        {"decay_epochs": 1, "min_factor": 0.1},
        lambda o: lr_scheduler.CyclicLR(o, 0.1 * LR, LR, PER_EPOCH, cycle_momentum=False),
        False,
    ),
    "plateau": ({}, lambda o: lr_scheduler.ConstantLR(o, factor=1.0), False),
}


@pytest.mark.parametrize("name", CASES)
def test_every_schedule_equals_torch_s_step_by_step(name):
    settings, make, per_epoch = CASES[name]
    assert factors(name, **settings) == pytest.approx(
        torch_factors(make, per_epoch=per_epoch), abs=1e-9
    )


def test_one_cycle_equals_torch_s_step_by_step():
    def make(optimizer):
        return lr_scheduler.OneCycleLR(
            optimizer,
            LR,
            TOTAL,
            pct_start=0.25,
            div_factor=10,
            final_div_factor=100,
            cycle_momentum=False,
        )

    # torch refuses to be stepped beyond the end, so its last step is left out
    expected = []
    optimizer = optimizer_at()
    scheduler = make(optimizer)
    for step in range(TOTAL):
        expected.append(optimizer.param_groups[0]["lr"] / LR)
        optimizer.step()
        if step < TOTAL - 1:
            scheduler.step()
    ours = factors("onecycle", pct_start=0.25, div_factor=10, final_div_factor=100)
    assert ours == pytest.approx(expected, abs=1e-9)
    assert ours[0] == pytest.approx(1 / 10)
    assert ours[-1] == pytest.approx(1 / 1000)


@pytest.mark.parametrize("name", ["constant", "step", "multistep", "cosine"])
def test_warm_up_is_torch_s_linear_factor_in_front(name):
    settings, make, per_epoch = CASES[name]
    warm = torch_factors(lambda o: lr_scheduler.LinearLR(o, start_factor=0.2, total_iters=8))
    expected = [a * b for a, b in zip(warm, torch_factors(make, per_epoch=per_epoch), strict=True)]
    assert factors(name, warmup_steps=8, warmup_start_factor=0.2, **settings) == pytest.approx(
        expected, abs=1e-9
    )


def test_a_floor_holds_for_decaying_schedules():
    assert min(factors("step", decay_epochs=1, min_factor=0.05)) == 0.05
    assert min(factors("exponential", decay_rate=0.1, min_factor=0.05)) == 0.05


def test_after_its_end_a_schedule_stays():
    assert factors("cosine", steps=TOTAL + 10, min_factor=0.1)[-9:] == pytest.approx([0.1] * 9)
    assert factors("onecycle", steps=TOTAL + 10)[-9:] == pytest.approx([1 / 25e4] * 9)


@pytest.mark.parametrize(("per_epoch", "epochs"), [(1, 1), (2, 1), (3, 1), (1, 2)])
def test_the_shortest_runs_have_finite_rates(per_epoch, epochs):
    for name, settings in {
        "onecycle": {},
        **{name: case[0] for name, case in CASES.items()},
    }.items():
        schedule = build_schedule(name, steps_per_epoch=per_epoch, epochs=epochs, **settings)
        assert all(0 <= schedule(step) <= 1 for step in range(per_epoch * epochs + 1)), name


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("onecycle", {"warmup_steps": 3}, "ramp of its own"),
        ("cosinus", {}, "choose one of constant, cosine, cyclic"),
        ("multistep", {}, "one or more epochs"),
        ("multistep", {"milestones": (4, 1)}, "rising"),
        ("cyclic", {"decay_epochs": 0}, "more than 0"),
    ],
)
def test_contradictions_are_refused(name, settings, words):
    with pytest.raises(ConfigError, match=words):
        factors(name, **settings)


def two_rates():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    return torch.optim.SGD(
        [{"params": [p], "lr": rate} for p, rate in zip(parameters, (0.2, 0.02), strict=True)], lr=1
    )


def run(
    optimizer, schedule, *, iterations, event=Events.ITERATION_STARTED, saved=None, plateau=None
):
    """Rates of both groups at each iteration of a real engine, and the handler."""
    seen = []
    trainer = Engine(
        lambda engine, batch: seen.append([group["lr"] for group in optimizer.param_groups])
    )
    handler, _ = attach_schedule(
        trainer, optimizer, schedule=schedule, event=event, plateau=plateau
    )
    if saved is not None:
        handler.load_state_dict(saved)
    trainer.run(range(iterations), max_epochs=1)
    return seen, handler


def test_the_handler_sets_every_group_s_rate_from_the_first_step_on():
    schedule = build_schedule("cosine", steps_per_epoch=PER_EPOCH, epochs=EPOCHS)
    seen, _ = run(two_rates(), schedule, iterations=TOTAL)
    for index, rate in enumerate((0.2, 0.02)):
        assert [rates[index] for rates in seen] == pytest.approx(
            [rate * schedule(step) for step in range(TOTAL)]
        )


def test_with_a_filtered_event_it_counts_optimizer_steps():
    schedule = build_schedule("cosine", steps_per_epoch=2, epochs=3)
    windows = Events.ITERATION_STARTED(event_filter=lambda engine, iteration: iteration % 2 == 1)
    seen, handler = run(two_rates(), schedule, iterations=12, event=windows)
    assert [rates[0] for rates in seen] == pytest.approx(
        [0.2 * schedule(i // 2) for i in range(12)]
    )
    assert handler.state_dict() == {"step": 6}


def test_a_saved_handler_continues_at_its_step_and_with_the_new_rates(tmp_path):
    schedule = build_schedule("onecycle", steps_per_epoch=PER_EPOCH, epochs=EPOCHS)
    whole, _ = run(two_rates(), schedule, iterations=TOTAL)
    optimizer = two_rates()
    _, handler = run(optimizer, schedule, iterations=12)
    torch.save({"sched": handler.state_dict(), "opt": optimizer.state_dict()}, tmp_path / "s.pt")
    saved = torch.load(tmp_path / "s.pt", weights_only=True)
    rest, again = run(two_rates(), schedule, iterations=TOTAL - 12, saved=saved["sched"])
    assert rest == whole[12:]
    # The optimizer's state, loaded after attaching, brings scheduled rates that must not become the base ones.
    again.lr_scheduler.optimizer.load_state_dict(saved["opt"])
    again.load_state_dict({"step": 3})
    again(None)
    assert again.lr_scheduler.optimizer.param_groups[0]["lr"] == whole[3][0]


def feed(plateau, *metrics):
    engine = Engine(lambda engine, batch: None)
    values = []
    for metric in metrics:
        engine.state.metrics["accuracy"] = metric
        plateau(engine)
        values.append(plateau.value)
    return values


def test_the_plateau_falls_as_torch_s_own_and_not_below_its_floor():
    metrics = [0.3, 0.5, 0.5, 0.49, 0.5, 0.48, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]
    plateau = PlateauFactor("accuracy", mode="max", factor=0.1, patience=1, min_factor=0.05)
    optimizer = optimizer_at(1.0)
    torchs = lr_scheduler.ReduceLROnPlateau(
        optimizer,
        "max",
        factor=0.1,
        patience=1,
        threshold=0.0,
        threshold_mode="abs",
        min_lr=0.05,
        eps=0.0,
    )
    expected = []
    for metric in metrics:
        torchs.step(metric)
        expected.append(optimizer.param_groups[0]["lr"])
    assert feed(plateau, *metrics) == pytest.approx(expected)
    assert plateau.value == pytest.approx(0.05)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_counts_as_no_improvement(bad):
    for mode in ("max", "min"):
        plateau = PlateauFactor("accuracy", mode=mode, factor=0.5, patience=1)
        assert feed(plateau, bad, bad, bad) == [1.0, 0.5, 0.5]
        better = {"max": (1.0, 2.0, 3.0), "min": (3.0, 2.0, 1.0)}[mode]
        assert feed(plateau, *better) == [0.5, 0.5, 0.5]


def test_a_resumed_plateau_falls_when_the_uninterrupted_one_does(tmp_path):
    metrics = [0.3, 0.5, 0.4, 0.4, 0.4, 0.6, 0.5, 0.5, 0.5]
    make = lambda: PlateauFactor("accuracy", mode="max", factor=0.5, patience=2)  # noqa: E731
    whole = feed(make(), *metrics)
    for cut in range(len(metrics)):
        first, second = make(), make()
        feed(first, *metrics[:cut])
        torch.save(first.state_dict(), tmp_path / "p.pt")
        second.load_state_dict(torch.load(tmp_path / "p.pt", weights_only=True))
        assert feed(second, *metrics[cut:]) == whole[cut:]


def test_the_plateau_multiplies_the_schedule_from_the_next_step_on():
    plateau = PlateauFactor("accuracy", mode="max", factor=0.5, patience=0)
    schedule = build_schedule(
        "plateau", steps_per_epoch=2, epochs=2, warmup_steps=2, warmup_start_factor=0.5
    )
    first, handler = run(two_rates(), schedule, iterations=2, plateau=plateau)
    feed(plateau, 0.5, 0.4)
    second, _ = run(
        two_rates(), schedule, iterations=2, plateau=plateau, saved=handler.state_dict()
    )
    assert [rates[0] for rates in first + second] == pytest.approx([0.1, 0.15, 0.1, 0.1])


def test_a_wrong_plateau_is_refused():
    with pytest.raises(ConfigError, match="choose max or min"):
        PlateauFactor("accuracy", mode="up")
    with pytest.raises(ConfigError, match="between 0 and 1"):
        PlateauFactor("accuracy", mode="max", factor=1.0)


def test_the_picture_of_a_schedule_is_a_picture(tmp_path):
    from PIL import Image

    path = tmp_path / "lr.png"
    plot_schedule(build_schedule("onecycle", steps_per_epoch=5, epochs=2), 10, path=path, lr=0.1)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and min(picture.size) > 300


def test_a_format_that_no_plot_has_is_refused(tmp_path):
    schedule = build_schedule("onecycle", steps_per_epoch=5, epochs=2)
    with pytest.raises(ConfigError, match=r"\.xyz is no format of a plot; allowed are .*png"):
        plot_schedule(schedule, 10, path=tmp_path / "lr.xyz")
