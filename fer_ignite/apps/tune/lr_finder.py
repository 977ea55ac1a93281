"""Learning-rate range test with Ignite's FastaiLRFinder on the run's own trainer."""

import math
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Events
from ignite.handlers import FastaiLRFinder

from fer_ignite.checkpoint.atomic_io import write_output
from fer_ignite.checkpoint.run_dir import RunDir
from fer_ignite.config import Config, check
from fer_ignite.data.open import find_cache, open_dataset, require_shard_settings
from fer_ignite.distributed import LaunchSpec, launch
from fer_ignite.errors import ConfigError, FerError
from fer_ignite.imports import load_object
from fer_ignite.runs.execute import select_device
from fer_ignite.runs.teacher import load_teacher
from fer_ignite.runs.validate import check_names
from fer_ignite.terminal import progress
from fer_ignite.training.build import build_session_objects
from fer_ignite.training.events import StepEvents
from fer_ignite.training.process_state import preserve_process_state
from fer_ignite.training.session import Session

__all__ = ["draw_rates", "find_lr"]

# Settings that would set the rate, stop the run, score it or write files; an average of the weights is not needed.
_BARE = {
    "sched": "constant",
    "warmup_epochs": 0.0,
    "min_lr": 0.0,
    "patience": 0,
    "model_ema": False,
    "swa_start": None,
    "image_size_schedule": None,
    "tensorboard": False,
    "track": (),
    "plots": False,
    "quiet": True,
    "profile": "none",
    "resume": None,
    "max_time": None,
    "fast_dev_run": False,
    # A loss that is not finite ends the curve; it is not an error here.
    "nonfinite_patience": 1_000_000,
}
_FILING = ("validate", "history", "report", "best", "resume_points")


def find_lr(
    config: Config,
    *,
    plot: str | None = None,
    iterations: int = 200,
    start_lr: float = 1e-6,
    end_lr: float = 10.0,
) -> dict[str, Any]:
    """Trains for some iterations at a rate that rises from ``start_lr`` to ``end_lr``, and finds where the loss falls fastest.

    Only train is read. Nothing of the run is kept. Groups with a rate of their own (``backbone_lr``, ``head_lr``) rise in
    the same proportion to ``lr``.

    Args:
        plot: where the curve is drawn (PNG); None for no picture.
        iterations: optimizer steps, fewer where the loss diverges.
    Returns:
        ``suggestion`` (for ``lr``), ``lowest`` (the rate where the smoothed loss was lowest), ``diverged``, ``iterations``,
        ``opt``, ``batch_size``, ``precision``, ``plot``, and ``curve`` {lr, loss}: the smoothed loss after each iteration.
    Raises:
        FerError: or its kinds; the plain one where the curve has no falling part.
    """
    if not 0 < start_lr < end_lr <= 1000:
        raise ConfigError(
            f"--start-lr {start_lr:g} and --end-lr {end_lr:g}: needed are 0 < start < end <= 1000."
        )
    if config.resume is not None:
        raise ConfigError(
            f"--resume {config.resume}: find-lr begins with fresh weights; leave it out, or name others with --init-from."
        )
    if config.nproc not in (None, 1):
        raise ConfigError(f"--nproc {config.nproc}: find-lr works in one process; leave it out.")
    if config.nnodes != 1:
        raise ConfigError(f"--nnodes {config.nnodes}: find-lr works on one machine; leave it out.")
    if config.folds is not None and config.fold is None:
        raise ConfigError(
            "--folds makes several runs; find-lr makes one: choose it with --fold, or leave both out."
        )
    check_names(config)
    cache_path = find_cache(config)[0]
    require_shard_settings(config, cache_path)
    spec = LaunchSpec(nproc=None, device=config.device, gpus=config.gpus, threads=config.threads)
    # The run happens in this process and seeds it; the caller's random states are put back.
    with preserve_process_state():
        outcome = launch(
            _find,
            config.model_dump(),
            None if cache_path is None else str(cache_path),
            iterations,
            start_lr,
            end_lr,
            spec=spec,
        )
    if outcome.exit_code:
        raise outcome.as_exception()
    result = {**(outcome.result or {}), "plot": plot}
    if plot is not None:
        draw_rates(
            result["curve"]["lr"],
            result["curve"]["loss"],
            suggestion=result["suggestion"],
            path=Path(plot),
        )
    return result


