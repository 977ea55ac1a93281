"""Evaluation of a checkpoint on a split, in one or several processes."""

# Dimensions: N images of the split, K expressions.

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np

from fer_ignite.checkpoint.format import load_checkpoint
from fer_ignite.checkpoint.paths import ensemble_members, weighted_name
from fer_ignite.checkpoint.remote_files import send_test_access
from fer_ignite.data.dataset import FaceDataset
from fer_ignite.data.images import require_path
from fer_ignite.data.loader import EvalLoader
from fer_ignite.data.open import find_cache, open_dataset
from fer_ignite.data.samples import SPLITS
from fer_ignite.distributed import LaunchSpec, Outcome, is_main_process, launch
from fer_ignite.distributed.collectives import cpu_group
from fer_ignite.errors import NONFINITE_OUTPUTS, DataError, NonFiniteError
from fer_ignite.imports import local_objects, register_object, registered_objects, restore_objects
from fer_ignite.inference.evaluation_data import (
    build_eval_loader,
    is_own_data,
    match_dataset,
    split_warning,
    trained_indices,
)
from fer_ignite.inference.loaded_model import find_run_dir, load_model
from fer_ignite.inference.request import EvaluateRequest, check_request, evaluation_config
from fer_ignite.inference.robustness import robustness_table
from fer_ignite.inference.scoring import (
    ScoredSplit,
    restrict_to_classes,
    score_network,
    score_report,
)
from fer_ignite.training.objects import dataset_object, model_name, object_label, require_sendable

__all__ = ["evaluate", "launch_evaluation"]

logger = logging.getLogger("fer_ignite")

# Figures of an evaluation of test that the run's test-access log keeps.
_LOGGED = ("n", "loss", "accuracy", "uar", "macro_f1", "tta", "data")


