"""TensorBoard: scalars, learning rates, recall and curves per class, confusion matrix, first batch, settings, hparams."""

# Dimensions: B images, C channels, H W pixels, K expressions, T thresholds.

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
from tensorboardX.proto.api_pb2 import DataType, Experiment, HParamInfo, MetricInfo, MetricName
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import hparams
from torch import Tensor

from fer_ignite.checkpoint.atomic_io import storage_errors
from fer_ignite.metrics.curves import THRESHOLDS
from fer_ignite.metrics.scalars import scalar_metrics
from fer_ignite.training.events import RunEvents
from fer_ignite.training.running_metrics import RunningMetrics

__all__ = ["TensorboardReport"]

_SHOWN_FACES = 32  # of the first batch
_PICTURES = 50  # sets of curves and confusion matrices of a run at most: one takes up to 80 kB
# The columns of HPARAMS that come first; the page shows five until others are chosen.
_HPARAMS = ("batch_size", "data", "epochs", "lr", "model", "opt", "sched", "seed", "weight_decay")
_CHARTS = {  # of the page CUSTOM SCALARS, by regular expressions
    "train and val": {
        "loss": ["Multiline", ["(train|val)/loss$"]],
        "accuracy": ["Multiline", ["(train|val)/accuracy$"]],
    },
    "val, each class": {"recall": ["Multiline", ["recall/.*"]]},
    "optimizer": {"learning rates": ["Multiline", ["lr/.*"]]},
}


