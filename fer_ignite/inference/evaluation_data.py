"""Images of an evaluation: classes matched with the network's, targets renumbered, and the loader of the split."""

# Dimensions: N images, K expressions.

from collections.abc import Sequence
from dataclasses import replace

import ignite.distributed as idist
import numpy as np
from numpy.typing import NDArray

from fer_ignite.config import Config
from fer_ignite.data.classes import ClassMatch, match_classes
from fer_ignite.data.dataset import FaceDataset
from fer_ignite.data.expressions import are_numbers
from fer_ignite.data.loader import EvalLoader, Targets
from fer_ignite.data.open import find_cache, open_dataset
from fer_ignite.data.samples import SPLITS
from fer_ignite.data.shards.remote import is_shards
from fer_ignite.data.splits import AS_THE_SOURCE_SAYS
from fer_ignite.distributed import reset_signals
from fer_ignite.errors import ConfigError, DataError, FerError
from fer_ignite.imports import OBJECT, load_object, split_names
from fer_ignite.inference.loaded_model import LoadedModel
from fer_ignite.inference.request import EvaluateRequest, evaluation_config, shares_source
from fer_ignite.training.components import choose_train_indices

__all__ = [
    "build_eval_loader",
    "differing_split_settings",
    "is_own_data",
    "match_dataset",
    "open_for_scoring",
    "remap_targets",
    "split_warning",
    "trained_indices",
]

# Settings that decide which images of a data set are train, val and test; the first three decide about test.
_SPLITTING = ("split", "split_seed", "group_by", "val_fraction", "folds", "fold")
_TEST_SPLITTING = _SPLITTING[:3]


def open_for_scoring(
    network: LoadedModel, request: EvaluateRequest, *, networks: Sequence[LoadedModel]
) -> tuple[Config, FaceDataset, EvalLoader]:
    """The run's settings, the images under the network's classes, and the loader of the request's split, in this process.

    Args:
        networks: those that are chosen or weighted by their scores.
    Raises:
        ConfigError: one of ``networks`` was trained on another split of the data, so that its score would be too good.
    """
    config = evaluation_config(request, network.checkpoint)
    opened = open_dataset(config, find_cache(config)[0])
    if found := differing_split_settings(config, opened, networks=networks, split=request.split):
        raise ConfigError(
            f"the checkpoints were trained on different splits of {opened.source} ({', '.join(found)}), so {request.split} may hold "
            "images that some of them were trained on, and can't rank them; name checkpoints of runs with the same split settings."
        )
    dataset, _, _ = match_dataset(network, opened, request=request)
    return config, dataset, build_eval_loader(network, dataset, request=request, config=config)


def differing_split_settings(
    config: Config, dataset: FaceDataset, *, networks: Sequence[LoadedModel], split: str
) -> list[str]:
    """Split settings in which a network's run on this data differs from ``config``: it may have been trained on images of ``split``.

    Args:
        config: the settings by which ``dataset`` was opened.
        split: "val" or "test"; none are returned for "train" and "all".
    Returns:
        Names of settings, of the first such network; empty where none differs.
    """
    names = {"val": _SPLITTING, "test": _TEST_SPLITTING}.get(split, ())
    val = dataset.split_fingerprint("val") if split == "val" else None
    # The sentence of a union says so of all its parts, whose splits may have been dealt.
    own_test = (
        split == "test"
        and len(split_names(config.data)) == 1
        and AS_THE_SOURCE_SAYS in dataset.facts.get("splits", "")
    )
    for network in networks:
        data, saved = network.checkpoint["data"], network.config
        # The fingerprint covers the splits, but not the folds, which are dealt on top of them.
        same_content = data["fingerprint"] == dataset.fingerprint
        if not (same_content or shares_source(saved.data, config.data)):
            continue
        same_splits = same_content and (split == "test" or saved.folds is config.folds is None)
        # Settings may differ without effect: data with splits of its own has one val for all seeds, and one test.
        same_val = val is not None and data.get("val_fingerprint") == val
        if not (same_splits or same_val or own_test) and (
            found := [name for name in names if getattr(saved, name) != getattr(config, name)]
        ):
            return found
    return []