@local_objects()
def evaluate(
    checkpoint: str | Path | Sequence[str | Path],
    *,
    weights: Sequence[float] | None = None,
    data: Any = None,
    votes: str | None = None,
    split: str | None = None,
    layout: str | None = None,
    classes: str | None = None,
    bad_images: str | None = None,
    unknown_classes: str = "error",
    restrict_classes: bool = False,
    tta: str | None = None,
    model: Any = None,
    collate_fn: str | None = None,
    precision: str | None = None,
    batch_size: int | None = None,
    nproc: int | None = None,
    device: str = "auto",
    cache: str | None = None,
    with_faces: bool = False,
    robustness: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Scores a checkpoint, or the best one of a run's folder, or the average of several (an ensemble).

    Args:
        weights: of several checkpoints in the average; None: equal.
        data: other data than the run's: what ``--data`` takes, or a data set object (or a dict of them by split).
        split: "val", "test", "train" or "all"; val where it is None, and all of a single data set object.
        model: the network again where it was the user's own: "module:Class", or the object; of a module a copy is used.
        others: see :class:`EvaluateRequest`.
    Returns:
        ``n, loss, accuracy, uar, macro_f1, weighted_f1, tta, per_class, class_names, confusion_matrix``, and ``split``,
        ``data``, ``fingerprint`` (of the data), ``faces_sha256`` (of the images' places in it), ``checkpoint``,
        ``images_per_second``, ``test_evaluations`` where the run's test-access log is at hand; ``renamed`` (how classes were
        matched), ``dropped {class: images}``, ``absent`` (classes without an image), ``restricted``, ``warning`` (logged
        too; None, or why the figures may be too good: see :func:`split_warning`); with ``robustness``, ``robustness`` (see
        :func:`robustness_table`); with ``with_faces``, ``faces``: lists ``places`` (in the data), ``ids``, ``splits``, ``labels``
        (the checkpoint's numbers) and ``logits``, in one order.
    Raises:
        FerError: or its kinds, as the command line's exit codes have them.
    """
    checkpoint = weighted_name(checkpoint, weights)
    require_path("evaluate", checkpoint)
    data, split = _register_data(data, split, classes=classes)
    request = EvaluateRequest(
        str(checkpoint),
        data=data,
        votes=votes,
        split=split,
        layout=layout,
        classes=classes,
        bad_images=bad_images,
        unknown_classes=unknown_classes,
        restrict_classes=restrict_classes,
        tta=tta,
        model=model_name(model, besides=(data,)),
        collate_fn=collate_fn,
        precision=precision,
        batch_size=batch_size,
        cache=cache,
        quiet=quiet,
        device=str(device),
        with_faces=with_faces,
        robustness=robustness,
    )
    outcome = launch_evaluation(request, nproc=nproc)
    if outcome.exit_code:
        raise outcome.as_exception()
    return outcome.result or {}


def _register_data(data: Any, split: str | None, *, classes: str | None) -> tuple[str | None, str]:
    """The name under which data can be opened, and the split to score; a data set object is registered first."""
    if data is None or isinstance(data, (str, Path)):
        return None if data is None else str(data), split or "val"
    single = not isinstance(data, Mapping)
    split = split or ("all" if single else "val")
    part = split if split in SPLITS else "train"
    thing = dataset_object(data, classes=classes, split=part)
    return register_object("data", object_label(data), thing=thing), split


def launch_evaluation(
    request: EvaluateRequest,
    *,
    nproc: int | None = None,
    threads: int | None = None,
    start_method: str = "spawn",
) -> Outcome:
    """Checks the request, builds the dataset cache, starts the processes, and logs an evaluation of test.

    Raises:
        FerError: what can be known before the start is wrong.
    """
    check_request(request, nproc)
    checkpoint = load_checkpoint(ensemble_members(request.checkpoint)[0].path)
    config = evaluation_config(request, checkpoint)
    # Built here where it is missing: the processes only open it.
    cache_path, fingerprint = find_cache(config)
    trained_on = checkpoint["data"]["fingerprint"]
    own_data = request.data is None and request.votes is None
    if own_data and fingerprint not in (None, trained_on):
        raise DataError(
            f"{config.data} has changed since the training (fingerprint {str(fingerprint)[:12]}, was "
            f"{trained_on[:12]}); name it with --data {config.data} to score on it as it is."
        )
    # Only this evaluation's: an object of an earlier call may be one that can't be pickled.
    objects = {
        name: thing
        for name, thing in registered_objects().items()
        if name in (request.data, request.model)
    }
    if (nproc or 1) > 1:
        # Before the launcher's own check, which can't say which object it is.
        require_sendable(objects)
    outcome = launch(
        _evaluate_in_process,
        request,
        None if cache_path is None else str(cache_path),
        objects,
        spec=LaunchSpec(
            nproc=nproc,
            device=request.device,  # type: ignore[arg-type]
            threads=threads,
            start_method=start_method,
        ),
    )
    # Here, because each of the processes would log it.
    if outcome.result is not None and outcome.result["warning"] and is_main_process():
        logger.warning("%s: %s", request.checkpoint, outcome.result["warning"])
    return _with_test_access(outcome, request.checkpoint)


def _with_test_access(outcome: Outcome, checkpoint: str) -> Outcome:
    """Logs an evaluation of the runs' own test split, alone or within all, in their folders, and adds ``test_evaluations`` to the result."""
    if outcome.exit_code or outcome.result is None:
        return outcome
    # Each member's run has its own log, and maybe other data.
    members, own_test = ensemble_members(checkpoint), outcome.result.pop("own_test")
    found = [
        find_run_dir(member.path) for member, own in zip(members, own_test, strict=True) if own
    ]
    folders = [folder for folder in found if folder is not None]
    # Under torchrun every process comes here; one of them writes the line.
    if not folders or not is_main_process():
        return outcome
    line = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "by": "evaluate",
        "split": outcome.result["split"],
    }
    if len(members) > 1:
        line["ensemble"] = checkpoint
    for folder in folders:
        folder.log_test_access({**line, **{name: outcome.result[name] for name in _LOGGED}})
        send_test_access(folder)
    count = max(folder.test_evaluations() for folder in folders)
    return replace(outcome, result={**outcome.result, "test_evaluations": count})


def _evaluate_in_process(
    local_rank: int, request: EvaluateRequest, cache_path: str | None, objects: Mapping[str, Any]
) -> dict[str, Any]:
    """One process of an evaluation; all of them return the same result."""
    # A spawned process starts without the objects that the caller registered.
    restore_objects(objects)
    # Of several processes each has a device of its own, by its local rank.
    device: Any = idist.device() if idist.get_world_size() > 1 else request.device
    network = load_model(
        request.checkpoint,
        device=device,
        model=request.model,
        precision=request.precision,
        collated=True,
    )
    # collated is true above because this refuses a run whose collate_fn is not given again.
    config = evaluation_config(request, network.checkpoint)
    opened = open_dataset(config, cache_path)
    dataset, dropped, match = match_dataset(network, opened, request=request)
    loader = build_eval_loader(network, dataset, request=request, config=config)

    def score(part: EvalLoader, name: str, tta: str) -> ScoredSplit:
        bar = None if request.quiet else name
        return score_network(network, part, tta=tta, group=cpu_group(), bar=bar)

    scored = score(loader, request.split, request.tta or config.tta)
    if not scored.finite:
        raise NonFiniteError(f"{request.checkpoint} on {request.split}: {NONFINITE_OUTPUTS}")
    present_K = np.bincount(scored.labels_N.numpy(), minlength=len(network.classes)) > 0
    if request.restrict_classes:
        scored = restrict_to_classes(scored, present_K)
    result: dict[str, Any] = {}
    if request.robustness:
        result["robustness"] = robustness_table(
            lambda part, name: score(part, name, request.tta or "none"),
            loader,
            temperature=network.temperature,
            present_K=present_K if request.restrict_classes else None,
        )
    if request.with_faces:
        result["faces"] = _image_columns(dataset, scored)
    # opened, not dataset: faces of classes that are left out here were trained on as well. None: of other data the network
    # has not seen the train split.
    trained_N = trained_indices(network, opened)
    return {
        **result,
        **score_report(
            scored,
            network.classes,
            temperature=network.temperature if network.calibrated else None,
            in_train_N=None
            if trained_N is None
            else dataset.in_train(request.split, trained_N=trained_N),
        ),
        "split": request.split,
        "data": dataset.source,
        "fingerprint": dataset.fingerprint,
        "faces_sha256": hashlib.sha256(scored.indices_N.numpy().tobytes()).hexdigest(),
        "checkpoint": request.checkpoint,
        "precision": network.precision,
        "images_per_second": round(len(scored.labels_N) / max(scored.seconds, 1e-9), 1),
        "renamed": match.renamed,
        "dropped": dropped,
        "absent": [
            name for name, found in zip(network.classes, present_K, strict=True) if not found
        ],
        "restricted": request.restrict_classes,
        # opened, not dataset: leaving out unknown classes changes the fingerprint of a split.
        "warning": split_warning(config, opened, networks=network.networks, split=request.split),
        "own_test": [
            _holds_test(dataset, request.split)
            and is_own_data(member, dataset, source=request.data or config.data)
            for member in network.networks
        ],
    }


def _holds_test(dataset: FaceDataset, split: str) -> bool:
    return split == "test" or (split == "all" and len(dataset.indices["test"]) > 0)


def _image_columns(dataset: FaceDataset, scored: ScoredSplit) -> dict[str, Any]:
    places = scored.indices_N.tolist()
    splits = {int(place): split for split in SPLITS for place in dataset.indices[split].tolist()}
    return {
        "places": places,
        "ids": [dataset.image_id(place) for place in places],
        "splits": [splits[place] for place in places],
        "labels": scored.labels_N.tolist(),
        "logits": scored.logits_NK.tolist(),
    }
