"""Builds a session from a configuration, with every built-in handler, then the user's."""

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from ignite.handlers import EMAHandler, HandlersTimeProfiler
from ignite.metrics import Metric
from ignite.utils import manual_seed
from torch import nn

from fer_ignite.checkpoint.run_dir import RunDir
from fer_ignite.config import Config
from fer_ignite.data.dataset import FaceDataset
from fer_ignite.data.fetchers import CacheFetcher
from fer_ignite.data.loader import EvalLoader, Preprocessing, TrainLoader
from fer_ignite.data.sampler import EpochSampler
from fer_ignite.distributed import reset_signals
from fer_ignite.distributed.collectives import cpu_group
from fer_ignite.imports import load_object
from fer_ignite.metrics.classification import attach_metrics
from fer_ignite.metrics.curves import ThresholdCounts
from fer_ignite.training import step
from fer_ignite.training.components import (
    DEV_BATCHES,
    build_augment_spec,
    build_image_size_schedule,
    build_loss_from_config,
    build_loss_weights,
    build_network,
    build_optimizer_from_config,
    build_preprocessing,
    build_sampler,
    loss_terms,
)
from fer_ignite.training.coordination import StopCoordinator
from fer_ignite.training.distillation import Distillation
from fer_ignite.training.ema import make_ema
from fer_ignite.training.handlers import attach_decisions, attach_reports, attach_run, attach_step
from fer_ignite.training.loggers import attach_profiler
from fer_ignite.training.losses import LossBuffers, build_loss
from fer_ignite.training.precision import resolve_precision
from fer_ignite.training.running_metrics import RunningMetrics
from fer_ignite.training.session import Session
from fer_ignite.training.swa import WeightAverage, statistics_loader
from fer_ignite.training.trainer import Trainer, create_evaluator, create_trainer

__all__ = ["build_session_objects"]


def build_session_objects(
    config: Config,
    dataset: FaceDataset,
    *,
    folder: RunDir,
    device: torch.device,
    handlers: Sequence[Callable[[Session], Any]] = (),
    signal_number: Callable[[], int] = lambda: 0,
    time_limit_s: float | None = None,
    teacher: nn.Module | None = None,
) -> Session:
    """A session with every built-in handler attached, then the user's; not yet resumed, not yet run.

    Args:
        teacher: for distillation: normalised images -> log-probabilities, on ``device``; None where the settings name none.
    """
    _set_determinism(config)
    if config.fast_dev_run:
        dataset = dataset.shortened(DEV_BATCHES * config.eval_batch_size)
    preprocessing = build_preprocessing(config, dataset)
    precision = resolve_precision(config.precision, device)
    model = build_network(config, dataset, preprocessing=preprocessing, device=device)
    # Before DistributedDataParallel and the averages: it freezes parameters, for which DDP must expect no gradients.
    optimizer = build_optimizer_from_config(config, model)
    sampler = build_sampler(config, dataset)
    # Class weights are counted on what the sampler trains on, without excluded images.
    loss = build_loss_from_config(config, dataset, sampler=sampler).to(device)
    trainer = create_trainer(
        _distributed_model(model, config),
        loss_terms(loss),
        device=device,
        precision=precision,
        world=idist.get_world_size(),
        distillation=_build_distillation(config, teacher, device=device, precision=precision),
    )
    train_loader, val_loader = _build_loaders(
        config,
        dataset,
        sampler=sampler,
        preprocessing=preprocessing,
        device=device,
        trainer=trainer,
        model=model,
    )
    # Train images through val's loader: neither augmented nor transformed.
    images = statistics_loader(val_loader, sampler.indices_N)
    ema, swa = _build_averages(config, model, images=images, device=device, precision=precision)
    evaluated = ema.ema_model if ema is not None else swa.model if swa is not None else model
    # Scored by plain cross-entropy, as is custom: val losses of runs with other smoothing or weights can be compared.
    # One view while training continues; the run's view averaging is for the final figures.
    scoring_terms = loss_terms(build_loss("ce"))
    evaluator = create_evaluator(evaluated, scoring_terms, device=device, precision=precision)
    session = Session(
        config=config,
        dataset=dataset,
        folder=folder,
        device=device,
        precision=precision,
        preprocessing=preprocessing,
        model=model,
        evaluated=evaluated,
        optimizer=optimizer,
        scaler=step.make_scaler(device, precision),
        scoring_terms=scoring_terms,
        trainer=trainer,
        evaluator=evaluator,
        train_loader=train_loader,
        val_loader=val_loader,
        running_metrics=RunningMetrics(group=cpu_group(), device=device),
        coordinator=_build_coordinator(
            config, trainer, signal_number=signal_number, time_limit_s=time_limit_s
        ),
        rank=idist.get_rank(),
        world=idist.get_world_size(),
        metrics=_build_metrics(config, evaluator, num_classes=len(dataset.classes), device=device),
        ema=ema,
        swa=swa,
    )
    if buffers := LossBuffers(loss):
        session.add_to_checkpoint("--loss", buffers)
    attach_step(session)
    attach_run(session)
    # On one rank only, so none of these may call a collective; report() reduces what they show on
    # all ranks.
    if session.rank == 0:
        attach_reports(session)
    attach_decisions(session)
    for setup in handlers:
        _set_up(session, setup)
    if config.profile == "handlers" and session.rank == 0:
        session.profiler = attach_profiler(session.trainer, HandlersTimeProfiler())
    return session