def _find(
    local_rank: int,
    values: Mapping[str, Any],
    cache_path: str | None,
    iterations: int,
    start_lr: float,
    end_lr: float,
) -> dict[str, Any]:
    given = check(values)
    # Groups with a rate of their own start in the same proportion to lr as in the run.
    factor = start_lr / given.lr
    own = {
        name: getattr(given, name) * factor
        for name in ("backbone_lr", "head_lr")
        if getattr(given, name) is not None
    }
    config = check({**values, **_BARE, **own, "lr": start_lr})
    handlers = [load_object(name, setting="--handlers") for name in config.handlers]
    with tempfile.TemporaryDirectory(prefix="fer-ignite-find-lr-") as name:
        folder = RunDir(name)
        folder.create()
        dataset, device = open_dataset(config, cache_path), select_device(config)
        session = build_session_objects(
            config,
            dataset,
            folder=folder,
            device=device,
            handlers=handlers,
            teacher=load_teacher(config, dataset, device=device),
        )
        _remove_other_handlers(session)
        if not given.quiet:
            _attach_bar(session, iterations)
        # The finder counts the trainer's iterations, which are micro-batches.
        finder, diverged = _rise(
            session, iterations * config.grad_accum_steps, start_lr=start_lr, end_lr=end_lr
        )
    lrs, losses = _curve(finder, session, end_lr=end_lr)
    return {
        # The curve is cut at end_lr; the finder's suggestion is not.
        "suggestion": min(_suggestion(finder, session, start_lr=start_lr, end_lr=end_lr), lrs[-1]),
        "lowest": lrs[losses.index(min(losses))],
        "diverged": diverged,
        "iterations": len(lrs) // config.grad_accum_steps,
        "opt": config.opt,
        "batch_size": config.batch_size,
        "precision": session.precision,
        "curve": {"lr": lrs, "loss": losses},
    }


def _remove_other_handlers(session: Session) -> None:
    """Removes handlers that score or write, and the schedule, which would set the rate again before each step."""
    for name in (*_FILING, "scheduler"):
        if name in session.handles:
            session.handles[name].remove()


def _attach_bar(session: Session, iterations: int) -> None:
    bar = progress(iterations, "learning-rate range test", unit="step")
    session.trainer.add_event_handler(StepEvents.OPTIMIZER_STEPPED, lambda: bar.update())
    session.trainer.add_event_handler(Events.COMPLETED, lambda: bar.close())
    session.at_close.callback(bar.close)


def _rise(
    session: Session, iterations: int, *, start_lr: float, end_lr: float
) -> tuple[FastaiLRFinder, bool]:
    finder = FastaiLRFinder()
    finder.logger.setLevel("WARNING")
    # 3: the stop is a vote, read two iterations later
    epochs = math.ceil((iterations + 3) / len(session.train_loader))
    session.config = session.config.model_copy(update={"epochs": epochs})
    starts = [group["lr"] for group in session.optimizer.param_groups]
    ends = [end_lr * start / start_lr for start in starts]
    # The finder stores both and loads them again when it is detached.
    objects = {"model": session.model, "optimizer": session.optimizer}
    with warnings.catch_warnings():
        # Reported as ``diverged`` in the result.
        warnings.filterwarnings(
            "ignore", message="Run completed without loss diverging", category=UserWarning
        )
        with finder.attach(
            session.trainer,
            to_save=objects,
            output_transform=_finite_loss,
            num_iter=iterations,
            start_lr=starts,
            end_lr=ends,
        ):
            session.run()
    # Ignite has no public name for it.
    return finder, finder._diverge_flag


def _finite_loss(output: Mapping[str, Any]) -> float:
    """Infinite for NaN: nothing is greater than NaN, and the finder would continue with it for ever."""
    loss = float(output["loss"])
    return loss if math.isfinite(loss) else math.inf


def _curve(
    finder: FastaiLRFinder, session: Session, *, end_lr: float
) -> tuple[list[float], list[float]]:
    """Rates as ``lr`` has them, up to the last one requested, and finite smoothed losses."""
    pairs = zip(finder.get_results()["lr"], finder.get_results()["loss"], strict=True)
    # the finder has put the first rates back
    scale = session.config.lr / session.optimizer.param_groups[0]["lr"]
    scaled = [(_first(rate) * scale, loss) for rate, loss in pairs]
    kept = [
        (rate, loss) for rate, loss in scaled if math.isfinite(loss) and rate <= end_lr * (1 + 1e-6)
    ]
    if not kept:
        raise FerError(
            "the loss was not finite from the first iteration on; try --precision fp32, or look at the data."
        )
    return [rate for rate, _ in kept], [loss for _, loss in kept]


def _first(rate: float | list[float]) -> float:
    """The first group's: with several groups the finder keeps a list."""
    return float(rate[0] if isinstance(rate, list) else rate)


def _suggestion(
    finder: FastaiLRFinder, session: Session, *, start_lr: float, end_lr: float
) -> float:
    try:
        rate = finder.lr_suggestion()
    except RuntimeError:
        raise FerError(
            f"the loss did not fall between the learning rates {start_lr:g} and {end_lr:g}, so there is no suggestion; "
            "set a lower --start-lr, or more --iterations."
        ) from None
    return _first(rate) * session.config.lr / session.optimizer.param_groups[0]["lr"]


def draw_rates(
    lrs: Sequence[float], losses: Sequence[float], *, suggestion: float, path: Path
) -> None:
    """The smoothed loss over the learning rate, and the suggestion; what lies far above the start is cut off."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(lrs, losses, color="#1f6fb2")
    axes.axvline(
        suggestion,
        color="#c0392b",
        linewidth=1,
        linestyle="--",
        label=f"suggestion: lr {suggestion:.2g}",
    )
    low, first = min(losses), losses[0]
    margin = 0.1 * max(first - low, 1e-3)
    axes.set(
        xscale="log",
        xlabel="learning rate",
        ylabel="training loss, smoothed",
        ylim=(low - margin, first + 5 * margin),
    )
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    write_output(path, lambda file: figure.savefig(file, format="png", dpi=110))