def split_warning(
    config: Config, dataset: FaceDataset, *, networks: Sequence[LoadedModel], split: str
) -> str | None:
    """A sentence where figures may be too good: on all of a run's own data, or see :func:`differing_split_settings`; else None."""
    if split == "all" and any(_trained_on(network, config, dataset) for network in networks):
        return "all holds the images that the network was trained on, so the figures are too good."
    found = differing_split_settings(config, dataset, networks=networks, split=split)
    if not found:
        return None
    return (
        f"{'a member of the ensemble' if len(networks) > 1 else 'the network'} was trained on another split of this data "
        f"({', '.join(found)}), so it may have been trained on images of {split}; the figures may be too good."
    )


def _trained_on(network: LoadedModel, config: Config, dataset: FaceDataset) -> bool:
    if (
        dataset.cache is not None
        and network.checkpoint["data"]["fingerprint"] == dataset.fingerprint
    ):
        return True
    # Objects of one class have one name, whatever they hold.
    return not config.data.startswith(OBJECT) and shares_source(network.config.data, config.data)


def is_own_data(network: LoadedModel, dataset: FaceDataset, *, source: str) -> bool:
    """Whether images that the network's run read are among these, maybe with other labels or splits.

    Args:
        source: the name under which the images were opened.
    """
    return network.checkpoint["data"]["fingerprint"] == dataset.fingerprint or shares_source(
        source, str(network.checkpoint["config"].get("data", ""))
    )


def match_dataset(
    network: LoadedModel, dataset: FaceDataset, *, request: EvaluateRequest
) -> tuple[FaceDataset, dict[str, int], ClassMatch]:
    """The images to score, in the network's channels and under its classes; and how many were dropped of each other class.

    Raises:
        DataError: no images in the split, classes that the network doesn't know, a test that the best epoch was chosen on, or
            images for a network of finished tensors, or the other way round.
    """
    if network.finished_tensors and not dataset.finished and request.collate_fn is None:
        raise DataError(
            f"{dataset.source} gives images, and the network was trained on float tensors that its data set made; give data whose "
            "samples are made the same way."
        )
    if dataset.finished and not network.finished_tensors and request.collate_fn is None:
        raise DataError(
            f"{dataset.source} gives finished float tensors, and the network was trained on images, which are resized and normalised "
            "for it; give PIL images or uint8 pixels (without ToTensor and Normalize)."
        )
    _refuse_other_numbers(network, dataset, request=request)
    match = match_classes(dataset.classes, network.classes)
    indices = dict(dataset.indices)
    indices["all"] = np.sort(np.concatenate([dataset.indices[split] for split in SPLITS]))
    chosen = indices[request.split]
    if not len(chosen):
        counts = ", ".join(f"{split} {len(part)}" for split, part in dataset.indices.items())
        raise DataError(f"{dataset.source} has no faces in {request.split}; it has {counts}.")
    # Before images of unknown classes are left out, which changes the split's fingerprint.
    _refuse_selection_data(network, dataset, request=request)
    counts_K = np.bincount(dataset.targets.labels_N[chosen], minlength=len(dataset.classes))
    dropped = {
        name: int(count)
        for name, count, place in zip(dataset.classes, counts_K, match.places_K, strict=True)
        if count and place < 0
    }
    if dropped and request.unknown_classes == "error":
        raise _unknown_classes(network, dataset, dropped=dropped, match=match)
    keep_K = match.places_K >= 0
    indices = {
        split: places[keep_K[dataset.targets.labels_N[places]]] for split, places in indices.items()
    }
    if not len(indices[request.split]):
        raise DataError(
            f"{dataset.source}: none of its classes ({', '.join(dataset.classes)}) is one of the network's "
            f"({', '.join(network.classes)}); name them with --classes."
        )
    targets = remap_targets(dataset.targets, match)
    matched = replace(
        dataset, targets=targets, indices=indices, channels=network.preprocessing.channels
    )
    return matched, dropped, match


