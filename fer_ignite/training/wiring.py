"""Settings become objects, objects become a session: the one place where the configuration is read for training."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim import Optimizer

from fer_ignite.config import Config
from fer_ignite.data.augment import AugmentSpec
from fer_ignite.data.faces import Faces
from fer_ignite.data.plan import Plan
from fer_ignite.data.stream import EvalStream, Preparation, TrainStream
from fer_ignite.errors import CheckpointError, ConfigError
from fer_ignite.imports import load_object
from fer_ignite.launch import reset_signals
from fer_ignite.launch.groups import agree_on_text, cpu_group
from fer_ignite.models.registry import build_model
from fer_ignite.models.weights import initialise_from
from fer_ignite.training import amp
from fer_ignite.training.checkpoints import load_weights_file
from fer_ignite.training.class_weights import class_weights
from fer_ignite.training.ema import attach_ema
from fer_ignite.training.engines import create_evaluator, create_trainer
from fer_ignite.training.events import RunEvents
from fer_ignite.training.files import RunFolder
from fer_ignite.training.logging import (
    attach_basic_profiler,
    attach_epoch_clock,
    attach_handlers_profiler,
    attach_history,
    attach_plots,
    attach_progress_bar,
    attach_tensorboard,
)
from fer_ignite.training.losses import Loss, build_loss
from fer_ignite.training.metrics import attach_metrics
from fer_ignite.training.optim import OPTIMIZER_SETTINGS, build_optimizer, parameter_groups
from fer_ignite.training.records import Records, attach_records
from fer_ignite.training.saving import DurableSaver, attach_best, attach_resume_points
from fer_ignite.training.schedules import PlateauFactor, Schedule, attach_schedule, build_schedule
from fer_ignite.training.session import Session
from fer_ignite.training.state import evaluation_state, resume_state
from fer_ignite.training.stopping import Votes, attach_early_stopping, finite_score, lower_is_better, voting_handlers

__all__ = ["augmentation_of", "preparation_of", "schedule_of", "wire"]

logger = logging.getLogger("fer_ignite")

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DEV_BATCHES = 3


def preparation_of(config: Config, faces: Faces) -> Preparation:
    """From stored faces to the network's input."""
    image_px = config.image_size or faces.side_px or 48
    mean, std = (faces.mean, faces.std) if config.normalize == "train" else IMAGENET
    if faces.channels == 1 and len(mean) == 3:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    return Preparation(image_px, config.resize or image_px, faces.channels, mean, std, config.resize_mode)


def augmentation_of(config: Config) -> AugmentSpec | None:
    """How the train split is augmented; None for not at all."""
    if not config.augment:
        return None
    return AugmentSpec(
        hflip=config.hflip, vflip=config.vflip, rotate_deg=config.rotate, scale=config.scale, shift=config.shift,
        shear_deg=config.shear, brightness=config.brightness, contrast=config.contrast, reprob=config.reprob,
        mixup=config.mixup, cutmix=config.cutmix, padding=config.padding,
    )  # fmt: skip


def plan_of(config: Config, faces: Faces) -> Plan:
    """The order of the train split."""
    indices = faces.train_indices(drop_leaks=config.drop_leaks, limit=config.limit_train, seed=config.seed)
    if config.fast_dev_run:
        indices = indices[: DEV_BATCHES * config.batch_size]
    return Plan(
        indices, faces.targets.labels_N[indices], config.seed, config.batch_size, config.grad_accum_steps,
        config.drop_last, config.sampler,
    )  # fmt: skip


def schedule_of(config: Config, *, steps_per_epoch: int) -> Schedule:
    """Factor of the learning rate at each optimizer step."""
    return build_schedule(
        config.sched, steps_per_epoch=steps_per_epoch, epochs=config.epochs,
        warmup_steps=round(config.warmup_epochs * steps_per_epoch), warmup_start_factor=config.warmup_start,
        min_factor=min(1.0, config.min_lr / config.lr), decay_epochs=config.decay_epochs, decay_rate=config.decay_rate,
        milestones=config.milestones, pct_start=config.pct_start, div_factor=config.div_factor,
        final_div_factor=config.final_div_factor,
    )  # fmt: skip


