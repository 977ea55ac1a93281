"""The audit pipeline: read the data, find duplicates, score labels, write the results."""

# Dimensions: N images, K expressions.

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fer_ignite.apps.audit.duplicates import Copies, find_copies, same_person
from fer_ignite.apps.audit.findings import Finding, as_csv, collect
from fer_ignite.apps.audit.label_issues import find_label_issues
from fer_ignite.apps.audit.out_of_fold import NO_FOLD, out_of_fold, out_of_fold_probabilities
from fer_ignite.apps.audit.page import draw_page
from fer_ignite.apps.audit.summary import summarise
from fer_ignite.apps.audit.vote_validation import validate_against_votes, voted_labels
from fer_ignite.checkpoint.atomic_io import storage_errors, write_text_durably
from fer_ignite.checkpoint.paths import ensemble_members
from fer_ignite.checkpoint.remote_files import send_test_access
from fer_ignite.config import DATA_SETTINGS, Config
from fer_ignite.data.dataset import FaceDataset
from fer_ignite.data.folds import build_fold_dataset, deal
from fer_ignite.data.open import find_cache, open_dataset
from fer_ignite.data.readers.find import is_user_dataset
from fer_ignite.data.samples import SPLITS
from fer_ignite.data.shards.remote import is_shards
from fer_ignite.data.splits import joined_units
from fer_ignite.distributed import LaunchSpec
from fer_ignite.distributed.machine import detect_machine
from fer_ignite.distributed.resolve import make_plan
from fer_ignite.errors import ConfigError, DataError
from fer_ignite.imports import require_library
from fer_ignite.inference.evaluation_data import is_own_data
from fer_ignite.inference.loaded_model import find_run_dir, load_model
from fer_ignite.inference.onnx import refuse_onnx
from fer_ignite.metrics.intervals import accuracy_interval
from fer_ignite.terminal import progress, status

__all__ = ["AuditRequest", "audit", "changed_data_settings"]

FILES = ("audit.csv", "audit.html", "audit.json")
# Share of the way from the largest class to 1 from which labels are listed. On drawn persons with planted errors (scripts/audit_persons), networks 13
# points above the largest class listed 272 labels, of which 26 were wrong; networks 62 points above it 108, of which 48 were.
_CLEARLY = 0.2
# Share of train below which groups that val and test have too are not kept out of the judging networks' training.
_LEAST_LEARNED = 0.25


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """Options of ``audit``.

    Args:
        checkpoint: the network that judges the labels; None trains one per fold.
        votes: FER+ votes that the doubts are checked against; they change no label.
        out: folder for audit.csv, audit.html and audit.json.
        folds, epochs: of the small networks.
        labels: judge the labels at all.
        label_method: "own" or "cleanlab".
        drop_above: score from which a doubtful train label is advised to be left out.
        tta: views averaged when a network judges.
        model: the checkpoint's own network class again, where it had one.
    """

    checkpoint: str | None = None
    votes: str | None = None
    out: str = "audit"
    exist_ok: bool = False
    folds: int = 5
    epochs: int = 6
    labels: bool = True
    label_method: str = "own"
    drop_above: float = 0.7
    tta: str = "flip"
    device: str = "auto"
    model: str | None = None


@dataclass(frozen=True)
class _LabelScores:
    """Probabilities float32 [N, K], which images were scored, and which of them were trained on."""

    probabilities_NK: NDArray[np.float32]
    scored_N: NDArray[np.bool_]
    seen_N: NDArray[np.bool_]
    by: str
    warning: str | None = None


