"""TensorBoard: scalars, learning rates, recall per class, confusion matrix, first batch, configuration and hparams."""

# Dimensions: B images, C channels, H W pixels, K expressions.

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from ignite.engine import Engine, Events
from ignite.engine.events import RemovableEventHandle
from ignite.handlers.tensorboard_logger import TensorboardLogger
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import hparams
from torch import Tensor
from torchvision.utils import make_grid

from fer_ignite.checkpoint.atomic_io import storage_errors
from fer_ignite.training.events import RunEvents
from fer_ignite.training.running_metrics import RunningMetrics

__all__ = ["attach_tensorboard"]

_SHOWN_FACES = 32  # of the first batch
_PICTURES = 50  # confusion matrices of a run at most: one takes about 50 kB


def attach_tensorboard(
    trainer: Engine,
    evaluator: Engine,
    *,
    optimizer: Any,
    folder: Path,
    classes: tuple[str, ...],
    settings: Mapping[str, Any],
    picture: Path | None,
    unnormalise: Callable[[Tensor], Tensor],
    records: RunningMetrics,
    every: int,
) -> tuple[TensorboardLogger, dict[str, RemovableEventHandle]]:
    """Writes TensorBoard's files on the main process; x is the iteration.

    Scalars: ``val/`` and ``train/`` (an epoch's), ``recall/`` of each class on val, ``step/`` (logged in between) and
    ``lr/`` by the parameter groups' names. At the start: the settings as text and as hparams, and the first augmented batch.
    Per epoch, of at most 50: the confusion matrix of val.

    Args:
        folder: of the event files.
        settings: the run's configuration.
        picture: the confusion matrix as a PNG file that another handler draws before REPORT's handlers end; None = none.
        unnormalise: float [B, C, H, W] as the network gets it -> 0..1.
        every: iterations between two points of ``lr/``.
    Source: Ignite's logger has no guard for ranks. tensorboardX names its files by the second, so that a quick resume would
        overwrite one, its flush leaves out what its thread hasn't taken yet, and its add_hparams opens a run of its own.
    """
    logger = TensorboardLogger(log_dir=str(folder), filename_suffix=f".{time.time_ns():x}")
    writer = logger.writer
    events = writer.file_writer.event_writer
    events.add_event = events._ev_writer.write_event  # at once, past the thread

    def iteration(*_: Any) -> int:
        return int(trainer.state.iteration)

    def scores(_: Any) -> dict[str, Any]:
        return {
            name: value
            for name, value in evaluator.state.metrics.items()
            if isinstance(value, (int, float))
        }

    def write(tag: str, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            if math.isfinite(value):  # of a step that was not taken; tensorboardX complains of each
                writer.add_scalar(f"{tag}/{name.removeprefix('train_')}", value, step)

    def describe(engine: Engine) -> None:
        if engine.state.iteration > 0:
            return  # a resumed run: its files have it
        text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
        writer.add_text("configuration", f"```yaml\n{text}\n```", 0)
        plain = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in settings.items()
            if value is not None
        }
        scored = dict.fromkeys(("val/accuracy", "val/uar", "val/loss"), 0.0)
        for summary in hparams(plain, scored):
            writer.file_writer.add_summary(summary, 0)

    def show_batch(engine: Engine) -> None:
        faces_BCHW = unnormalise(engine.state.batch.images_BCHW[:_SHOWN_FACES].float()).cpu()
        writer.add_image("first_batch", make_grid(faces_BCHW.clamp(0, 1)), 1)

    def write_recall(engine: Engine) -> None:
        if "confusion_matrix" not in evaluator.state.metrics:
            return  # the user took the validation off
        confusion_KK = torch.as_tensor(evaluator.state.metrics["confusion_matrix"]).double()
        recall_K = confusion_KK.diagonal() / confusion_KK.sum(dim=1)
        write("recall", dict(zip(classes, recall_K.tolist(), strict=True)), iteration())

    def show_confusion(engine: Engine) -> None:
        apart = math.ceil(engine.state.max_epochs / _PICTURES)
        last = engine.state.epoch == engine.state.max_epochs
        if picture is not None and picture.is_file() and (last or engine.state.epoch % apart == 0):
            image = Summary.Image(colorspace=3, encoded_image_string=picture.read_bytes())
            value = Summary.Value(tag="val/confusion_matrix", image=image)
            writer.file_writer.add_summary(Summary(value=[value]), iteration())

    def write_rates(engine: Engine) -> None:
        groups = enumerate(optimizer.param_groups)
        rates = {group.get("name", f"group_{place}"): group["lr"] for place, group in groups}
        write("lr", rates, iteration())

    def flush() -> None:
        with storage_errors(folder):
            writer.flush()

    records.on_flush.append(lambda values, step: write("step", values, step))
    trainer.add_event_handler(Events.STARTED, describe)
    trainer.add_event_handler(Events.ITERATION_STARTED(once=1), show_batch)
    return logger, {
        "tensorboard_val": logger.attach_output_handler(
            trainer,
            RunEvents.REPORT,
            tag="val",
            output_transform=scores,
            global_step_transform=iteration,
        ),
        "tensorboard_train": trainer.add_event_handler(
            RunEvents.REPORT, lambda engine: write("train", records.epoch(), engine.state.iteration)
        ),
        "tensorboard_recall": trainer.add_event_handler(RunEvents.REPORT, write_recall),
        "tensorboard_confusion": trainer.add_event_handler(RunEvents.REPORT, show_confusion),
        "tensorboard_lr": trainer.add_event_handler(
            Events.ITERATION_COMPLETED(every=every), write_rates
        ),
        # What a resume point has seen must be in the file before the point is.
        "tensorboard_flush": trainer.add_event_handler(RunEvents.RESUME_POINT, flush),
    }
