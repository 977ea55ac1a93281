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
import torch
from numpy.typing import NDArray

from fer_ignite.checkpoint.format import load_checkpoint
from fer_ignite.checkpoint.paths import ensemble_members, ensemble_name
from fer_ignite.config import Config, check
from fer_ignite.data.augment.tta import VIEW_KINDS
from fer_ignite.data.classes import ClassMatch, match_classes
from fer_ignite.data.dataset import SPLITS, FaceDataset
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
from fer_ignite.imports import (
    is_object_name,
    load_object,
    register_object,
    registered_objects,
    restore_objects,
    which_again,
)
from fer_ignite.inference.ensemble import EnsembleModule, find_weights
from fer_ignite.inference.loaded_model import (
    LoadedModel,
    find_run_dir,
    load_model,
    required_user_code,
)
from fer_ignite.inference.robustness import robustness_table
from fer_ignite.inference.scoring import ScoredSplit, restrict_to_classes, score_report, score_split
from fer_ignite.metrics.intervals import mcnemar, paired_interval
from fer_ignite.training.components import loss_terms
from fer_ignite.training.losses import build_loss
from fer_ignite.training.objects import dataset_object, model_name, object_label, require_sendable

__all__ = [
    "EvaluateRequest",
    "compare",
    "correct_predictions",
    "evaluate",
    "evaluation_config",
    "fit_ensemble_weights",
    "launch_evaluation",
    "open_for_scoring",
    "paired_difference",
    "same_faces",
    "score_network",
]


@dataclass(frozen=True)
class EvaluateRequest:
    """Options of ``evaluate``; None means the checkpoint's own.

    Args:
        checkpoint: a checkpoint, or several comma separated, whose probabilities are averaged; the first one's settings count.
        data, votes, split: other data or other votes, and which split, "all" for every face; test only by name. The run's own
            data keeps its votes.
        layout, classes: how other data is read, and its classes chosen, renamed or merged, as in training.
        unknown_classes: what becomes of faces whose class the network doesn't know: "error", or "drop", which counts them.
        restrict_classes: only the network's classes that the data has can be predicted; probabilities are renormalised.
        tta: views whose probabilities are averaged.
        model, collate_fn: the user's ``module:name`` again, where the run used one.
        with_faces: also return the network's outputs for each face.
        robustness: also score the faces under fixed corruptions, with one view; see :func:`robustness_table`.
    """

    checkpoint: str
    data: str | None = None
    votes: str | None = None
    split: str = "val"
    layout: str | None = None
    classes: str | None = None
    unknown_classes: str = "error"
    restrict_classes: bool = False
    tta: str | None = None
    model: str | None = None
    collate_fn: str | None = None
    precision: str | None = None
    batch_size: int | None = None
    cache: str | None = None
    quiet: bool = False
    device: str = "auto"
    with_faces: bool = False
    robustness: bool = False