class TensorboardReport:
    """Writes TensorBoard's files on the main process; x is the iteration.

    Scalars: ``val/`` and ``train/`` (an epoch's), ``recall/`` of each class on val, ``step/`` (logged in between) and
    ``lr/`` by the parameter groups' names. At the start: the settings as text and as hparams, and the first augmented batch.
    Of at most 50 epochs: the precision-recall curve of each class on val, and the confusion matrix.

    Args:
        metrics: those of the epoch's validation; empty where there is none.
        folder: of the event files.
        settings: the run's configuration.
        hparam_types: see :func:`hparams_summaries`.
        picture: the confusion matrix as a PNG file that another handler draws before REPORT's handlers end; None = none.
        unnormalise: float [B, C, H, W] as the network gets it -> 0..1.
        every: iterations between two points of ``lr/``, which has one at the end of each epoch too.
    Attributes:
        logger: Ignite's; its ``writer`` is tensorboardX's, for a user's own figures.
    Source: Ignite's logger has no guard for ranks. tensorboardX names its files by the second, so that a quick resume would
        overwrite one, its flush leaves out what its thread hasn't taken yet, and its add_hparams opens a run of its own.
    """

    def __init__(
        self,
        trainer: Engine,
        *,
        metrics: Callable[[], Mapping[str, Any]],
        optimizer: Any,
        folder: Path,
        classes: tuple[str, ...],
        settings: Mapping[str, Any],
        hparam_types: Mapping[str, str],
        picture: Path | None,
        unnormalise: Callable[[Tensor], Tensor],
        records: RunningMetrics,
        every: int,
    ) -> None:
        self.logger = TensorboardLogger(log_dir=str(folder), filename_suffix=f".{time.time_ns():x}")
        self._writer = self.logger.writer
        events = self._writer.file_writer.event_writer
        events.add_event = events._ev_writer.write_event  # at once, past the thread
        self._trainer, self._metrics, self._optimizer = trainer, metrics, optimizer
        self._folder, self._picture, self._every = folder, picture, every
        self._classes, self._records, self._unnormalise = classes, records, unnormalise
        self._settings, self._hparam_types = settings, hparam_types

    def attach(self) -> dict[str, RemovableEventHandle]:
        """Attaches everything to the trainer's events; the handles by their names in ``session.handles``."""
        trainer = self._trainer
        self._records.on_flush.append(lambda values, step: self._write("step", values, step))
        trainer.add_event_handler(Events.STARTED, self._describe)
        # once=1 is iteration 1 of the run, so that a resumed one does not write the picture again.
        trainer.add_event_handler(Events.ITERATION_STARTED(once=1), self._show_batch)
        return {
            "tensorboard_val": self.logger.attach_output_handler(
                trainer,
                RunEvents.REPORT,
                tag="val",
                output_transform=lambda _: scalar_metrics(self._metrics()),
                # Ignite's default is the counter of the event that fires: for REPORT the epoch.
                global_step_transform=lambda *_: self._iteration,
            ),
            "tensorboard_train": trainer.add_event_handler(
                RunEvents.REPORT,
                lambda: self._write("train", self._records.epoch(), self._iteration),
            ),
            "tensorboard_recall": trainer.add_event_handler(RunEvents.REPORT, self._write_recall),
            "tensorboard_curves": trainer.add_event_handler(RunEvents.REPORT, self._write_curves),
            "tensorboard_confusion": trainer.add_event_handler(
                RunEvents.REPORT, self._show_confusion
            ),
            "tensorboard_lr": trainer.add_event_handler(
                Events.ITERATION_COMPLETED(every=self._every) | RunEvents.REPORT, self._write_rates
            ),
            # What a resume point has seen must be in the file before the point is.
            "tensorboard_flush": trainer.add_event_handler(RunEvents.RESUME_POINT, self._flush),
        }

    @property
    def _iteration(self) -> int:
        return int(self._trainer.state.iteration)

    def _write(self, tag: str, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            if math.isfinite(value):  # of a step that was not taken; tensorboardX complains of each
                self._writer.add_scalar(f"{tag}/{name.removeprefix('train_')}", value, step)

    def _describe(self) -> None:
        if self._iteration > 0:
            return  # a resumed run: its files have it
        text = yaml.safe_dump(dict(self._settings), sort_keys=False, allow_unicode=True)
        self._writer.add_text("configuration", f"```yaml\n{text}\n```", 0)
        for summary in hparams_summaries(self._settings, self._hparam_types):
            self._writer.file_writer.add_summary(summary, 0)
        self._writer.add_custom_scalars(_CHARTS)

    def _show_batch(self) -> None:
        # Here, as torchvision takes half a second to import and not every run writes for TensorBoard.
        from torchvision.utils import make_grid

        images_BCHW = self._trainer.state.batch.images_BCHW[:_SHOWN_FACES]
        faces_BCHW = self._unnormalise(images_BCHW.float()).cpu()
        self._writer.add_image("first_batch", make_grid(faces_BCHW.clamp(0, 1)), 1)

    def _write_recall(self) -> None:
        confusion_KK = self._metrics().get("confusion_matrix")
        if confusion_KK is None:
            return  # no validation in this epoch
        confusion_KK = torch.as_tensor(confusion_KK).double()
        # 0/0 for a class without a face: NaN, which _write() leaves out.
        recall_K = confusion_KK.diagonal() / confusion_KK.sum(dim=1)
        recalls = dict(zip(self._classes, recall_K.tolist(), strict=True))
        self._write("recall", recalls, self._iteration)

    def _is_pictured(self) -> bool:
        epoch, epochs = self._trainer.state.epoch, self._trainer.state.max_epochs
        return bool(epoch == epochs or epoch % math.ceil(epochs / _PICTURES) == 0)

    def _write_curves(self) -> None:
        counts_2KT = self._metrics().get("threshold_counts")
        if counts_2KT is None or not self._is_pictured():  # None: no validation in this epoch
            return
        for name, counts_2T in zip(self._classes, counts_2KT.double().unbind(1), strict=True):
            if counts_2T[0, 0] > 0:  # recall is undefined without a face of the class
                self._writer.add_pr_curve_raw(
                    f"pr_curve/{name}",
                    *precision_recall_rows(counts_2T).numpy(),
                    global_step=self._iteration,
                    num_thresholds=THRESHOLDS,
                )

    def _show_confusion(self) -> None:
        if self._metrics().get("confusion_matrix") is None or not self._is_pictured():
            return
        if self._picture is not None and self._picture.is_file():
            encoded = self._picture.read_bytes()
            image = Summary.Image(colorspace=3, encoded_image_string=encoded)
            value = Summary.Value(tag="val/confusion_matrix", image=image)
            self._writer.file_writer.add_summary(Summary(value=[value]), self._iteration)

    def _write_rates(self) -> None:
        at_report = self._trainer.last_event_name == RunEvents.REPORT
        if at_report and self._iteration % self._every == 0:
            return  # written at the iteration's end
        groups = enumerate(self._optimizer.param_groups)
        rates = {group.get("name", f"group_{place}"): group["lr"] for place, group in groups}
        self._write("lr", rates, self._iteration)

    def _flush(self) -> None:
        with storage_errors(self._folder):
            self._writer.flush()


def hparams_summaries(settings: Mapping[str, Any], types: Mapping[str, str]) -> list[Summary]:
    """The columns of HPARAMS, this run's values, and its end.

    Args:
        types: BOOL, FLOAT64 or STRING of each setting that is to be a column.
    Source: TensorBoard shows the first five columns and takes the columns of all runs from one run's file, so every setting
        is named, whether it is set or not, with the type of its field. tensorboardX would name those that are set.
    """
    values = {
        name: value if types[name] != "STRING" else str(value)
        for name, value in settings.items()
        if name in types and value is not None
    }
    columns = [
        HParamInfo(name=name, type=DataType.Value(f"DATA_TYPE_{kind}"))
        for name, kind in types.items()
    ]
    for column in columns:
        if column.name in _HPARAMS:
            # "differs" (field 7), which tensorboardX 2.6 doesn't know: TensorBoard sorts by it, then by name
            column.MergeFromString(b"\x38\x01")
    scored = [
        MetricInfo(name=MetricName(tag=f"val/{name}")) for name in ("accuracy", "uar", "loss")
    ]
    experiment, *others = hparams(values, {})
    plugin = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    content.experiment.CopyFrom(Experiment(hparam_infos=columns, metric_infos=scored))
    plugin.content = content.SerializeToString()
    return [experiment, *others]


def precision_recall_rows(counts_2T: Tensor) -> Tensor:
    """float64 [6, T] of a class: true and false positives, true and false negatives, precision and recall per threshold.

    Args:
        counts_2T: float64 true and false positives; the first threshold lets all faces through.
    Source: the rows of TensorBoard's pr_curves plugin, which leaves out thresholds without a positive.
    """
    hits_T, false_T = counts_2T
    passed_T = (hits_T + false_T).clamp_min(1)
    return torch.stack(
        [
            hits_T,
            false_T,
            false_T[0] - false_T,
            hits_T[0] - hits_T,
            hits_T / passed_T,
            hits_T / hits_T[0].clamp_min(1),
        ]
    )