def audit(config: Config, request: AuditRequest) -> dict[str, Any]:
    """Checks all images of a data set, and writes audit.csv, audit.html and audit.json into a folder.

    Args:
        config: its data settings say what is read; broken files are skipped and listed.
    Returns:
        ``data, n, fingerprint, balance`` {split: {class: count}}, ``copies``, ``blank``, ``broken``, ``kinds``, ``labels``
        {scored_by, label_method, warning, listed, agreement: share of unseen images whose label is the network's own answer, skill: what
        that is compared with; without ``sufficient`` skill no label is listed},
        ``voters`` (see :func:`validate_against_votes`; None without votes), ``drop`` (train images that the list would leave out),
        ``seconds``, ``files``, and ``sentences``: the same in words.
    Raises:
        ConfigError, DataError, CheckpointError: one sentence; nothing was written.
    """
    _check(config, request)
    clock = time.monotonic()
    # Broken files are findings here, not errors, and an earlier exclude list would hide findings.
    dataset = open_dataset(
        config, find_cache(config.model_copy(update={"bad_images": "skip", "exclude": None}))[0]
    )
    dataset.exclude = None
    cache = dataset.cache
    assert cache is not None
    # Before the search: votes of other data end the audit before minutes of work.
    voted_N = None if request.votes is None else voted_labels(request.votes, cache)
    seconds, clock = {"reading": time.monotonic() - clock}, time.monotonic()
    with status("searching for copies", quiet=config.quiet):
        copies = find_copies(cache)
    seconds["copies"], clock = time.monotonic() - clock, time.monotonic()
    scored = _score_labels(dataset, copies, request=request, quiet=config.quiet)
    seconds["labels"] = time.monotonic() - clock
    skill = _skill(scored, dataset.targets.labels_N, num_classes=len(dataset.classes))
    if skill is not None and not skill["sufficient"]:
        # As if not judged: nothing is listed, suggested or scored in audit.csv.
        scored = replace(scored, scored_N=np.zeros_like(scored.scored_N))
    issues = find_label_issues(
        scored.probabilities_NK,
        dataset.targets.labels_N,
        scored_N=scored.scored_N,
        label_method=request.label_method,
    )
    findings = collect(
        cache, copies, issues=issues, seen_N=scored.seen_N, drop_above=request.drop_above
    )
    facts = _facts(dataset, copies, findings=findings)
    report = {
        **facts,
        "labels": {
            "scored_by": scored.by,
            "warning": scored.warning,
            "label_method": request.label_method,
            "listed": facts["kinds"].get("label", 0),
            "agreement": None if skill is None else skill["agreement"],
            "skill": skill,
        },
        "voters": None
        if voted_N is None or not scored.scored_N.any()
        else validate_against_votes(
            voted_N,
            dataset.targets.labels_N,
            splits_N=np.asarray(cache.splits),
            issues=issues,
            probabilities_NK=scored.probabilities_NK,
            seen_N=scored.seen_N,
        ),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }
    out = Path(request.out)
    sentences = summarise(report, changed_data_settings(config), out=out)
    return _write({**report, "sentences": sentences}, findings, dataset=dataset, out=out)


def _skill(
    scored: _LabelScores, labels_N: NDArray[np.int64], *, num_classes: int
) -> dict[str, Any] | None:
    """Whether the networks are accurate enough to judge labels; None without unseen images.

    Returns:
        ``agreement``: share of unseen images that they give their label, with its ``interval`` (95 %), ``majority``: share
        of the largest class, ``chance``: 1 / K, ``n``, and ``sufficient``: the interval lies above the larger of both by a fifth of what is
        missing to 1.
    """
    # Only unseen images show skill: a network repeats the labels that it was fitted to, wrong ones too.
    unseen_N = scored.scored_N & ~scored.seen_N
    if not unseen_N.any():
        return None
    hits_n = scored.probabilities_NK[unseen_N].argmax(axis=1) == labels_N[unseen_N]
    majority = float(np.bincount(labels_N[unseen_N]).max() / unseen_N.sum())
    low, high = accuracy_interval(hits_n)
    base = max(majority, 1 / num_classes)
    return {
        "agreement": float(hits_n.mean()),
        "interval": [low, high],
        "majority": majority,
        "chance": 1 / num_classes,
        "n": int(unseen_N.sum()),
        "sufficient": low > base + _CLEARLY * (1 - base),
    }


def _check(config: Config, request: AuditRequest) -> None:
    """All that is quick to know before the data is read."""
    if is_user_dataset(config.data):
        raise ConfigError(
            f"{config.data} is a user's data set; the audit reads folders, csv files and dataset caches."
        )
    if is_shards(config.data):
        raise ConfigError(
            f"{config.data}: the audit compares all images with each other; audit the data that the shards were written from."
        )
    if request.checkpoint is not None:
        refuse_onnx(request.checkpoint, "--checkpoint")
    out = Path(request.out)
    if any((out / name).exists() for name in FILES) and not request.exist_ok:
        raise ConfigError(
            f"--out: {out} holds an audit already, maybe one that was edited; allow it with --exist-ok or name another."
        )
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out: {out} is a file; name a folder.")
    if request.votes is not None and not Path(request.votes).is_file():
        raise ConfigError(f"--votes: there is no file {request.votes}; name fer2013new.csv.")
    if request.label_method == "cleanlab":
        require_library("cleanlab", extra="audit", purpose="--label-method cleanlab")