def _set_up(session: Session, setup: Callable[[Session], Any]) -> None:
    made = setup(session)
    # The name under which a resume point keeps the state: where the function lies, and a number,
    # because one function may return several things or be given twice.
    name = (
        f"{getattr(setup, '__module__', '')}:{getattr(setup, '__qualname__', type(setup).__name__)}"
    )
    for thing in made if isinstance(made, (list, tuple)) else (made,):
        if hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict"):
            number = sum(key.rpartition("#")[0] == name for key in session.kept)
            session.add_to_checkpoint(f"{name}#{number}", thing)


def _build_distillation(
    config: Config, teacher: nn.Module | None, *, device: torch.device, precision: str
) -> Distillation | None:
    if teacher is None:
        return None
    return Distillation(
        teacher,
        weight=config.distill_weight,
        temperature=config.distill_temperature,
        device=device,
        precision=precision,
    )


def _build_averages(
    config: Config, model: nn.Module, *, images: EvalLoader, device: torch.device, precision: str
) -> tuple[EMAHandler | None, WeightAverage | None]:
    """EMA and SWA, each None where the settings have none; images: for SWA's batch statistics."""
    ema = make_ema(model, decay=config.model_ema_decay) if config.model_ema else None
    if config.swa_start is None:
        return ema, None
    return ema, WeightAverage(
        model,
        start=config.swa_start,
        epochs=config.epochs,
        images=images,
        device=device,
        precision=precision,
    )


def _build_coordinator(
    config: Config,
    trainer: Trainer,
    *,
    signal_number: Callable[[], int],
    time_limit_s: float | None,
) -> StopCoordinator:
    return StopCoordinator(
        trainer,
        group=cpu_group(),
        signal_number=signal_number,
        time_limit_s=time_limit_s,
        save_every_s=60 * config.save_minutes,
        save_epochs=config.save_epochs,
        save_iterations=config.save_iterations,
        nonfinite_patience=config.nonfinite_patience,
    )


def _build_metrics(
    config: Config, evaluator: Engine, *, num_classes: int, device: torch.device
) -> dict[str, Metric]:
    metrics = attach_metrics(evaluator, num_classes=num_classes, device=device)
    if config.tensorboard:  # on every process: the counts are reduced over them
        metrics["threshold_counts"] = ThresholdCounts(num_classes, device=device)
        metrics["threshold_counts"].attach(evaluator, "threshold_counts")
    return metrics


def _set_determinism(config: Config) -> None:
    # for user code; what is ours draws from generators of its own, but for the network's first weights
    manual_seed(config.seed)
    # read when cuBLAS makes its first handle; without it torch refuses matrix products on CUDA
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Both are set in either case: an earlier session of the same process may have left them
    # otherwise.
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.use_deterministic_algorithms(config.deterministic)


def _distributed_model(model: nn.Module, config: Config) -> nn.Module:
    """The network, compiled where the settings say so, and wrapped where there are several processes."""
    # In place: torch.compile(model) returns a wrapper whose state dict has `_orig_mod.` before each
    # name.
    if config.compile:
        model.compile()
    # With one process auto_model would wrap nn.DataParallel on a machine with several GPUs.
    if idist.get_world_size() == 1:
        return model
    # Ignite's logger would print what was requested.
    logging.getLogger("ignite.distributed.auto.auto_model").disabled = True
    # broadcast_buffers stays on (torch's default): each accumulation group begins with rank 0's
    # batch statistics on all ranks, and so does a resumed run, as a checkpoint holds rank 0's.
    return idist.auto_model(model, sync_bn=config.sync_bn, gradient_as_bucket_view=True)


def _build_loaders(
    config: Config,
    dataset: FaceDataset,
    *,
    sampler: EpochSampler,
    preprocessing: Preprocessing,
    device: torch.device,
    trainer: Engine,
    model: nn.Module,
) -> tuple[TrainLoader, EvalLoader]:
    def user(name: str) -> Any:
        text = getattr(config, name)
        return None if text is None else load_object(text, setting="--" + name.replace("_", "-"))

    rank, world = idist.get_rank(), idist.get_world_size()
    loading = {
        "seed": config.seed,
        "collate_fn": user("collate_fn"),
        "workers": config.workers,
        "worker_init": reset_signals,
    }
    train_fetcher = dataset.fetcher(device, transform=user("sample_transform"), **loading)
    train_loader = TrainLoader(
        train_fetcher,
        sampler,
        dataset.targets,
        preprocessing,
        device,
        build_augment_spec(config),
        rank,
        world,
        iteration=lambda: trainer.state.iteration,
        batch_transform=user("batch_transform"),
        channels_last=config.channels_last,
        sizes=build_image_size_schedule(config, preprocessing, model=model, device=device),
        loss_weights_N=build_loss_weights(config, dataset, sampler=sampler),
    )
    # One fetcher for both where it may be: a dataset cache is held on an accelerator once.
    # sample_transform is augmentation: val is scored without it.
    val_fetcher = (
        train_fetcher
        if isinstance(train_fetcher, CacheFetcher)
        else dataset.fetcher(device, **loading)
    )
    val_loader = EvalLoader(
        val_fetcher,
        dataset.indices["val"],
        dataset.targets,
        preprocessing,
        device,
        config.eval_batch_size,
        rank,
        world,
        config.channels_last,
    )
    return train_loader, val_loader
