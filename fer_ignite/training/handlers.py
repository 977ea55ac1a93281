"""Built-in handlers in their order, each under a name in ``session.handles``."""

import logging
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import BasicTimeProfiler

from fer_ignite.checkpoint.handler import AtomicSaver, attach_best, attach_resume_points, attach_top
from fer_ignite.distributed.collectives import agree_on_text
from fer_ignite.imports import load_object
from fer_ignite.models.summary import parameter_count
from fer_ignite.training import step
from fer_ignite.training.components import (
    build_schedule_from_config,
    hparam_types,
    min_lr_factor,
    nominal_lr,
)
from fer_ignite.training.coordination import coordination_handlers
from fer_ignite.training.early_stopping import attach_early_stopping
from fer_ignite.training.ema import attach_ema
from fer_ignite.training.events import RunEvents
from fer_ignite.training.loggers import (
    attach_epoch_clock,
    attach_history,
    attach_plots,
    attach_profiler,
    attach_progress_bar,
)
from fer_ignite.training.lr_schedule import PlateauFactor, attach_schedule
from fer_ignite.training.monitor import lower_is_better, monitor_score
from fer_ignite.training.running_metrics import attach_running_metrics
from fer_ignite.training.sam import attach_sam
from fer_ignite.training.session import Session, versions
from fer_ignite.training.state import evaluation_state, resume_state
from fer_ignite.training.tensorboard import TensorboardReport
from fer_ignite.training.trainer import share_of_mean_loss

__all__ = ["attach_decisions", "attach_reports", "attach_run", "attach_step"]

logger = logging.getLogger("fer_ignite")


def attach_step(session: Session) -> None:
    """What makes an optimizer step: randomness, training mode, rate, backward, unscale, norm, clip, step, zero_grad."""
    trainer, config, model = session.trainer, session.config, session.model
    optimizer, scaler = session.optimizer, session.scaler
    session.attach("reseed", trainer, event=Events.ITERATION_STARTED, handler=session.reseed)
    _attach_schedule(session)
    session.attach(
        "train_mode", trainer, event=Events.ITERATION_STARTED, handler=session.prepare_model
    )
    # From here on the order decides the result: each handler reads the gradients as the ones before
    # have left them.
    session.register_handle("backward", step.attach_backward(trainer, scaler))
    if session.world > 1:
        session.register_handle(
            "unused_parameters", step.attach_unused_parameter_check(trainer, model)
        )
    # Before norm and clip, which are about the second pass's gradients; with fp16, SAM is refused.
    if config.sam_rho:
        session.register_handle(
            "sam", attach_sam(trainer, model, rho=config.sam_rho, reseed=session.reseed)
        )
    session.register_handle("unscale", step.attach_unscale(trainer, optimizer, scaler=scaler))
    # Before clip: clipping by value turns an infinite gradient into a finite one, and the step
    # would be taken.
    session.register_handle(
        "gradient_norm",
        step.attach_gradient_norm(trainer, model, optimizer=optimizer, scaler=scaler),
    )
    if config.clip_grad is not None:
        session.register_handle(
            "clip",
            step.attach_clip(
                trainer,
                model,
                limit=config.clip_grad,
                mode=config.clip_mode,
                optimizer=optimizer,
                scaler=scaler,
            ),
        )
    session.register_handle(
        "optimizer_step", step.attach_optimizer_step(trainer, optimizer, scaler=scaler)
    )
    # Before ema, which averages the batch statistics too.
    session.register_handle("batchnorm_guard", step.attach_batchnorm_guard(trainer, model))
    if config.model_ema:
        session.register_handle("ema", attach_ema(trainer, session.ema))
    session.register_handle("zero_grad", step.attach_zero_grad(trainer, optimizer))


def _attach_schedule(session: Session) -> None:
    config, trainer = session.config, session.trainer
    lr = nominal_lr(config, session.optimizer)
    if config.sched == "plateau":
        session.plateau = PlateauFactor(
            config.monitor,
            mode="min" if lower_is_better(config.monitor, config.monitor_mode) else "max",
            factor=config.decay_rate,
            patience=config.plateau_patience,
            threshold=config.min_delta,
            min_factor=min_lr_factor(config, lr=lr),
        )
        plateau = session.plateau
        # register_last moves what is attached already; it attaches nothing.
        validated = session.validation_completed
        session.evaluator.add_event_handler(validated, plateau)
        session.register_last("plateau", session.evaluator, event=validated, handler=plateau)
    # Schedules count optimizer steps: the rate is set at the first micro-batch of an accumulation group.
    # The filter reads the new batch: Ignite fetches it before ITERATION_STARTED.
    opens = Events.ITERATION_STARTED(
        event_filter=lambda engine, _: engine.state.batch.is_first_micro
    )
    schedule = build_schedule_from_config(
        config, steps_per_epoch=session.train_loader.plan.steps_per_epoch, lr=lr
    )
    session.scheduler, handle = attach_schedule(
        trainer, session.optimizer, schedule=schedule, event=opens, plateau=session.plateau
    )
    session.register_handle("scheduler", handle)


