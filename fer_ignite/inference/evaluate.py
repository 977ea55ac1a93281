"""Evaluation of a checkpoint on a split, and paired comparison of two."""

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from numpy.typing import NDArray

from fer_ignite.checkpoint.format import load_checkpoint
from fer_ignite.config import Config, check
from fer_ignite.data.augment.tta import VIEW_KINDS
from fer_ignite.data.classes import map_classes
from fer_ignite.data.dataset import FaceDataset
from fer_ignite.data.images import require_path
from fer_ignite.data.loader import EvalLoader, Targets
from fer_ignite.data.open import find_cache, open_dataset
from fer_ignite.distributed import LaunchSpec, Outcome, launch, reset_signals
from fer_ignite.distributed.collectives import cpu_group
from fer_ignite.errors import (
    NONFINITE_OUTPUTS,
    ConfigError,
    DataError,
    NonFiniteError,
    error_for_exit_code,
)
from fer_ignite.imports import is_object_name, load_object
from fer_ignite.inference.loaded_model import (
    LoadedModel,
    find_run_dir,
    load_model,
    required_user_code,
)
from fer_ignite.inference.scoring import score_report, score_split
from fer_ignite.metrics.intervals import mcnemar, paired_interval
from fer_ignite.training.components import loss_terms
from fer_ignite.training.losses import build_loss

__all__ = [
    "EvaluateRequest",
    "compare",
    "correct_predictions",
    "evaluate",
    "launch_evaluation",
    "paired_difference",
    "same_faces",
]


@dataclass(frozen=True)
class EvaluateRequest:
    """Options of ``evaluate``; None means the checkpoint's own.

    Args:
        data, votes, split: other data or other votes, and which split; test only by name. The run's own data keeps its votes.
        tta: views whose probabilities are averaged.
        model, collate_fn: the user's ``module:name`` again, where the run used one.
        with_faces: also tell what the network said of each face.
    """

    checkpoint: str
    data: str | None = None
    votes: str | None = None
    split: str = "val"
    tta: str | None = None
    model: str | None = None
    collate_fn: str | None = None
    precision: str | None = None
    batch_size: int | None = None
    cache: str | None = None
    quiet: bool = False
    device: str = "auto"
    with_faces: bool = False


def evaluate(checkpoint: str | Path, *, nproc: int | None = None, **options: Any) -> dict[str, Any]:
    """Scores a checkpoint; see :class:`EvaluateRequest` for the options.

    Returns:
        ``n, loss, accuracy, uar, macro_f1, weighted_f1, tta, per_class, class_names, confusion_matrix``, and ``split``,
        ``data``, ``fingerprint`` (of the data), ``faces_sha256`` (of the faces' places in it), ``checkpoint``,
        ``images_per_second``, ``test_evaluations`` where the run's test-access log is at hand; asked ``with_faces``, ``faces``: lists
        ``places`` (in the data), ``labels`` (the checkpoint's numbers) and ``logits``, in one order.
    Raises:
        FerError: or its kinds, as the command line's exit codes have them.
    """
    require_path("evaluate", checkpoint)
    outcome = launch_evaluation(EvaluateRequest(str(checkpoint), **options), nproc=nproc)
    if outcome.exit_code:
        raise error_for_exit_code(outcome.exit_code)(outcome.message or outcome.status)
    return outcome.result or {}


def compare(
    first: str | Path, second: str | Path, *, data: str | None = None, **options: Any
) -> dict[str, Any]:
    """Scores two checkpoints on the same faces.

    Args:
        data: of both; None means the first one's.
        options: see :class:`EvaluateRequest`.
    Returns:
        ``n, split, data``, what :func:`paired_difference` tells, and ``a``, ``b``: the two evaluations.
    Raises:
        FerError: or its kinds; a ConfigError where the two were not scored on the same faces.
    """
    require_path("compare", first)
    require_path("compare", second)
    settings = load_checkpoint(first)["config"]
    shared = data or str(settings["data"])
    a, b = (
        evaluate(
            checkpoint,
            data=source,
            with_faces=True,
            **{
                **options,
                **{
                    name: required_user_code(saved, name, options.get(name))
                    for name in ("model", "collate_fn")
                },
            },
        )
        for checkpoint, saved, source in (
            (first, settings, data),
            (second, load_checkpoint(second)["config"], shared),
        )
    )
    if not same_faces(a, b):
        raise ConfigError(
            f"{first} and {second} read {shared} differently (other splits, folds, labels, classes or sizes), so their faces "
            "can't be paired; compare checkpoints of runs with the same data settings."
        )
    differing = paired_difference(
        correct_predictions(a.pop("faces")), correct_predictions(b.pop("faces"))
    )
    return {"n": a["n"], "split": a["split"], "data": a["data"], **differing, "a": a, "b": b}