def wire(
    config: Config,
    faces: Faces,
    folder: RunFolder,
    *,
    device: torch.device,
    handlers: Sequence[Callable[[Session], Any]] = (),
    signal_number: Callable[[], int] = lambda: 0,
    time_limit_s: float | None = None,
) -> Session:
    """A session with every built-in handler attached, then the user's; not yet resumed, not yet run."""
    session = _bare_session(config, faces, folder, device, signal_number, time_limit_s)
    _attach_step(session)
    _attach_run(session)
    if session.rank == 0:
        _attach_reports(session)
    _attach_decisions(session)
    for setup in handlers:
        _set_up(session, setup)
    if config.profile == "handlers" and session.rank == 0:
        session.objects["profiler"] = attach_handlers_profiler(session.trainer)
    return session


def _set_up(session: Session, setup: Callable[[Session], Any]) -> None:
    made = setup(session)
    name = f"{getattr(setup, '__module__', '')}:{getattr(setup, '__qualname__', type(setup).__name__)}"
    for thing in made if isinstance(made, (list, tuple)) else (made,):
        if hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict"):
            session.keep(f"{name}#{len(session.kept)}", thing)


def _bare_session(
    config: Config, faces: Faces, folder: RunFolder, device: torch.device, signal_number: Callable[[], int],
    time_limit_s: float | None,
) -> Session:  # fmt: skip
    rank, world, group = idist.get_rank(), idist.get_world_size(), cpu_group()
    _set_determinism(config)
    preparation, precision = preparation_of(config, faces), amp.resolve_precision(config.precision, device)
    model = _model(config, faces, preparation, device)
    optimizer = _optimizer(config, model)
    plan = plan_of(config, faces)
    terms = loss_terms(_loss(config, faces, plan).to(device))
    wrapped = _wrapped(model, config, world)
    trainer = create_trainer(wrapped, terms, device=device, precision=precision, world=world)
    objects: dict[str, Any] = {}
    evaluated = model
    if config.model_ema:
        objects["ema"] = attach_ema(trainer, model, decay=config.model_ema_decay)
        evaluated = objects["ema"].ema_model
    # Scored by plain cross-entropy, as is custom: val losses of runs with other smoothing or weights can be compared.
    # One view while training goes on; the run's view averaging is for the final figures.
    plain = loss_terms(build_loss("ce"))
    evaluator = create_evaluator(evaluated, plain, device=device, precision=precision)
    metrics = attach_metrics(evaluator, num_classes=len(faces.classes), device=device, terms=("loss",))
    train_stream, val_stream = _streams(config, faces, plan, preparation, device, trainer, rank, world)
    votes = Votes(
        trainer, group=group, signal_number=signal_number, time_limit_s=time_limit_s,
        save_every_s=60 * config.save_minutes, save_epochs=config.save_epochs, save_iterations=config.save_iterations,
        nonfinite_patience=config.nonfinite_patience,
    )  # fmt: skip
    scaler = amp.make_scaler(device, precision)
    records = Records(group=group, device=device)
    return Session(
        config, faces, folder, device, precision, preparation, model, evaluated, optimizer, scaler, plain, trainer,
        evaluator, train_stream, val_stream, records, votes, rank, world, metrics=metrics, objects=objects,
    )  # fmt: skip


def _set_determinism(config: Config) -> None:
    torch.manual_seed(config.seed)
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.use_deterministic_algorithms(config.deterministic)


def _model(config: Config, faces: Faces, preparation: Preparation, device: torch.device) -> nn.Module:
    model = build_model(
        config.model, num_classes=len(faces.classes), in_channels=preparation.channels, image_px=preparation.image_px,
        pretrained=config.pretrained, dropout=config.dropout, model_args=config.model_args, norm=config.norm,
    )  # fmt: skip
    if config.init_from is not None:
        try:
            report = initialise_from(model, load_weights_file(config.init_from), strict=config.strict)
        except CheckpointError as error:
            raise CheckpointError(f"--init-from: {error}") from None
        logger.info("weights of %s\n%s", config.init_from, report.describe())
    model = model.to(device)
    return model.to(memory_format=torch.channels_last) if config.channels_last else model  # type: ignore[call-overload]