def attach_run(session: Session) -> None:
    """What every process does between steps: sums, logged values, the clock, the validation."""
    trainer, running_metrics = session.trainer, session.running_metrics

    def log_step(engine: Engine) -> None:
        iteration, norm = engine.state.iteration, engine.state.grad_norm
        # Not session.log(), which refuses these names to users.
        running_metrics.log(
            "step_loss", share_of_mean_loss(engine.state, session.world), iteration=iteration
        )
        if norm is not None:
            running_metrics.log("grad_norm", norm, iteration=iteration)

    # A run that continues within an epoch fires no EPOCH_STARTED, so the sums of its resume point
    # stay.
    session.attach(
        "clear_metrics",
        trainer,
        event=Events.EPOCH_STARTED,
        handler=lambda engine: running_metrics.clear(),
    )
    # Before flush_metrics, which is due in the same iterations.
    session.attach(
        "log_step",
        trainer,
        event=Events.ITERATION_COMPLETED(every=session.config.log_every),
        handler=log_step,
    )
    session.handles.update(
        attach_running_metrics(trainer, running_metrics, log_every=session.config.log_every)
    )
    # Before validate: the clock stops at EPOCH_COMPLETED, and the validation is not to be counted.
    session.epoch_clock = attach_epoch_clock(trainer)
    # Before best, plateau and early stopping: a diverged network ends the run, and is not counted
    # as an epoch without gain.
    session.evaluator.add_event_handler(session.validation_completed, session.require_finite_scores)
    trainer.add_event_handler(RunEvents.RESUME_POINT, session.require_finite_weights)
    if session.swa is not None:
        session.attach("swa", trainer, event=Events.EPOCH_COMPLETED, handler=session.swa.update)
    # Behind swa: the validation scores the average with this epoch in it.
    session.attach("validate", trainer, event=Events.EPOCH_COMPLETED, handler=session.validate)


def attach_reports(session: Session) -> None:
    """What the main process writes and shows: history, pictures, progress bar, TensorBoard, trackers, profiler."""
    config, trainer, folder = session.config, session.trainer, session.folder
    session.register_handle(
        "history",
        attach_history(
            trainer,
            folder,
            line=session.history_line,
            logger=logger,
            monitor=config.monitor,
            logged=lambda: session.running_metrics.epoch_names,
        ),
    )
    # Behind history: the curves are drawn from history.jsonl.
    if config.plots:
        session.register_handle(
            "plots",
            attach_plots(
                trainer,
                folder,
                classes=session.dataset.classes,
                metrics=lambda: session.epoch_metrics,
            ),
        )
    if not config.quiet:
        bars = attach_progress_bar(trainer, session.evaluator, session.running_metrics)
        session.progress_bar = bars[0]
        for bar in bars:
            session.at_close.callback(bar.finish)  # an error within an epoch
    # Behind plots: TensorBoard takes over the picture of the confusion matrix that they have drawn.
    if config.tensorboard:
        _attach_tensorboard(session)
    if config.track:
        _attach_trackers(session)
    if config.profile == "basic":
        session.profiler = attach_profiler(trainer, BasicTimeProfiler())


def _attach_tensorboard(session: Session) -> None:
    config, folder = session.config, session.folder
    report = TensorboardReport(
        session.trainer,
        metrics=lambda: session.epoch_metrics,
        optimizer=session.optimizer,
        folder=folder.tensorboard,
        classes=session.dataset.classes,
        settings=config.model_dump(mode="json"),
        hparam_types=hparam_types(),
        picture=folder.plots / "confusion_matrix.png" if config.plots else None,
        unnormalise=session.preprocessing.unnormalise,
        records=session.running_metrics,
        every=config.log_every,
    )
    session.tensorboard = report.logger
    session.handles.update(report.attach())