def same_faces(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two evaluations scored the same faces under the same labels: the folds of one data set differ in the faces alone."""
    return all(a[name] == b[name] for name in ("fingerprint", "faces_sha256"))


def paired_difference(hits_a_N: NDArray[np.bool_], hits_b_N: NDArray[np.bool_]) -> dict[str, Any]:
    """Two networks on the same faces; bool [N] each.

    Returns:
        ``difference`` of accuracies, a's minus b's, ``difference_interval`` (95 %, paired bootstrap), ``only_a, only_b`` (faces
        that one alone recognises), ``p`` (McNemar, exact).
    """
    return {
        "difference": float(hits_a_N.mean() - hits_b_N.mean()),
        "difference_interval": paired_interval(hits_a_N, hits_b_N),
        "only_a": int((hits_a_N & ~hits_b_N).sum()),
        "only_b": int((~hits_a_N & hits_b_N).sum()),
        "p": mcnemar(hits_a_N, hits_b_N),
    }


def correct_predictions(faces: Mapping[str, Any]) -> NDArray[np.bool_]:
    """bool [N]: which faces were recognised, out of what ``evaluate(..., with_faces=True)`` tells."""
    hits_N: NDArray[np.bool_] = np.array(faces["logits"]).argmax(axis=1) == np.array(
        faces["labels"]
    )
    return hits_N


def launch_evaluation(
    request: EvaluateRequest,
    *,
    nproc: int | None = None,
    threads: int | None = None,
    start_method: str = "spawn",
) -> Outcome:
    """Checks, packs, starts the processes, and leaves a line in the test-access log for a look at test."""
    _check_request(request, nproc)
    checkpoint = load_checkpoint(request.checkpoint)
    config = evaluation_config(request, checkpoint)
    pack, fingerprint = find_cache(config)
    if (
        request.data is None
        and request.votes is None
        and fingerprint not in (None, checkpoint["data"]["fingerprint"])
    ):
        raise DataError(
            f"{config.data} has changed since the training (fingerprint {str(fingerprint)[:12]}, was "
            f"{checkpoint['data']['fingerprint'][:12]}); name it with --data {config.data} to score on it as it is."
        )
    spec = LaunchSpec(
        nproc=nproc,
        device=request.device,  # type: ignore[arg-type]
        threads=threads,
        start_method=start_method,
    )
    outcome = launch(_evaluate_in_process, request, None if pack is None else str(pack), spec=spec)
    folder = find_run_dir(request.checkpoint)
    if (
        outcome.exit_code == 0
        and outcome.result is not None
        and request.split == "test"
        and folder is not None
    ):
        # one of torchrun's processes; another one notes it
        if int(os.environ.get("RANK") or 0) != 0:
            return outcome
        kept = ("n", "loss", "accuracy", "uar", "macro_f1", "tta", "data")
        line = {"when": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "by": "evaluate", "split": "test"}
        folder.log_test_access({**line, **{name: outcome.result[name] for name in kept}})
        outcome = replace(
            outcome, result={**outcome.result, "test_evaluations": folder.test_evaluations()}
        )
    return outcome


def _check_request(request: EvaluateRequest, nproc: int | None) -> None:
    allowed = {
        "split": ("val", "test", "train"),
        "tta": (None, *VIEW_KINDS),
        "precision": (None, "auto", "fp32", "fp16", "bf16"),
    }
    for name, values in allowed.items():
        if (value := getattr(request, name)) not in values:
            raise ConfigError(
                f"{name}={value!r} is unknown; allowed are {', '.join(map(str, values))}."
            )
    for name, count in (("batch_size", request.batch_size), ("nproc", nproc)):
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ConfigError(f"{name}={count!r} is no number of at least 1.")


def evaluation_config(request: EvaluateRequest, checkpoint: Mapping[str, Any]) -> Config:
    """The run's data settings, with what the request changes."""
    saved = {
        name: value for name, value in checkpoint["config"].items() if name in Config.model_fields
    }
    if saved.get("collate_fn") and request.collate_fn is None:
        raise ConfigError(
            f"the run's batches were made by the user's function {saved['collate_fn']}, which is never imported on a file's word; "
            f"give it again: --collate-fn {saved['collate_fn']}"
        )
    # What training left out has no part in scoring, and its list need not be at hand.
    changes: dict[str, Any] = {
        "cache": request.cache,
        "quiet": request.quiet,
        "handlers": (),
        "resume": None,
        "exclude": None,
    }
    if request.votes is not None:
        changes["votes"] = request.votes
    if request.data is not None:
        changes["data"] = request.data
        if not _same_source(request.data, str(saved.get("data", ""))):
            # Another source has labels and splits of its own.
            changes |= {
                "votes": request.votes,
                "classes": None,
                "folds": None,
                "fold": None,
                "split": None,
                "drop_train_duplicates": False,
            }
    elif is_object_name(str(saved.get("data", ""))) and not str(saved["data"]).startswith(
        ("demo:", "kaggle:")
    ):
        raise ConfigError(
            f"the run's data came from the user's class {saved['data']}, which is never imported on a file's word; "
            f"give it again: --data {saved['data']}"
        )
    return check({**saved, **changes})


def _same_source(one: str, other: str) -> bool:
    try:
        return one == other or os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


def _evaluate_in_process(
    local_rank: int, request: EvaluateRequest, pack: str | None
) -> dict[str, Any]:
    device: Any = idist.device() if idist.get_world_size() > 1 else request.device
    network = load_model(
        request.checkpoint,
        device=device,
        model=request.model,
        precision=request.precision,
        collated=True,
    )
    config = evaluation_config(request, network.checkpoint)
    faces = open_dataset(config, pack)
    _refuse_misfits(network, faces, request)
    scored = score_split(
        network.model,
        loss_terms(build_loss("ce")),
        _stream(network, faces, request, config),
        device=network.device,
        num_classes=len(network.classes),
        precision=network.precision,
        tta=request.tta or config.tta,
        group=cpu_group(),
    )
    if not scored.finite:
        raise NonFiniteError(f"{request.checkpoint} on {request.split}: {NONFINITE_OUTPUTS}")
    in_train_N = faces.in_train(request.split, drop_train_duplicates=config.drop_train_duplicates)
    temperature = network.temperature if network.calibrated else None
    columns = {"places": scored.indices_N, "labels": scored.labels_N, "logits": scored.logits_NK}
    return {
        **(
            {"faces": {name: values.tolist() for name, values in columns.items()}}
            if request.with_faces
            else {}
        ),
        **score_report(scored, network.classes, temperature=temperature, in_train_N=in_train_N),
        "split": request.split,
        "data": faces.source,
        "fingerprint": faces.fingerprint,
        "faces_sha256": hashlib.sha256(scored.indices_N.numpy().tobytes()).hexdigest(),
        "checkpoint": request.checkpoint,
        "precision": network.precision,
        "images_per_second": round(len(scored.labels_N) / max(scored.seconds, 1e-9), 1),
    }


def _stream(
    network: LoadedModel, faces: FaceDataset, request: EvaluateRequest, config: Config
) -> EvalLoader:
    collate_fn = (
        None
        if request.collate_fn is None
        else load_object(request.collate_fn, setting="--collate-fn")
    )
    feed = faces.fetcher(
        network.device,
        seed=config.seed,
        collate_fn=collate_fn,
        workers=config.workers,
        worker_init=reset_signals,
    )
    return EvalLoader(
        feed,
        faces.indices[request.split],
        targets_as_known(faces, network.classes),
        network.preprocessing,
        network.device,
        request.batch_size or config.eval_batch_size,
        idist.get_rank(),
        idist.get_world_size(),
        config.channels_last,
    )


def _refuse_misfits(network: LoadedModel, faces: FaceDataset, request: EvaluateRequest) -> None:
    """Refuses other channels than the network's, a split without faces, and a test that the best epoch was chosen on."""
    if faces.channels != network.preprocessing.channels:
        raise DataError(
            f"{faces.source} has faces of {faces.channels} channel(s), the network takes {network.preprocessing.channels}; "
            f"pack it with --channels {'gray' if network.preprocessing.channels == 1 else 'rgb'}."
        )
    if not len(faces.indices[request.split]):
        raise DataError(f"{faces.source} has no faces in {request.split}; it has {_splits(faces)}.")
    chosen_on = network.checkpoint["data"].get("val_fingerprint")
    if (
        request.split == "test"
        and chosen_on is not None
        and faces.split_fingerprint("test") == chosen_on
    ):
        raise DataError(
            f"the run chose its best epoch on exactly these faces of {faces.source}, so they are no test for it; "
            "score them with --split val, or name data that the run has not seen."
        )


def _splits(faces: FaceDataset) -> str:
    return ", ".join(f"{split} {len(indices)}" for split, indices in faces.indices.items())


def targets_as_known(faces: FaceDataset, known: Sequence[str]) -> Targets:
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