def _optimizer(config: Config, model: nn.Module) -> Optimizer:
    groups = parameter_groups(
        model, lr=config.lr, backbone_lr=config.backbone_lr, head_lr=config.head_lr,
        weight_decay=config.weight_decay, freeze=config.freeze,
    )  # fmt: skip
    settings = {name: getattr(config, name) for name in ("momentum", "nesterov", "betas", "amsgrad", "alpha", "lr_decay", "rho")}
    settings["eps"] = config.opt_eps
    own = {name: value for name, value in settings.items() if name in OPTIMIZER_SETTINGS[config.opt] and value is not None}
    return build_optimizer(config.opt, groups, lr=config.lr, weight_decay=config.weight_decay, **own)


def _loss(config: Config, faces: Faces, plan: Plan) -> Loss:
    weights_K = class_weights(config.class_weights, faces.counts(plan.indices_N).tolist(), faces.classes)
    return build_loss(config.loss, smoothing=config.smoothing, focal_gamma=config.focal_gamma, weights_K=weights_K)


def loss_terms(loss: Loss) -> Callable[[Tensor, Tensor], Mapping[str, Tensor]]:
    """(logits_BK, targets_BK) -> {"loss": losses_B, and the terms where there are several}."""

    def terms(logits_BK: Tensor, targets_BK: Tensor) -> Mapping[str, Tensor]:
        parts = loss.terms(logits_BK, targets_BK)
        total_B = loss.total(parts)
        return {"loss": total_B} if len(parts) == 1 else {"loss": total_B, **parts}

    return terms


def _wrapped(model: nn.Module, config: Config, world: int) -> nn.Module:
    if config.compile:
        model.compile()
    if world == 1:  # auto_model would wrap nn.DataParallel on a machine with several GPUs
        return model
    logging.getLogger("ignite.distributed.auto.auto_model").disabled = True  # it announces what was asked for
    return idist.auto_model(model, sync_bn=config.sync_bn, gradient_as_bucket_view=True)


def _streams(
    config: Config, faces: Faces, plan: Plan, preparation: Preparation, device: torch.device, trainer: Engine,
    rank: int, world: int,
) -> tuple[TrainStream, EvalStream]:  # fmt: skip
    def user(name: str) -> Any:
        text = getattr(config, name)
        return None if text is None else load_object(text, setting="--" + name.replace("_", "-"))

    loading = {"seed": config.seed, "collate_fn": user("collate_fn"), "workers": config.workers, "worker_init": reset_signals}
    train_feed = faces.feed(device, transform=user("sample_transform"), **loading)
    train_stream = TrainStream(
        train_feed, plan, faces.targets, preparation, device, augmentation_of(config), rank, world,
        iteration=lambda: trainer.state.iteration, batch_transform=user("batch_transform"),
        channels_last=config.channels_last,
    )  # fmt: skip
    val_indices = faces.indices["val"][: DEV_BATCHES * config.eval_batch_size if config.fast_dev_run else None]
    val_stream = EvalStream(
        faces.feed(device, **loading), val_indices, faces.targets, preparation, device, config.eval_batch_size, rank,
        world, config.channels_last,
    )  # fmt: skip
    return train_stream, val_stream


def _attach_step(session: Session) -> None:
    trainer, config, model = session.trainer, session.config, session.model
    optimizer, scaler = session.optimizer, session.scaler
    session.attach("reseed", trainer, Events.ITERATION_STARTED, session.reseed)
    _attach_schedule(session)
    session.attach("train_mode", trainer, Events.ITERATION_STARTED, session.prepare_model)
    session.adopt("backward", amp.attach_backward(trainer, scaler))
    session.adopt("unscale", amp.attach_unscale(trainer, optimizer, scaler))
    session.adopt("gradient_norm", amp.attach_gradient_norm(trainer, model))
    if config.clip_grad is not None:
        session.adopt("clip", amp.attach_clip(trainer, model, limit=config.clip_grad, mode=config.clip_mode))
    session.adopt("optimizer_step", amp.attach_optimizer_step(trainer, optimizer, scaler))
    session.adopt("zero_grad", amp.attach_zero_grad(trainer, optimizer))


