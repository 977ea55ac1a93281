"""The audit's results as sentences."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fer_ignite.terminal import flag_words, program_name

__all__ = ["summarise"]


def summarise(report: Mapping[str, Any], settings: Mapping[str, Any], *, out: Path) -> list[str]:
    """One sentence per fact, out of what :func:`fer_ignite.apps.audit.pipeline.audit` found.

    Args:
        settings: ``data``, and those of the data that are not at their defaults.
        out: the folder that it is written to.
    """
    copies, leaks = report["copies"], report["copies"]["train_images_also_in_val_or_test"]
    splits = ", ".join(
        f"{split} {sum(counts.values())}" for split, counts in report["balance"].items()
    )
    lines = [
        f"{report['n']} images of {len(next(iter(report['balance'].values())))} classes: {splits}.",
        *(_balance(split, counts) for split, counts in report["balance"].items()),
        f"{copies['exact_images']} images are exact copies of others and {copies['near_images']} near ones, in {copies['groups']} groups; "
        f"{copies['contradicting_groups']} groups contradict themselves in their labels.",
        f"{leaks['exact']} train images also stand in val or test pixel for pixel, {leaks['exact_or_near']} with near copies "
        f"({copies['across_splits_groups']} groups).",
        *_persons(copies),
        f"{report['blank']} images are blank, {report['broken']} files can't be read.",
        *_labels(report),
        *_voters(report),
        f"{report['drop']} train images are advised to be left out: "
        + _train_command(settings, out / "audit.csv", broken=report["broken"] > 0),
    ]
    return lines


def _train_command(settings: Mapping[str, Any], findings: Path, *, broken: bool) -> str:
    """The command that trains on the audited data as the audit has read it, without what the findings advise to leave out."""
    words = [program_name(), "train"]
    for name, value in settings.items():
        words += flag_words(name, value)
    # The audit lists such files, where train refuses them.
    words += ["--bad-images", "skip"] if broken else []
    return shlex.join([*words, "--exclude", str(findings)])


def _persons(copies: Mapping[str, Any]) -> list[str]:
    if not copies["same_person_groups"]:
        return []
    return [
        f"Same person? {copies['same_person_images']} images in {copies['same_person_groups']} groups look alike and have different "
        "labels, as pictures of one person with several expressions do. None is advised to be left out; split by person instead "
        "(--group-by, or a column group in a manifest), so that no person is in train and in test."
    ]


def _balance(split: str, counts: Mapping[str, int]) -> str:
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    return f"In {split} the largest class is {most} with {counts[most]}, the smallest {least} with {counts[least]}."


def _labels(report: Mapping[str, Any]) -> list[str]:
    labels = report["labels"]
    if labels["scored_by"] == "nobody":
        return []
    skill = labels["skill"]
    if skill is not None and not skill["sufficient"]:
        low, high = (100 * bound for bound in skill["interval"])
        return [
            f"No verdict on labels: {labels['scored_by']} give {100 * skill['agreement']:.1f} % of {skill['n']} unseen images their "
            f"label (95 % interval {low:.1f} to {high:.1f}), which is not clearly more than the largest class "
            f"({100 * skill['majority']:.1f} %) and chance ({100 * skill['chance']:.1f} %). Use more images, more --epochs, or a "
            "--checkpoint trained on similar faces."
        ]
    share = 100 * labels["listed"] / max(report["n"], 1)
    agreement = (
        ""
        if labels["agreement"] is None
        else f", which would give {100 * labels['agreement']:.1f} % of unseen images their label"
    )
    lines = [
        f"{labels['listed']} labels ({share:.1f} %) are probably wrong, judged by {labels['scored_by']}{agreement}."
    ]
    return lines + ([f"Warning: {labels['warning']}"] if labels["warning"] else [])


def _voters(report: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, found in (report["voters"] or {}).items():
        differ, precision, recall, right = (
            100 * found[key] for key in ("differ", "precision", "recall", "suggestion_right")
        )
        lines.append(
            f"FER+ on {name}: AUROC {found['auroc']:.3f} of finding the {differ:.1f} % of {found['n']} images whose majority "
            f"differs from their label; the list has {precision:.1f} % precision and {recall:.1f} % recall, and suggests "
            f"what the majority says for {right:.1f} %."
        )
    return lines
