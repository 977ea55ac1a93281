"""A checkpoint at work: scored on a split, or asked about image files. Needs no argument but the checkpoint."""

# Dimensions: B images of a batch, K expressions, C channels, H W pixels.

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from torch import Tensor, nn

from fer_ignite.config import Config, check
from fer_ignite.data.classes import map_classes
from fer_ignite.data.faces import Faces, faces_of_dataset, faces_of_pack
from fer_ignite.data.images import fit_image, read_image
from fer_ignite.data.stream import EvalStream, Preparation, Targets
from fer_ignite.errors import CheckpointError, ConfigError, DataError, error_of
from fer_ignite.imports import is_object_name, load_object
from fer_ignite.launch import LaunchSpec, Outcome, launch, reset_signals
from fer_ignite.launch.groups import cpu_group
from fer_ignite.launch.plan import make_plan
from fer_ignite.launch.start import this_machine
from fer_ignite.models.registry import build_model
from fer_ignite.preparing import pack_of
from fer_ignite.training.amp import resolve_precision
from fer_ignite.training.checkpoints import load_checkpoint
from fer_ignite.training.engines import average_views
from fer_ignite.training.files import RunFolder
from fer_ignite.training.losses import build_loss
from fer_ignite.training.scoring import report_of, score_split
from fer_ignite.training.wiring import loss_terms

__all__ = ["EvaluateRequest", "Network", "Prediction", "evaluate", "load_network", "predict", "run_folder_of"]

logger = logging.getLogger("fer_ignite")


@dataclass
class Network:
    """A checkpoint, ready to use.

    Attributes:
        model: in evaluation mode, on ``device``; the EMA weights where the run kept an average.
        config: the run's settings, with what was changed for this use.
    """

    model: nn.Module
    classes: tuple[str, ...]
    preparation: Preparation
    config: Config
    checkpoint: Mapping[str, Any]
    device: torch.device
    precision: str

    @property
    def temperature(self) -> float:
        """Fitted on val at the end of the run; 1 in a checkpoint of a run that goes on."""
        return float(self.checkpoint.get("temperature", 1.0))

    def probabilities(self, images_BHWC: Tensor, *, tta: str = "none") -> Tensor:
        """float32 [B, K] on the CPU, out of uint8 faces in the channels and any size of the training's."""
        images_BCHW = self.preparation.plain(images_BHWC.to(self.device), channels_last=self.config.channels_last)
        with torch.inference_mode():
            scores_BK = average_views(self.model, images_BCHW, device=self.device, precision=self.precision, tta=tta)
        return (scores_BK / self.temperature).softmax(dim=1).cpu()