def _score_labels(
    dataset: FaceDataset, copies: Copies, *, request: AuditRequest, quiet: bool
) -> _LabelScores:
    count = len(dataset.targets.labels_N)
    all_N, none_N = np.ones(count, dtype=np.bool_), np.zeros(count, dtype=np.bool_)
    if not request.labels:
        return _LabelScores(
            np.zeros((count, len(dataset.classes)), np.float32), none_N, none_N, "nobody"
        )
    if request.checkpoint is not None:
        return _score_with_checkpoint(dataset, request, checkpoint=request.checkpoint)
    spec = LaunchSpec(device=request.device)  # type: ignore[arg-type]
    device = torch.device(make_plan(spec, {}, machine=detect_machine()).device)
    train, units_N = dataset.indices["train"], _units(copies, dataset)
    if not len(train):
        raise DataError(
            f"{dataset.source} has no train images to train networks on; name a --checkpoint, or pass --no-labels."
        )
    if len(np.unique(units_N[train])) < 2:
        raise DataError(
            f"{dataset.source}: all train images are copies of each other or of one group, so no network can judge some of them "
            "and learn from the others; name a --checkpoint, or pass --no-labels."
        )
    fold_N = np.full(count, NO_FOLD)
    # A fixed seed: audits of the same data deal the same folds, and their lists can be compared.
    fold_N[train] = deal(
        dataset.targets.labels_N[train], units_N[train], folds=request.folds, seed=0
    )
    apart_N, warning = _learnable(fold_N, units_N, copies_N=copies.near_N, source=dataset.source)
    with progress(count, "label scores, out of fold", quiet=quiet) as bar:
        probabilities_NK = out_of_fold(
            dataset,
            fold_N,
            learned_N=apart_N,
            epochs=request.epochs,
            seed=0,
            device=device,
            tta=request.tta,
            done=bar.update,
        )
    return _LabelScores(
        probabilities_NK,
        all_N,
        none_N,
        f"{request.folds} small networks of {request.epochs} epochs, out of fold",
        warning,
    )


def _learnable(
    fold_N: NDArray[np.int64],
    units_N: NDArray[np.int64],
    *,
    copies_N: NDArray[np.int64],
    source: str,
) -> tuple[NDArray[np.bool_], str | None]:
    """bool [N]: images without a copy or their group in val or test, as a network would judge what it has seen; and a warning.

    Where the groups leave some fold's network too little to learn from, only copies are left out, and the warning says so.

    Raises:
        DataError: the copies alone leave some fold's network nothing.
    """
    outside_N = fold_N == NO_FOLD

    def learnable(names_N: NDArray[np.int64]) -> tuple[NDArray[np.bool_], float]:
        apart_N = ~outside_N & ~np.isin(names_N, names_N[outside_N])
        shares = [apart_N[~outside_N & (fold_N != fold)].mean() for fold in range(fold_N.max() + 1)]
        return apart_N, min(shares)

    apart_N, share = learnable(units_N)
    if share >= _LEAST_LEARNED:
        return apart_N, None
    apart_N, copies_share = learnable(copies_N)
    if not copies_share:
        raise DataError(
            f"{source}: nearly all train images have copies in val or test, so that no network can learn from the others and "
            "judge these; name a --checkpoint, or pass --no-labels."
        )
    if copies_share == share:  # the data has no groups
        return apart_N, None
    return apart_N, (
        "nearly all groups (--group-by) of train are in val or test too, so the networks that judge the labels learned from "
        "them, though from no copies: scores for val and test are too low; pass --no-labels to leave the labels out."
    )


def _units(copies: Copies, dataset: FaceDataset) -> NDArray[np.int64]:
    """Images that stay in one fold: copies, and the data's own groups; a chain of both makes one unit."""
    assert dataset.cache is not None
    groups = dataset.cache.groups
    return copies.near_N if groups is None else joined_units(copies.near_N, np.asarray(groups))