def _attach_trackers(session: Session) -> None:
    config = session.config
    # By name: the core imports no application, and no tracker is loaded where none was named.
    attach_trackers = load_object(
        "fer_ignite.apps.trackers.attach:attach_trackers", setting="--track"
    )
    session.trackers = attach_trackers(
        config.track,
        session.trainer,
        optimizer=session.optimizer,
        folder=session.folder,
        running_metrics=session.running_metrics,
        line=session.history_line,
        settings=lambda: _described(session),
        project=config.project,
        checkpoint=config.track_checkpoints,
        every=config.log_every,
    )


def _described(session: Session) -> dict[str, Any]:
    """The settings, versions, data and device for the trackers; no secrets are among them."""
    return {
        **session.config.model_dump(mode="json"),
        **{f"versions.{name}": version for name, version in versions().items()},
        "run.data": session.dataset.source,
        "run.data_fingerprint": session.dataset.fingerprint,
        "run.device": str(session.device),
        "run.precision": session.precision,
        "run.processes": session.world,
        "run.parameters": parameter_count(session.model),
    }


def attach_decisions(session: Session) -> None:
    """Best checkpoint, early stopping, reports, resume points, votes: behind the user's handlers once the run starts."""
    config, trainer, evaluator = session.config, session.trainer, session.evaluator
    score = monitor_score(config.monitor, config.monitor_mode)
    # Only rank 0 writes. agree_on_text shares its error, so that a full disk ends all ranks in the
    # same save.
    saver = AtomicSaver(session.folder.checkpoints, agree=agree_on_text)
    # What decides moves behind the users' handlers at the start: they may add the metric that is
    # monitored.
    validated = session.validation_completed
    best = attach_best(
        evaluator,
        evaluation_state(session),
        saver=saver,
        score=score,
        trainer=trainer,
        event=validated,
    )
    session.best_checkpoint = best
    session.register_last("best", evaluator, event=validated, handler=best)
    if config.keep_best > 1:
        top = attach_top(
            evaluator,
            evaluation_state(session),
            saver=saver,
            score=score,
            trainer=trainer,
            keep=config.keep_best,
            event=validated,
        )
        session.top_checkpoints = top
        session.register_last("top", evaluator, event=validated, handler=top)
    if config.patience > 0:
        stopper = attach_early_stopping(
            trainer,
            evaluator,
            patience=config.patience,
            min_delta=config.min_delta,
            score=score,
            event=validated,
        )
        session.early_stopping = stopper
        session.register_last("early_stopping", evaluator, event=validated, handler=stopper)
    # The point at an epoch's end is written by sync_epoch, when best, plateau and early stopping
    # have seen the epoch. Written earlier, it would hold their states of the epoch before, and a
    # resumed run would stop one epoch late.
    points = attach_resume_points(
        trainer,
        resume_state(session),
        saver=saver,
        event=RunEvents.RESUME_POINT,
        keep=config.keep_checkpoints,
    )
    session.resume_checkpoint = points
    session.register_last("resume_points", trainer, event=RunEvents.RESUME_POINT, handler=points)
    # After best and early stopping: the line says whether this epoch is the best one.
    trainer.add_event_handler(Events.EPOCH_COMPLETED, session.report)
    session.register_last("report", trainer, event=Events.EPOCH_COMPLETED, handler=session.report)
    # Last of all: what any handler of the epoch requests is reduced, saved and acted on at this
    # same epoch's end.
    for name, event, handler in coordination_handlers(session.coordinator):
        trainer.add_event_handler(event, handler)
        session.register_last(name, trainer, event=event, handler=handler)
    _guard_handles(session)


def _guard_handles(session: Session) -> None:
    """Refuses removals that would make results wrong without an error."""

    def needed_by_resume_points() -> str | None:
        if not session.is_attached("resume_points"):
            return None
        return "handles['reduce_metrics'] can't be removed: a resume point needs the epoch's sums; remove handles['resume_points'] first."

    scaled = session.scaler.is_enabled()
    session.guard("reduce_metrics", needed_by_resume_points)
    session.guard(
        "ema",
        lambda: (
            "handles['ema'] can't be removed: the evaluation uses the average of the weights; set model_ema=False (--no-model-ema) instead."
        ),
    )
    session.guard(
        "swa",
        lambda: (
            "handles['swa'] can't be removed: the evaluation uses the average of the weights; leave swa_start (--swa-start) out instead."
        ),
    )
    session.guard(
        "zero_grad",
        lambda: (
            (
                "handles['zero_grad'] can't be removed with precision fp16: gradients with and without the loss scale would be added; "
                "choose --precision bf16 or fp32, or --grad-accum-steps to accumulate."
            )
            if scaled
            else None
        ),
    )