def _attach_schedule(session: Session) -> None:
    config, trainer = session.config, session.trainer
    if config.sched == "plateau":
        session.objects["plateau"] = PlateauFactor(
            config.monitor, mode="min" if lower_is_better(config.monitor) else "max", factor=config.decay_rate,
            patience=config.plateau_patience, threshold=config.min_delta, min_factor=min(1.0, config.min_lr / config.lr),
        )  # fmt: skip
        plateau = session.objects["plateau"]
        session.evaluator.add_event_handler(Events.COMPLETED, plateau)
        session.adopt_late("plateau", session.evaluator, Events.COMPLETED, plateau)
    # Schedules count optimizer steps: the rate is set when an accumulation window opens.
    opens = Events.ITERATION_STARTED(event_filter=lambda engine, _: engine.state.batch.opens)
    schedule = schedule_of(config, steps_per_epoch=session.train_stream.plan.windows_per_epoch)
    session.objects["scheduler"] = attach_schedule(
        trainer, session.optimizer, schedule, opens, plateau=session.objects.get("plateau")
    )


def _attach_run(session: Session) -> None:
    trainer, records = session.trainer, session.records
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: records.clear())
    attach_records(trainer, records, log_every=session.config.log_every)
    session.objects["clock"] = attach_epoch_clock(trainer)
    session.attach("validate", trainer, Events.EPOCH_COMPLETED, session.validate)

    @trainer.on(Events.ITERATION_COMPLETED(every=session.config.log_every))
    def log_step(engine: Engine) -> None:
        session.log("step_loss", engine.state.output["loss"])
        session.log("grad_norm", engine.state.grad_norm)


def _attach_reports(session: Session) -> None:
    config, trainer, folder = session.config, session.trainer, session.folder
    session.adopt("history", attach_history(trainer, folder, session.history_line, logger))
    if config.plots:
        session.adopt("plots", attach_plots(trainer, folder, session.faces.classes, session.evaluator))
    if not config.quiet:
        session.objects["progress_bar"] = attach_progress_bar(trainer, session.records)
    if config.tensorboard:
        session.objects["tensorboard"] = attach_tensorboard(
            trainer, session.evaluator, session.optimizer, folder, records=session.records, every=config.log_every,
        )  # fmt: skip
    if config.profile == "basic":
        session.objects["profiler"] = attach_basic_profiler(trainer)


def _attach_decisions(session: Session) -> None:
    """Best checkpoint, early stopping, reports, resume points, votes: behind the user's handlers once the run starts."""
    config, trainer, evaluator = session.config, session.trainer, session.evaluator
    score = _score(config.monitor)
    saver = DurableSaver(session.folder.checkpoints, agree=agree_on_text)
    best = attach_best(evaluator, evaluation_state(session), saver, score=score, trainer=trainer)
    session.objects["best"] = best
    session.adopt_late("best", evaluator, Events.COMPLETED, best)
    if config.patience > 0:
        stopper = attach_early_stopping(
            trainer, evaluator, patience=config.patience, min_delta=config.min_delta, score=score
        )
        session.objects["early_stopping"] = stopper
        session.adopt_late("early_stopping", evaluator, Events.COMPLETED, stopper)
    points = attach_resume_points(
        trainer, resume_state(session), saver, event=RunEvents.RESUME_POINT, keep=config.keep
    )
    session.objects["resume_points"] = points
    session.adopt_late("resume_points", trainer, RunEvents.RESUME_POINT, points)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, session.report)
    session.adopt_late("report", trainer, Events.EPOCH_COMPLETED, session.report)
    for name, event, handler in voting_handlers(session.votes):
        trainer.add_event_handler(event, handler)
        session.adopt_late(name, trainer, event, handler)


def _score(monitor: str) -> Callable[[Engine], float]:
    def score(engine: Engine) -> float:
        metrics = engine.state.metrics
        if monitor not in metrics:
            known = ", ".join(name for name, value in metrics.items() if isinstance(value, (int, float)))
            raise ConfigError(f"--monitor {monitor!r} is no metric of the evaluation; there are {known}.")
        return finite_score(metrics[monitor], lower_is_better=lower_is_better(monitor))

    return score