def _score_with_checkpoint(
    dataset: FaceDataset, request: AuditRequest, *, checkpoint: str
) -> _LabelScores:
    network = load_model(checkpoint, device=request.device, model=request.model)
    network.require_images()
    all_N = np.arange(len(dataset.targets.labels_N))
    probabilities_NK = out_of_fold_probabilities(network, dataset, indices=all_N, tta=request.tta)
    seen_N, known = np.zeros(len(all_N), dtype=np.bool_), True
    # What one member was trained on counts as seen: its fit is part of the mean.
    for member in network.networks:
        its_own = member.checkpoint["data"]["fingerprint"] == dataset.fingerprint
        seen_N[
            _trained_on(member.checkpoint["config"], dataset)
            if its_own
            else dataset.indices["train"]
        ] = True
        known = known and its_own
    warning = (
        "the checkpoint was trained on the train images, and may have fitted their wrong labels: its scores for train "
        "are too low; leave --checkpoint out for networks that were not trained on what they score."
        if known
        else "the checkpoint was trained on other data or with other data settings: it can't be determined which of these images it "
        "has seen, so all of train count as seen."
    )
    # A use of test: its labels are judged by the runs' networks. The small networks have no run to log in.
    members = zip(ensemble_members(checkpoint), network.networks, strict=True)
    for name, member in members if len(dataset.indices["test"]) else ():
        folder = find_run_dir(name.path)
        if folder is None or not is_own_data(member, dataset, source=dataset.source):
            continue
        line = {
            "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "by": "audit",
            "split": "test",
            "tta": request.tta,
        }
        folder.log_test_access({**line, "n": len(dataset.indices["test"]), "data": dataset.source})
        send_test_access(folder)
    return _LabelScores(
        probabilities_NK, np.ones(len(all_N), dtype=np.bool_), seen_N, checkpoint, warning
    )


def _trained_on(saved: Mapping[str, Any], dataset: FaceDataset) -> NDArray[np.int64]:
    """Places of the checkpoint's train images in its own data: those of a fold's run lie in train and val."""
    if saved.get("folds") is None:
        return dataset.indices["train"]
    return build_fold_dataset(
        dataset, folds=saved["folds"], fold=saved["fold"], seed=saved["split_seed"]
    ).indices["train"]


def _facts(dataset: FaceDataset, copies: Copies, *, findings: Sequence[Finding]) -> dict[str, Any]:
    cache = dataset.cache
    assert cache is not None
    kinds = Counter(kind for finding in findings for kind in finding.kinds.split(";"))
    groups = {
        kind: len({f.group for f in findings if kind in f.kinds.split(";")})
        for kind in ("contradicting", "across_splits", "same_person")
    }
    return {
        "data": dataset.source,
        "n": len(cache),
        "fingerprint": dataset.fingerprint,
        "balance": {
            split: cache.manifest["counts"][split]
            for split in SPLITS
            if len(dataset.indices[split])
        },
        "copies": {
            "exact_images": kinds["exact_copy"],
            "near_images": kinds["near_copy"] + kinds["mirrored"],
            "groups": len({finding.group for finding in findings if finding.group}),
            "contradicting_groups": groups["contradicting"],
            "across_splits_groups": groups["across_splits"],
            "train_images_also_in_val_or_test": _leaks(copies, dataset),
            "same_person_groups": groups["same_person"],
            "same_person_images": kinds["same_person"],
        },
        "blank": kinds["blank"],
        "broken": kinds["broken"],
        "kinds": dict(kinds),
        "drop": sum(finding.drop == "yes" for finding in findings),
    }


def _leaks(copies: Copies, dataset: FaceDataset) -> dict[str, int]:
    """Train images with a copy in val or test, by how alike they are; blank ones don't count, nor other expressions of a person."""
    assert dataset.cache is not None
    splits_N = np.asarray(dataset.cache.splits)
    person_N = same_person(copies, dataset.targets.labels_N, persons_N=dataset.cache.groups)
    alike_N = np.where(person_N, copies.exact_N, copies.near_N)
    train_N = (splits_N == 0) & ~copies.flat_N
    return {
        name: int(np.isin(groups_N[train_N], groups_N[(splits_N != 0) & ~copies.flat_N]).sum())
        for name, groups_N in (("exact", copies.exact_N), ("exact_or_near", alike_N))
    }


def changed_data_settings(config: Config) -> dict[str, Any]:
    """``data``, and the settings of the data that are not at their defaults."""
    return {"data": config.data} | config.model_dump(
        include=set(DATA_SETTINGS), exclude_defaults=True
    )


def _write(
    report: dict[str, Any], findings: Sequence[Finding], *, dataset: FaceDataset, out: Path
) -> dict[str, Any]:
    cache = dataset.cache
    assert cache is not None
    # As functions, so that one file's text is in memory at a time: the page holds hundreds of pictures.
    contents: dict[str, Callable[[], str]] = {
        "audit.csv": lambda: as_csv(findings),
        "audit.html": lambda: draw_page(
            report, report["sentences"], findings=findings, cache=cache
        ),
        "audit.json": lambda: json.dumps(report, indent=2) + "\n",
    }
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_text_durably(out / name, content())
    return {**report, "files": [str(out / name) for name in FILES]}