def load_network(
    path: str | Path, *, device: str | torch.device = "auto", model: str | None = None, precision: str | None = None
) -> Network:
    """A network out of a checkpoint, wherever the file was copied to.

    Args:
        model: the user's ``module:Class`` again, where the run used one; a file's word is not enough to import code.
        precision: another than the run's; bf16 becomes fp32 where this device is slow at it.
    Raises:
        CheckpointError: see :func:`load_checkpoint`; or it needs the user's class and was not given it.
    """
    checkpoint = load_checkpoint(path)
    known = {name: value for name, value in checkpoint["config"].items() if name in Config.model_fields}
    for name in ("handlers", "init_from", "resume"):
        known.pop(name, None)
    config = check({**known, "pretrained": False, **({} if model is None else {"model": model})})
    if is_object_name(config.model) and model is None:
        raise CheckpointError(
            f"{path} was trained with the user's network {config.model}, which is never imported on a file's word; "
            f"give it again: --model {config.model}"
        )
    place = device if isinstance(device, torch.device) else torch.device(
        make_plan(LaunchSpec(device=device), {}, this_machine()).device  # type: ignore[arg-type]
    )
    fields = checkpoint["preprocessing"]
    preparation = Preparation(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})
    network = build_model(
        config.model, num_classes=len(checkpoint["classes"]), in_channels=preparation.channels,
        model_args=config.model_args, norm=config.norm, dropout=config.dropout,
    )  # fmt: skip
    try:
        network.load_state_dict(checkpoint.get("ema") or checkpoint["model"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path}: the weights don't fit the network {config.model}: {reason}") from None
    network = network.to(place).eval()
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    wanted = precision or ("auto" if config.precision == "bf16" else config.precision)
    return Network(
        network, tuple(checkpoint["classes"]), preparation, config, checkpoint, place, resolve_precision(wanted, place)
    )


def run_folder_of(path: str | Path) -> RunFolder | None:
    """The run that a checkpoint lies in; None for one that was copied out of it."""
    folder = Path(path).resolve().parent
    if folder.name == "checkpoints" and (folder.parent / "config.yaml").exists():
        return RunFolder(folder.parent)
    return None


# -- evaluate


@dataclass(frozen=True)
class EvaluateRequest:
    """What ``evaluate`` is asked for; None means the checkpoint's own.

    Args:
        data, votes, split: other data, and which split; test only by name.
        tta: views whose probabilities are averaged.
    """

    checkpoint: str
    data: str | None = None
    votes: str | None = None
    split: str = "val"
    tta: str | None = None
    model: str | None = None
    precision: str | None = None
    batch_size: int | None = None
    cache: str | None = None
    quiet: bool = False
    device: str = "auto"


def evaluate(checkpoint: str | Path, *, nproc: int | None = None, **options: Any) -> dict[str, Any]:
    """Scores a checkpoint; see :class:`EvaluateRequest` for the options.

    Returns:
        ``n, loss, accuracy, uar, macro_f1, weighted_f1, tta, per_class, class_names, confusion_matrix``, and ``split``,
        ``data``, ``checkpoint``, ``images_per_second``, ``looks_at_test`` where the run's ledger is at hand.
    Raises:
        FerError: or its kinds, as the command line's exit codes have them.
    """
    outcome = launch_evaluation(EvaluateRequest(str(checkpoint), **options), nproc=nproc)
    if outcome.exit_code:
        raise error_of(outcome.exit_code)(outcome.message or outcome.status)
    return outcome.result or {}


def launch_evaluation(
    request: EvaluateRequest, *, nproc: int | None = None, threads: int | None = None, start_method: str = "spawn"
) -> Outcome:
    """Checks, packs, starts the processes, and leaves a line in the ledger for a look at test."""
    checkpoint = load_checkpoint(request.checkpoint)
    config = evaluation_config(request, checkpoint)
    pack, fingerprint = pack_of(config)
    if request.data is None and fingerprint not in (None, checkpoint["data"]["fingerprint"]):
        raise DataError(
            f"{config.data} has changed since the training (fingerprint {str(fingerprint)[:12]}, was "
            f"{checkpoint['data']['fingerprint'][:12]}); name it with --data {config.data} to score on it as it is."
        )
    spec = LaunchSpec(nproc=nproc, device=request.device, threads=threads, start_method=start_method)  # type: ignore[arg-type]
    outcome = launch(_evaluate_in_process, request, None if pack is None else str(pack), spec=spec)
    folder = run_folder_of(request.checkpoint)
    if outcome.exit_code == 0 and outcome.result is not None and request.split == "test" and folder is not None:
        kept = ("n", "loss", "accuracy", "uar", "macro_f1", "tta", "data")
        line = {"when": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "by": "evaluate", "split": "test"}
        folder.note_test({**line, **{name: outcome.result[name] for name in kept}})
        outcome = replace(outcome, result={**outcome.result, "looks_at_test": folder.looks_at_test()})
    return outcome


def evaluation_config(request: EvaluateRequest, checkpoint: Mapping[str, Any]) -> Config:
    """The run's data settings, with what the request changes."""
    saved = {name: value for name, value in checkpoint["config"].items() if name in Config.model_fields}
    changes: dict[str, Any] = {"cache": request.cache, "quiet": request.quiet, "handlers": (), "resume": None}
    if request.data is not None:
        # Another source has roles of its own; the training's renaming of classes still applies to its kind.
        changes |= {"data": request.data, "votes": request.votes}
        if request.data != saved.get("data"):
            changes |= {"classes": None}
    elif is_object_name(str(saved.get("data", ""))) and not str(saved["data"]).startswith(("demo:", "kaggle:")):
        raise ConfigError(
            f"the run's data came from the user's class {saved['data']}, which is never imported on a file's word; "
            f"give it again: --data {saved['data']}"
        )
    return check({**saved, **changes})


def _evaluate_in_process(local_rank: int, request: EvaluateRequest, pack: str | None) -> dict[str, Any]:
    rank, world, group = idist.get_rank(), idist.get_world_size(), cpu_group()
    device: Any = idist.device() if world > 1 else request.device
    network = load_network(request.checkpoint, device=device, model=request.model, precision=request.precision)
    config = evaluation_config(request, network.checkpoint)
    faces = faces_of_pack(pack) if pack is not None else faces_of_dataset(
        load_object(config.data, setting="--data"), name=config.data, val_fraction=config.val_fraction, seed=config.split_seed
    )
    if faces.channels != network.preparation.channels:
        raise DataError(
            f"{faces.source} has faces of {faces.channels} channel(s), the network takes {network.preparation.channels}; "
            f"pack it with --channels {'gray' if network.preparation.channels == 1 else 'rgb'}."
        )
    indices_N = faces.indices[request.split]
    if not len(indices_N):
        raise DataError(f"{faces.source} has no faces in {request.split}; it has {_splits(faces)}.")
    _refuse_chosen_on(network, faces, request)
    targets = targets_as_known(faces, network.classes)
    tta = request.tta or config.tta
    stream = EvalStream(
        faces.feed(network.device, seed=config.seed, workers=config.workers, worker_init=reset_signals), indices_N, targets,
        network.preparation, network.device, request.batch_size or config.eval_batch_size, rank, world, config.channels_last,
    )  # fmt: skip
    scored = score_split(
        network.model, loss_terms(build_loss("ce")), stream, num_classes=len(network.classes), device=network.device,
        precision=network.precision, tta=tta, group=group,
    )  # fmt: skip
    return {
        **report_of(
            scored, network.classes, temperature=network.temperature, in_train_N=faces.in_train(request.split)
        ),
        "split": request.split,
        "data": faces.source,
        "checkpoint": request.checkpoint,
        "precision": network.precision,
        "images_per_second": round(len(indices_N) / max(scored.seconds, 1e-9), 1),
    }


def _splits(faces: Faces) -> str:
    return ", ".join(f"{split} {len(indices)}" for split, indices in faces.indices.items())


def targets_as_known(faces: Faces, known: Sequence[str]) -> Targets:
    """The data's labels as the checkpoint numbers them; classes are matched by name.

    Raises:
        DataError: the names differ.
    """
    places = map_classes(faces.classes, known)
    targets = faces.targets
    soft = None
    if targets.soft_NK is not None:
        soft = np.zeros_like(targets.soft_NK)
        soft[:, places] = targets.soft_NK
    return Targets(places[targets.labels_N], len(known), soft)


def _refuse_chosen_on(network: Network, faces: Faces, request: EvaluateRequest) -> None:
    chosen_on = network.checkpoint["data"].get("val_fingerprint")
    if request.split == "test" and chosen_on is not None and faces.split_fingerprint("test") == chosen_on:
        raise DataError(
            f"the run chose its best epoch on exactly these faces of {faces.source}, so they are no test for it; "
            "score them with --split val, or name data that the run has not seen."
        )


# -- predict


@dataclass(frozen=True)
class Prediction:
    """What a network says about one file; ``error`` says why there is nothing, where that is so."""

    file: str
    top: tuple[tuple[str, float], ...] = ()
    error: str | None = None


def predict(
    checkpoint: str | Path | Network, files: Iterable[str | Path], *, topk: int = 3, batch_size: int = 256,
    tta: str | None = None, on_batch: Callable[[int], None] = lambda done: None,
) -> Iterator[Prediction]:  # fmt: skip
    """Names the expressions in face images, in batches, in the files' order.

    Args:
        files: image files of one face each; read and fitted as the training's were.
        topk: how many expressions per file, most probable first.
        tta: views to average; None = the run's.
    Yields:
        One :class:`Prediction` per file; a file that can't be read doesn't stop the rest.
    """
    network = checkpoint if isinstance(checkpoint, Network) else load_network(checkpoint)
    count = max(1, min(topk, len(network.classes)))
    waiting: list[tuple[str, Any]] = []
    for file in files:
        waiting.append((str(file), _read_face(file, network.preparation)))
        if len(waiting) == batch_size:
            yield from _predict_batch(network, waiting, count, tta)
            on_batch(len(waiting))
            waiting = []
    if waiting:
        yield from _predict_batch(network, waiting, count, tta)
        on_batch(len(waiting))


def _read_face(file: str | Path, preparation: Preparation) -> Any:
    try:
        channels = "gray" if preparation.channels == 1 else "rgb"
        return fit_image(read_image(file), preparation.resize_px, preparation.resize_mode, channels)
    except DataError as error:
        return error


def _predict_batch(network: Network, faces: Sequence[tuple[str, Any]], count: int, tta: str | None) -> Iterator[Prediction]:
    read = [pixels for _, pixels in faces if not isinstance(pixels, DataError)]
    tops: Iterator[Any] = iter(())
    if read:
        chances_BK = network.probabilities(torch.from_numpy(np.stack(read)), tta=tta or network.config.tta)
        values, places = chances_BK.topk(count, dim=1)
        tops = iter(zip(values.tolist(), places.tolist(), strict=True))
    for file, pixels in faces:
        if isinstance(pixels, DataError):
            yield Prediction(file, error=str(pixels))
        else:
            chances, labels = next(tops)
            yield Prediction(file, tuple((network.classes[k], p) for k, p in zip(labels, chances, strict=True)))
