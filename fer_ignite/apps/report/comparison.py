"""Template context of the report of several runs: figures side by side, paired differences."""

# Dimensions: N faces of the split, which all paired runs were scored on.

import itertools
from collections.abc import Sequence
from typing import Any

from fer_ignite.apps.report.charts import Svg, share_chart
from fer_ignite.apps.report.context import class_rows, read_test_accesses
from fer_ignite.apps.report.curves import shared_charts
from fer_ignite.apps.report.evaluation import ReportOptions, evaluation_result
from fer_ignite.apps.report.settings import differing_settings
from fer_ignite.apps.report.subject import RunReference
from fer_ignite.inference.comparison import correct_predictions, paired_difference, same_images

__all__ = ["build_comparison", "compare_pair"]


def build_comparison(subjects: Sequence[RunReference], options: ReportOptions) -> dict[str, Any]:
    """The page of several networks as values for its template; each is scored once.

    Raises:
        FerError: as ``evaluate`` does.
    """
    # The pairs below are found by name, so no two runs may share one.
    names = distinct_names(subjects)
    runs = [
        _run(name, subject, options=options) for name, subject in zip(names, subjects, strict=True)
    ]
    histories = [
        [] if subject.folder is None else list(subject.folder.read_history())
        for subject in subjects
    ]
    # By accuracy, so that A of a pair is the better run; _sentences looks up the best one as A.
    ranked = sorted(runs, key=lambda run: -run["result"]["accuracy"])
    pairs = [compare_pair(a, b) for a, b in itertools.combinations(ranked, 2)]
    return {
        "title": f"{len(runs)} runs compared",
        "split": options.split,
        "runs": runs,
        "checkpoints": [(run["name"], run["checkpoint"]) for run in runs],
        "best": ranked[0],
        "pairs": pairs,
        "sentences": _sentences(ranked, pairs, split=options.split),
        "curves": shared_charts(names, histories),
        "class_chart": recall_chart(runs),
        "settings": differing_settings([run["config"] for run in runs]),
    }


def compare_pair(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """McNemar's test and a paired interval of two runs' difference; only their names where faces or labels differ.

    See :func:`fer_ignite.inference.comparison.paired_difference`.
    """
    pair: dict[str, Any] = {
        "a": a["name"],
        "b": b["name"],
        "paired": same_images(a["result"], b["result"]),
    }
    if pair["paired"]:
        pair |= paired_difference(a["hits_N"], b["hits_N"])
    return pair


def distinct_names(subjects: Sequence[RunReference]) -> list[str]:
    """Distinct names of the subjects: the run's, with the checkpoint's or a number where two share it."""
    names = [subject.name for subject in subjects]
    if len(set(names)) < len(names):
        names = [
            f"{name} {subject.checkpoint.stem}"
            for name, subject in zip(names, subjects, strict=True)
        ]
    if len(set(names)) < len(names):
        names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
    return names


def recall_chart(runs: Sequence[dict[str, Any]]) -> Svg:
    """Recall of each expression, a mark per run; empty where the runs know different expressions."""
    classes = runs[0]["result"]["class_names"]
    if any(run["result"]["class_names"] != classes for run in runs):
        return Svg("")
    tables = [class_rows(run["result"]) for run in runs]
    rows = [(name, [table[k]["recall"] for table in tables]) for k, name in enumerate(classes)]
    return share_chart("per-class", "Recall of each expression by run", rows=rows)


def _run(name: str, subject: RunReference, *, options: ReportOptions) -> dict[str, Any]:
    result = evaluation_result(subject, options)
    return {
        "name": name,
        "checkpoint": subject.source,
        # Only hits are kept: the logits of every face of every run would stay in memory.
        "hits_N": correct_predictions(result.pop("faces")),
        "result": result,
        "summary": {} if subject.folder is None else subject.folder.read_summary(),
        "test_evaluations": len(read_test_accesses(subject)),
        "config": dict(subject.config),
    }


def _sentences(
    ranked: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]], *, split: str
) -> list[str]:
    best = ranked[0]
    lead = f"{best['name']} has the highest accuracy on {split}, {100 * best['result']['accuracy']:.1f} %."
    rivals = [pair for pair in pairs if pair["a"] == best["name"] and pair["paired"]]
    unsure = [pair["b"] for pair in rivals if pair["p"] >= 0.05]
    if not rivals:
        return [
            lead,
            "The runs were scored on different faces or labels, so no difference can be tested.",
        ]
    if unsure:
        return [
            lead,
            f"It is not shown to be better than {', '.join(unsure)}: chance alone would do that (McNemar p of 0.05 or more).",
        ]
    several = " each" if len(rivals) > 1 else ""
    return [
        lead,
        f"Its lead over {', '.join(pair['b'] for pair in rivals)} is{several} more than chance (McNemar p < 0.05).",
    ]