def _refuse_other_numbers(
    network: LoadedModel, dataset: FaceDataset, *, request: EvaluateRequest
) -> None:
    """Refuses numbered classes of other data than the run's, unless the request names them: 1 is disgust in FER2013, surprise in RAF-DB."""
    if request.data is None:
        return
    if request.classes is not None:
        if is_shards(request.data):
            _require_confirmed(dataset, request.classes)
        return
    # A Python object without class names: its labels count the network's outputs.
    if dataset.facts.get("unnamed_classes"):
        return
    if not (are_numbers(dataset.classes) and are_numbers(network.classes)):
        return
    for part in network.networks:
        # Votes or a layout change the fingerprint of the run's own data, but not its name; the name of an object is its class's.
        if part.checkpoint["data"]["fingerprint"] == dataset.fingerprint or (
            not request.data.startswith(OBJECT) and shares_source(request.data, part.config.data)
        ):
            return
    raise DataError(
        f"the classes of {dataset.source} and of the network are numbers ({', '.join(dataset.classes)}), whose meaning may differ "
        f"between data sets; where they mean the same, say so with --classes '{','.join(dataset.classes)}'."
    )


def _require_confirmed(dataset: FaceDataset, classes: str) -> None:
    """Refuses class names that are not those of the shards, which are read as they are."""
    if tuple(name.strip() for name in classes.split(",")) != dataset.classes:
        raise DataError(
            f"--classes '{classes}': faces in shards are read as they are, and {dataset.source} has the classes "
            f"'{','.join(dataset.classes)}'; give exactly these, or other ones when the shards are written: fer-ignite pack DATA --shards FOLDER."
        )


def _refuse_selection_data(
    network: LoadedModel, dataset: FaceDataset, *, request: EvaluateRequest
) -> None:
    if request.split != "test":
        return
    # By the pixels: other data may call the run's val split its test.
    chosen_on = [member.checkpoint["data"].get("val_fingerprint") for member in network.networks]
    scored = dataset.split_fingerprint("test")
    if scored is not None and scored in chosen_on:
        raise DataError(
            f"the run chose its best epoch on exactly these faces of {dataset.source}, so they are no test for it; "
            "score them with --split val, or name data that the run has not seen."
        )


def _unknown_classes(
    network: LoadedModel, dataset: FaceDataset, *, dropped: dict[str, int], match: ClassMatch
) -> DataError:
    known = [name for name in dataset.classes if name not in match.unknown]
    remedy = (
        f", or name the classes: --classes '{', '.join(known)}, new={match.unknown[0]}'."
        if known
        else "."
    )
    return DataError(
        f"{dataset.source} has classes that the network doesn't know: {', '.join(dropped)} (it knows "
        f"{', '.join(network.classes)}); leave their faces out with --unknown-classes drop{remedy}"
    )


def trained_indices(network: LoadedModel, dataset: FaceDataset) -> NDArray[np.int64] | None:
    """Places of the faces that the network, or a member of the ensemble, was trained on; None: it was trained on other data.

    Args:
        dataset: with all its classes; faces that a run left out count only where its list of them can't be read any more.
    """
    chosen = []
    for part in network.networks:
        if part.checkpoint["data"]["fingerprint"] != dataset.fingerprint:
            continue
        try:
            listed = replace(dataset, exclude=part.config.exclude)
            chosen.append(choose_train_indices(part.config, listed))
        except FerError:  # the list is gone or changed, and is no part of the checkpoint
            chosen.append(choose_train_indices(part.config, replace(dataset, exclude=None)))
    return np.unique(np.concatenate(chosen)) if chosen else None


def build_eval_loader(
    network: LoadedModel, dataset: FaceDataset, *, request: EvaluateRequest, config: Config
) -> EvalLoader:
    """The loader of the request's split, preprocessed as the network needs it."""
    name = request.collate_fn
    # worker_init: forked loader processes inherit signal handlers, and must not act on them.
    fetcher = dataset.fetcher(
        network.device,
        seed=config.seed,
        collate_fn=None if name is None else load_object(name, setting="--collate-fn"),
        workers=config.workers,
        worker_init=reset_signals,
    )
    return EvalLoader(
        fetcher,
        dataset.indices[request.split],
        dataset.targets,
        network.preprocessing,
        network.device,
        request.batch_size or config.eval_batch_size,
        idist.get_rank(),
        idist.get_world_size(),
        config.channels_last,
    )


def remap_targets(targets: Targets, match: ClassMatch) -> Targets:
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
            # An image all of whose votes are for unknown classes keeps shares of 0; 0 / 0 would be NaN.
            soft_NK /= np.where(total_N1 > 0, total_N1, 1)
    labels_N = match.places_K[targets.labels_N]
    return Targets(labels_N, len(match.known_classes), soft_NK)
