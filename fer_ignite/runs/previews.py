"""Pictures before a run: its learning rates, its augmented faces."""

from dataclasses import replace
from pathlib import Path

import torch

from fer_ignite.data.open import open_faces, pack_of
from fer_ignite.config import Config
from fer_ignite.data.image_sheet import draw_sheet
from fer_ignite.data.loader import TrainStream
from fer_ignite.training.components import augmentation_of, plan_of, preparation_of, schedule_of
from fer_ignite.training.plot_schedule import plot_schedule

__all__ = ["draw_preview", "plot_schedule_of"]


def plot_schedule_of(config: Config, path: str) -> str:
    """Draws the learning rate over the run's optimizer steps; returns a sentence about it."""
    faces = open_faces(config, pack_of(config)[0])
    steps_per_epoch = plan_of(config, faces).windows_per_epoch
    schedule = schedule_of(config, steps_per_epoch=steps_per_epoch)
    plot_schedule(schedule, steps_per_epoch * config.epochs, path, lr=config.lr)
    return f"{path}: {config.sched}, {steps_per_epoch * config.epochs} optimizer steps ({steps_per_epoch} per epoch)"


def draw_preview(config: Config, pack: str | Path, path: str) -> str:
    """Draws 8x8 augmented train faces as the first batch has them; returns a sentence about it."""
    faces = open_faces(config, pack)
    preparation = preparation_of(config, faces)
    plan = replace(plan_of(config, faces), batch_size=64, grad_accum_steps=1)
    cpu = torch.device("cpu")
    stream = TrainStream(
        faces.feed(cpu, seed=config.seed), plan, faces.targets, preparation, cpu, augmentation_of(config)
    )
    images_BCHW = next(iter(stream)).images_BCHW
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (preparation.mean, preparation.std))
    draw_sheet((images_BCHW * std + mean).clamp(0, 1), path)
    return f"{path}: {len(images_BCHW)} augmented faces of {preparation.image_px}x{preparation.image_px} px"