def evaluate(
    checkpoint: str | Path | Sequence[str | Path],
    *,
    weights: Sequence[float] | None = None,
    data: Any = None,
    votes: str | None = None,
    split: str | None = None,
    layout: str | None = None,
    classes: str | None = None,
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
        model: the network again where it was the user's own: "module:Class", or the object.
        others: see :class:`EvaluateRequest`.
    Returns:
        ``n, loss, accuracy, uar, macro_f1, weighted_f1, tta, per_class, class_names, confusion_matrix``, and ``split``,
        ``data``, ``fingerprint`` (of the data), ``faces_sha256`` (of the faces' places in it), ``checkpoint``,
        ``images_per_second``, ``test_evaluations`` where the run's test-access log is at hand; ``renamed`` (how classes were
        matched), ``dropped {class: faces}``, ``absent`` (classes without a face), ``restricted``; with ``robustness``, ``robustness`` (see :func:`robustness_table`); with ``with_faces``, ``faces``:
        lists ``places`` (in the data), ``ids``, ``splits``, ``labels`` (the checkpoint's numbers) and ``logits``, in one order.
    Raises:
        FerError: or its kinds, as the command line's exit codes have them.
    """
    if isinstance(checkpoint, Sequence) and not isinstance(checkpoint, str):
        checkpoint = ensemble_name([str(path) for path in checkpoint], weights)
    require_path("evaluate", checkpoint)
    data, split = _data_name(data, split, classes=classes)
    request = EvaluateRequest(
        str(checkpoint),
        data=data,
        votes=votes,
        split=split,
        layout=layout,
        classes=classes,
        unknown_classes=unknown_classes,
        restrict_classes=restrict_classes,
        tta=tta,
        model=model_name(model),
        collate_fn=collate_fn,
        precision=precision,
        batch_size=batch_size,
        cache=cache,
        quiet=quiet,
        device=device,
        with_faces=with_faces,
        robustness=robustness,
    )
    outcome = launch_evaluation(request, nproc=nproc)
    if outcome.exit_code:
        raise error_for_exit_code(outcome.exit_code)(outcome.message or outcome.status)
    return outcome.result or {}


def _data_name(data: Any, split: str | None, *, classes: str | None) -> tuple[str | None, str]:
    """The name under which data can be opened, and the split to score; an object is registered under one."""
    if data is None or isinstance(data, (str, Path)):
        return None if data is None else str(data), split or "val"
    single = not isinstance(data, Mapping)
    split = split or ("all" if single else "val")
    part = split if split in SPLITS else "train"
    thing = dataset_object(data, classes=classes, split=part)
    return register_object("data", object_label(data), thing=thing), split


def compare(
    first: str | Path,
    second: str | Path,
    *,
    data: str | None = None,
    split: str = "val",
    layout: str | None = None,
    classes: str | None = None,
    unknown_classes: str = "error",
    restrict_classes: bool = False,
    tta: str | None = None,
    model: str | None = None,
    collate_fn: str | None = None,
    device: str = "auto",
    cache: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Scores two checkpoints on the same faces.

    Args:
        data: of both; None means the first one's.
        others: as :func:`evaluate` takes them; ``model`` and ``collate_fn`` go to the runs that had one.
    Returns:
        ``n, split, data``, what :func:`paired_difference` tells, and ``a``, ``b``: the two evaluations.
    Raises:
        FerError: or its kinds; a ConfigError where the two were not scored on the same faces.
    """
    require_path("compare", first)
    require_path("compare", second)
    settings = _first_checkpoint(first)["config"]
    shared = data or str(settings["data"])
    a, b = (
        evaluate(
            checkpoint,
            data=source,
            split=split,
            layout=layout,
            classes=classes,
            unknown_classes=unknown_classes,
            restrict_classes=restrict_classes,
            tta=tta,
            model=required_user_code(saved, "model", given=model),
            collate_fn=required_user_code(saved, "collate_fn", given=collate_fn),
            device=device,
            cache=cache,
            quiet=quiet,
            with_faces=True,
        )
        for checkpoint, saved, source in (
            (first, settings, data),
            (second, _first_checkpoint(second)["config"], shared),
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
    checkpoint = _first_checkpoint(request.checkpoint)
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
    objects = {
        name: thing
        for name, thing in registered_objects().items()
        if name in (request.data, request.model)
    }
    if (nproc or 1) > 1:
        require_sendable(objects)
    outcome = launch(
        _evaluate_in_process, request, None if pack is None else str(pack), objects, spec=spec
    )
    found = [find_run_dir(member.path) for member in ensemble_members(request.checkpoint)]
    folders = [folder for folder in found if folder is not None]
    if (
        outcome.exit_code == 0
        and outcome.result is not None
        and outcome.result.pop("own_test")
        and folders
    ):
        # one of torchrun's processes; another one notes it
        if int(os.environ.get("RANK") or 0) != 0:
            return outcome
        kept = ("n", "loss", "accuracy", "uar", "macro_f1", "tta", "data")
        line = {"when": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "by": "evaluate", "split": "test"}
        if len(found) > 1:
            line["ensemble"] = request.checkpoint
        for folder in folders:
            folder.log_test_access({**line, **{name: outcome.result[name] for name in kept}})
        looks = max(folder.test_evaluations() for folder in folders)
        outcome = replace(outcome, result={**outcome.result, "test_evaluations": looks})
    return outcome


def _first_checkpoint(name: str | Path) -> dict[str, Any]:
    """The checkpoint's content; of an ensemble the first one's."""
    return load_checkpoint(ensemble_members(name)[0].path)


def fit_ensemble_weights(
    name: str,
    *,
    tta: str | None = None,
    model: str | None = None,
    collate_fn: str | None = None,
    device: str = "auto",
    cache: str | None = None,
    quiet: bool = False,
) -> list[float]:
    """Weights of an ensemble's checkpoints that explain the first one's validation split best; test is never read.

    Args:
        name: the checkpoints, comma separated.
        others: see :class:`EvaluateRequest`.
    Returns:
        One weight per checkpoint; they add up to 1.
    Raises:
        ConfigError: one checkpoint alone.
    """
    if len(ensemble_members(name)) < 2:
        raise ConfigError(f"--weights: {name} is one checkpoint; name several as A,B,C.")
    network = load_model(name, device=device, model=model, collated=True)
    request = EvaluateRequest(name, tta=tta, collate_fn=collate_fn, cache=cache, quiet=quiet)
    config, _, loader = open_for_scoring(network, request)
    probabilities, labels_N = [], torch.empty(0)
    for number, member in enumerate(network.members, 1):
        alone = EnsembleModule(
            [member], [1.0], preprocessing=network.preprocessing, classes=network.classes
        )
        scored = score_network(
            replace(network, model=alone.to(network.device).eval()),
            loader,
            tta=tta or config.tta,
            bar=None if quiet else f"val, network {number} of {len(network.members)}",
        )
        if not scored.finite:
            raise NonFiniteError(f"{name} on val: {NONFINITE_OUTPUTS}")
        probabilities.append(scored.logits_NK.softmax(dim=1))
        labels_N = scored.labels_N
    return find_weights(probabilities, labels_N)


def open_for_scoring(
    network: LoadedModel, request: EvaluateRequest
) -> tuple[Config, FaceDataset, EvalLoader]:
    """The run's settings, the faces under the network's classes, and the loader of the request's split, in this process."""
    config = evaluation_config(request, network.checkpoint)
    pack, _ = find_cache(config)
    opened = open_dataset(config, None if pack is None else str(pack))
    faces, _, _ = faces_to_score(network, opened, request=request)
    return config, faces, evaluation_loader(network, faces, request=request, config=config)


def score_network(
    network: LoadedModel, loader: EvalLoader, *, tta: str, bar: str | None, group: Any = None
) -> ScoredSplit:
    """Outputs and metrics of a loaded network; the loss is plain cross-entropy. See :func:`score_split`."""
    return score_split(
        network.model,
        loss_terms(build_loss("ce")),
        stream=loader,
        num_classes=len(network.classes),
        device=network.device,
        precision=network.precision,
        tta=tta,
        group=group,
        bar=bar,
    )


def _check_request(request: EvaluateRequest, nproc: int | None) -> None:
    allowed = {
        "split": ("val", "test", "train", "all"),
        "unknown_classes": ("error", "drop"),
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
            f"the run's batches were made by the user's function {saved['collate_fn']}; checkpoints never import user code: "
            f"{which_again('collate_fn', saved['collate_fn'])}"
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
                "classes": request.classes,
                "layout": request.layout or "auto",
                "group_by": None,
                "folds": None,
                "fold": None,
                "split": None,
                "drop_train_duplicates": False,
                "channels": {1: "gray", 3: "rgb"}[checkpoint["preprocessing"]["channels"]],
            }
    elif is_object_name(str(saved.get("data", ""))) and not str(saved["data"]).startswith(
        ("demo:", "kaggle:")
    ):
        raise ConfigError(
            f"the run's data came from the user's class {saved['data']}; checkpoints never import user code: "
            f"{which_again('data', saved['data'])}"
        )
    if request.classes is not None:
        changes["classes"] = request.classes
    if request.layout is not None:
        changes["layout"] = request.layout
    return check({**saved, **changes})


def _same_source(one: str, other: str) -> bool:
    try:
        return one == other or os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


def _evaluate_in_process(
    local_rank: int, request: EvaluateRequest, pack: str | None, objects: Mapping[str, Any]
) -> dict[str, Any]:
    restore_objects(objects)
    device: Any = idist.device() if idist.get_world_size() > 1 else request.device
    network = load_model(
        request.checkpoint,
        device=device,
        model=request.model,
        precision=request.precision,
        collated=True,
    )
    config = evaluation_config(request, network.checkpoint)
    faces, dropped, match = faces_to_score(network, open_dataset(config, pack), request=request)
    stream = evaluation_loader(network, faces, request=request, config=config)

    def score(part: EvalLoader, name: str, tta: str) -> ScoredSplit:
        bar = None if request.quiet else name
        return score_network(network, part, tta=tta, group=cpu_group(), bar=bar)

    scored = score(stream, request.split, request.tta or config.tta)
    if not scored.finite:
        raise NonFiniteError(f"{request.checkpoint} on {request.split}: {NONFINITE_OUTPUTS}")
    present_K = np.bincount(scored.labels_N.numpy(), minlength=len(network.classes)) > 0
    if request.restrict_classes:
        scored = restrict_to_classes(scored, present_K)
    own = any(
        faces.fingerprint == member.checkpoint["data"]["fingerprint"] for member in network.networks
    )
    # another data set's train split is nothing that this network has learned
    in_train_N = (
        faces.in_train(request.split, drop_train_duplicates=config.drop_train_duplicates)
        if own
        else None
    )
    temperature = network.temperature if network.calibrated else None
    under = {}
    if request.robustness:
        under["robustness"] = robustness_table(
            lambda part, name: score(part, name, request.tta or "none"),
            stream,
            temperature=network.temperature,
        )
    return {
        **under,
        **({"faces": _face_columns(faces, scored)} if request.with_faces else {}),
        **score_report(scored, network.classes, temperature=temperature, in_train_N=in_train_N),
        "split": request.split,
        "data": faces.source,
        "fingerprint": faces.fingerprint,
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
        "own_test": request.split == "test" and _is_own_data(network, faces, request=request),
    }


def _is_own_data(network: LoadedModel, faces: FaceDataset, *, request: EvaluateRequest) -> bool:
    """Whether the faces are those of the run's own data, maybe with other labels."""
    return request.data is None or any(
        faces.fingerprint == member.checkpoint["data"]["fingerprint"]
        or _same_source(request.data, str(member.checkpoint["config"].get("data", "")))
        for member in network.networks
    )


def _face_columns(faces: FaceDataset, scored: ScoredSplit) -> dict[str, Any]:
    places = scored.indices_N.tolist()
    split_of = {int(place): split for split in SPLITS for place in faces.indices[split].tolist()}
    return {
        "places": places,
        "ids": [faces.name_of(place) for place in places],
        "splits": [split_of[place] for place in places],
        "labels": scored.labels_N.tolist(),
        "logits": scored.logits_NK.tolist(),
    }


def faces_to_score(
    network: LoadedModel, faces: FaceDataset, *, request: EvaluateRequest
) -> tuple[FaceDataset, dict[str, int], ClassMatch]:
    """The faces to score, in the network's channels and under its classes; and how many were dropped of each other class.

    Raises:
        DataError: no faces in the split, classes that the network doesn't know, or a test that the best epoch was chosen on.
    """
    match = match_classes(faces.classes, network.classes)
    indices = dict(faces.indices)
    indices["all"] = np.sort(np.concatenate([faces.indices[split] for split in SPLITS]))
    chosen = indices[request.split]
    if not len(chosen):
        raise DataError(f"{faces.source} has no faces in {request.split}; it has {_splits(faces)}.")
    _refuse_chosen_on(network, faces, request=request)
    counts_K = np.bincount(faces.targets.labels_N[chosen], minlength=len(faces.classes))
    dropped = {
        name: int(count)
        for name, count, place in zip(faces.classes, counts_K, match.places_K, strict=True)
        if count and place < 0
    }
    if dropped and request.unknown_classes == "error":
        known = [name for name in faces.classes if name not in match.unknown]
        raise DataError(
            f"{faces.source} has classes that the network doesn't know: {', '.join(dropped)} (it knows "
            f"{', '.join(network.classes)}); leave their faces out with --unknown-classes drop"
            + (
                f", or name the classes: --classes '{', '.join(known)}, new={match.unknown[0]}'."
                if known
                else "."
            )
        )
    keep_K = match.places_K >= 0
    indices = {
        split: places[keep_K[faces.targets.labels_N[places]]] for split, places in indices.items()
    }
    if not len(indices[request.split]):
        raise DataError(
            f"{faces.source}: none of its classes ({', '.join(faces.classes)}) is one of the network's "
            f"({', '.join(network.classes)}); name them with --classes."
        )
    targets = targets_as_known(faces.targets, match)
    return (
        replace(faces, targets=targets, indices=indices, channels=network.preprocessing.channels),
        dropped,
        match,
    )


def evaluation_loader(
    network: LoadedModel, faces: FaceDataset, *, request: EvaluateRequest, config: Config
) -> EvalLoader:
    """The loader of the request's split, prepared as the network needs it."""
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
        faces.targets,
        network.preprocessing,
        network.device,
        request.batch_size or config.eval_batch_size,
        idist.get_rank(),
        idist.get_world_size(),
        config.channels_last,
    )


def _refuse_chosen_on(
    network: LoadedModel, faces: FaceDataset, *, request: EvaluateRequest
) -> None:
    chosen_on = [member.checkpoint["data"].get("val_fingerprint") for member in network.networks]
    scored = faces.split_fingerprint("test")
    if request.split == "test" and scored is not None and scored in chosen_on:
        raise DataError(
            f"the run chose its best epoch on exactly these faces of {faces.source}, so they are no test for it; "
            "score them with --split val, or name data that the run has not seen."
        )


def _splits(faces: FaceDataset) -> str:
    return ", ".join(f"{split} {len(indices)}" for split, indices in faces.indices.items())


def targets_as_known(targets: Targets, match: ClassMatch) -> Targets:
    """Labels and vote shares as the network numbers its classes; -1 for a class that it doesn't know.

    Shares of unknown classes are left out and the others renormalised.
    """
    soft_NK = None
    if targets.soft_NK is not None:
        soft_NK = np.zeros((len(targets.soft_NK), len(match.known_classes)), dtype=np.float32)
        for column, place in enumerate(match.places_K.tolist()):
            if place >= 0:
                soft_NK[:, place] += targets.soft_NK[:, column]
        if match.unknown:
            total_N1 = soft_NK.sum(axis=1, keepdims=True)
            soft_NK /= np.where(total_N1 > 0, total_N1, 1)
    labels_N = match.places_K[targets.labels_N]
    return Targets(labels_N, len(match.known_classes), soft_NK)
