"""Previews: learning-rate schedule and augmented images."""

from dataclasses import replace
from pathlib import Path

import torch

from fer_ignite.config import Config
from fer_ignite.data.image_sheet import draw_sheet
from fer_ignite.data.loader import TrainLoader
from fer_ignite.data.open import find_cache, open_dataset
from fer_ignite.training.components import (
    build_augment_spec,
    build_preprocessing,
    build_sampler,
    build_schedule_from_config,
)
from fer_ignite.training.plot_schedule import plot_schedule

__all__ = ["draw_preview", "plot_lr_schedule"]


def plot_lr_schedule(config: Config, path: str) -> str:
    """Draws the learning rate over the run's optimizer steps; returns a sentence about it."""
    dataset = open_dataset(config, find_cache(config)[0])
    steps_per_epoch = build_sampler(config, dataset).steps_per_epoch
    schedule = build_schedule_from_config(config, steps_per_epoch=steps_per_epoch)
    plot_schedule(schedule, steps_per_epoch * config.epochs, path=path, lr=config.lr)
    return f"{path}: {config.sched}, {steps_per_epoch * config.epochs} optimizer steps ({steps_per_epoch} per epoch)"


def draw_preview(config: Config, cache_path: str | Path, *, path: str) -> str:
    """Draws 8x8 augmented train faces as the first batch has them; returns a sentence about it."""
    dataset = open_dataset(config, cache_path)
    preprocessing = build_preprocessing(config, dataset)
    plan = replace(build_sampler(config, dataset), batch_size=64, grad_accum_steps=1)
    cpu = torch.device("cpu")
    loader = TrainLoader(
        dataset.fetcher(cpu, seed=config.seed),
        plan,
        dataset.targets,
        preprocessing,
        cpu,
        build_augment_spec(config),
    )
    images_BCHW = next(iter(loader)).images_BCHW
    draw_sheet(preprocessing.unnormalise(images_BCHW).clamp(0, 1), path)
    return f"{path}: {len(images_BCHW)} augmented faces of {preprocessing.image_px}x{preprocessing.image_px} px"
