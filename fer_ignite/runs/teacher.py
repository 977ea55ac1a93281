"""The teacher of a run with distillation, and what it must not have seen."""

import logging

import ignite.distributed as idist
import torch
from torch import nn

from fer_ignite.checkpoint.paths import ensemble_name
from fer_ignite.config import Config
from fer_ignite.data.dataset import FaceDataset
from fer_ignite.errors import CheckpointError
from fer_ignite.inference.ensemble import EnsembleModule
from fer_ignite.inference.evaluation_data import differing_split_settings
from fer_ignite.inference.loaded_model import LoadedModel, load_model
from fer_ignite.training.components import build_preprocessing

__all__ = ["load_teacher"]

logger = logging.getLogger("fer_ignite")


def load_teacher(config: Config, dataset: FaceDataset, *, device: torch.device) -> nn.Module | None:
    """The checkpoints of ``--teacher`` as a module that takes the run's images; None where there are none.

    Raises:
        CheckpointError: a file can't be used, or has other classes than the data.
    """
    if not config.teacher:
        return None
    try:
        members: list[LoadedModel] = [load_model(path, device=device) for path in config.teacher]
        teacher = EnsembleModule(
            members,
            [1 / len(members)] * len(members),
            preprocessing=build_preprocessing(config, dataset),
            classes=dataset.classes,
        )
    except CheckpointError as error:
        raise CheckpointError(f"--teacher: {error}") from None
    if idist.get_rank() == 0:
        _warn_about_leaks(config, members, dataset)
    # eval: in training mode its batch norm would take the batch's statistics, and change its own.
    return teacher.to(device).eval().requires_grad_(False)


def _warn_about_leaks(config: Config, members: list[LoadedModel], dataset: FaceDataset) -> None:
    """A teacher of another split of the same data may have learned on faces that val and test hold here."""
    if differing := differing_split_settings(config, dataset, networks=members, split="val"):
        logger.warning(
            "--teacher: %s was trained on another split of this data (%s), so it may have been trained on faces that val or "
            "test hold here; their figures may be too good.",
            ensemble_name(config.teacher),
            ", ".join(differing),
        )
