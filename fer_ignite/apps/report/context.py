"""Template context of the report of one run."""

# Dimensions: N faces of the split, K expressions.

import os
import platform
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_ignite.apps.report.charts import Series, Svg, line_chart, reliability_chart, share_chart
from fer_ignite.apps.report.curves import history_charts
from fer_ignite.apps.report.duplicate_groups import duplicate_groups
from fer_ignite.apps.report.evaluation import ReportData, ReportOptions, evaluate_for_report
from fer_ignite.apps.report.explanations import GradCam, build_explainer
from fer_ignite.apps.report.gallery import confident_mistakes, confusion_cells, describe_faces
from fer_ignite.apps.report.sentences import outcome_sentences
from fer_ignite.apps.report.settings import setting_rows
from fer_ignite.apps.report.subject import RunReference
from fer_ignite.inference.loaded_model import LoadedModel
from fer_ignite.metrics.calibration import build_calibration
from fer_ignite.metrics.curves import class_curves
from fer_ignite.metrics.intervals import f1_intervals, wilson_interval
from fer_ignite.models.summary import parameter_count
from fer_ignite.terminal import status
from fer_ignite.training.session import versions

__all__ = ["build_context", "read_test_accesses"]

MISTAKES = 24
_CURVE_POINTS = 120  # a curve is 300 px wide


def build_context(subject: RunReference, options: ReportOptions) -> dict[str, Any]:
    """The page of one network as values for its template.

    Raises:
        FerError: as ``evaluate`` does.
    """
    data = evaluate_for_report(subject, options)
    with status("drawing the report"):
        return _context(subject, options, data=data)


def _context(subject: RunReference, options: ReportOptions, *, data: ReportData) -> dict[str, Any]:
    result, checkpoint = data.result, data.network.checkpoint
    summary = {} if subject.folder is None else subject.folder.read_summary()
    # After the evaluation: one of test, by this page, is then in the log and counted.
    accesses = read_test_accesses(subject)
    explainer = build_explainer(data)
    config = dict(checkpoint["config"])
    return {
        "title": subject.name,
        "subject": {
            "checkpoint": subject.source,
            "run": None if subject.folder is None else str(subject.folder.path),
            "ensemble": subject.is_ensemble,
        },
        "sentences": outcome_sentences(
            result, summary, network=_network_name(data.network), test_evaluations=len(accesses)
        ),
        "result": result,
        "summary": summary,
        "test_accesses": accesses,
        "curves": []
        if subject.folder is None
        else history_charts(list(subject.folder.read_history())),
        "classes": class_rows(result),
        "class_chart": class_chart(result),
        "ranking": ranking_facts(data),
        "matrix": matrix_rows(result),
        "cells": cell_faces(data),
        "calibration": calibration_facts(data),
        "robustness": robustness_facts(result),
        "mistakes": find_mistakes(data, explainer),
        "attention": attention_facts(explainer),
        "data": data_facts(data, options.split),
        "settings": setting_rows(config),
        "network": network_facts(data),
        "environment": environment_rows(checkpoint, summary, device=str(data.network.device)),
    }


def read_test_accesses(subject: RunReference) -> list[dict[str, Any]]:
    """Every evaluation of test with the run's networks."""
    return [] if subject.folder is None else subject.folder.read_test_accesses()


def class_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each expression with 95 % intervals: Wilson's for shares, bootstrap for F1."""
    matrix_KK = np.array(result["confusion_matrix"], dtype=np.int64)
    f1_K2 = f1_intervals(matrix_KK)
    rows = []
    for k, name in enumerate(result["class_names"]):
        hits, support, named = (
            int(matrix_KK[k, k]),
            int(matrix_KK[k].sum()),
            int(matrix_KK[:, k].sum()),
        )
        row = result["per_class"][name]
        rows.append(
            {
                "name": name,
                "support": support,
                "named": named,
                "precision": (row["precision"], *wilson_interval(hits, named)),
                "recall": (row["recall"], *wilson_interval(hits, support)),
                "f1": (row["f1"], float(f1_K2[k, 0]), float(f1_K2[k, 1])),
            }
        )
    return rows


def class_chart(result: Mapping[str, Any]) -> Svg:
    """Recall and precision of each expression beside each other."""
    rows = [(row["name"], [row["recall"], row["precision"]]) for row in class_rows(result)]
    return share_chart("per-class", "Recall and precision of each expression", rows=rows)


def robustness_facts(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Rows of the robustness table, clean first and the mean last; None where it was not requested."""
    table = result.get("robustness")
    if table is None:
        return None
    rows = [{"kind": "clean", "severity": "", **table["clean"]}]
    for kind, part in table["corruptions"].items():
        rows += [{"kind": kind, "severity": severity, **row} for severity, row in part.items()]
    rows.append({"kind": "mean of the kinds", "severity": "", **table["mean"]})
    names = ("temperature", "robust_temperature", "robust_ece", "clean", "mean")
    return {"rows": rows, **{name: table[name] for name in names}}


def ranking_facts(data: ReportData) -> dict[str, Any]:
    """Precision-recall and ROC curves of each class against the others, as charts, with their areas."""
    # float64: in float32 many sure faces round to the same probability, and class_curves makes one
    # threshold of equal scores.
    probabilities_NK = data.logits_NK.double().softmax(dim=1).numpy()
    labels_N = data.labels_N.numpy()
    found = {
        name: (k, curves)
        for k, name in enumerate(data.network.classes)
        if (curves := class_curves(probabilities_NK[:, k], labels_N == k)) is not None
    }
    recall = [
        Series(name, _thinned(curves.recall_T, curves.precision_T), k)
        for name, (k, curves) in found.items()
    ]
    rates = [
        # class_curves begins at the strictest threshold; a ROC curve begins at the origin.
        Series(name, [(0.0, 0.0), *_thinned(curves.false_positive_rate_T, curves.recall_T)], k)
        for name, (k, curves) in found.items()
    ]
    charts = [
        ("Precision against recall", "precision-recall", recall, "recall"),
        ("True positives against false positives (ROC)", "roc", rates, "false positive rate"),
    ]
    return {
        "charts": [
            {
                "title": title,
                "svg": line_chart(
                    key, title, series=series, x_label=label, percent=True, whole=False
                ),
                "legend": [(line.name, line.style % 8) for line in series],
            }
            for title, key, series, label in charts
        ],
        "rows": [
            {"name": name, "average_precision": curves.average_precision, "auc": curves.roc_auc}
            for name, (_, curves) in found.items()
        ],
    }


def _thinned(x_T: NDArray[np.float64], y_T: NDArray[np.float64]) -> list[tuple[float, float]]:
    """At most 120 points of a curve, the last one among them."""
    kept = np.unique(np.linspace(0, len(x_T) - 1, min(_CURVE_POINTS, len(x_T))).round().astype(int))
    return list(zip(x_T[kept].tolist(), y_T[kept].tolist(), strict=True))


def matrix_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The confusion matrix with each count's share of its row, and that share as one of eleven shades."""
    rows = []
    for i, (name, counts) in enumerate(
        zip(result["class_names"], result["confusion_matrix"], strict=True)
    ):
        total = sum(counts)
        cells = [
            {
                "count": count,
                "share": count / max(total, 1),
                # A class of the style sheet, h0 to h10: the page's policy allows no style attributes.
                "shade": round(10 * count / max(total, 1)),
                "right": i == j,
            }
            for j, count in enumerate(counts)
        ]
        rows.append({"name": name, "total": total, "cells": cells})
    return rows


def cell_faces(data: ReportData) -> dict[str, list[dict[str, Any]]]:
    """The faces of each cell of the matrix under "true-predicted", as the page's script reads them."""
    cells = confusion_cells(data.logits_NK, data.labels_N, temperature=data.network.temperature)
    # One call for all cells: each call reads the votes file again.
    described = describe_faces(data, [row for rows in cells.values() for row in rows])
    return {f"{i}-{j}": [described[row] for row in rows] for (i, j), rows in cells.items()}


def calibration_facts(data: ReportData) -> dict[str, Any]:
    """Reliability as trained, and at the stored temperature where there is one that can be used."""
    temperature = data.network.temperature
    before = build_calibration(data.logits_NK, data.labels_N, temperature=1.0)
    after = None
    if data.network.calibrated:
        after = build_calibration(data.logits_NK, data.labels_N, temperature=temperature)
    return {
        "before": before,
        "after": after,
        "svg": reliability_chart("reliability", before, after=after),
    }


def find_mistakes(data: ReportData, explainer: GradCam | str) -> list[dict[str, Any]]:
    """The most confident errors, each with Grad-CAM for the predicted and for the true class."""
    rows = confident_mistakes(
        data.logits_NK, data.labels_N, temperature=data.network.temperature, count=MISTAKES
    )
    described = describe_faces(data, rows)
    if isinstance(explainer, GradCam) and rows:
        predicted = [int(data.logits_NK[row].argmax()) for row in rows]
        wanted = [int(data.labels_N[row]) for row in rows]
        for kind, targets in (("for_named", predicted), ("for_true", wanted)):
            for row, picture in zip(rows, explainer.overlays(rows, targets), strict=True):
                described[row][kind] = picture
    return [described[row] for row in rows]


def attention_facts(explainer: GradCam | str) -> dict[str, Any]:
    """Grad-CAM's pictures and the deletion test, or the reason why there are none."""
    if isinstance(explainer, str):
        return {"reason": explainer}
    return {
        "layer": explainer.layer,
        "expressions": explainer.expressions(),
        "deletion_test": explainer.deletion_test(),
    }


def data_facts(data: ReportData, split: str) -> dict[str, Any]:
    """Counts by split and expression, the dataset cache's manifest, and duplicates in pictures."""
    dataset, facts = data.dataset, dict(data.dataset.facts)
    counts = {name: dataset.counts(indices).tolist() for name, indices in dataset.indices.items()}
    return {
        "source": dataset.source,
        "fingerprint": dataset.fingerprint,
        "classes": list(dataset.classes),
        "counts": counts,
        "facts": facts,
        "size": f"{dataset.side_px} x {dataset.side_px} px, {'gray' if dataset.channels == 1 else 'RGB'}",
        "duplicates": [] if dataset.cache is None else duplicate_groups(dataset.cache, split),
        "votes": data.votes,
    }


def network_facts(data: ReportData) -> list[tuple[str, str]]:
    """The network in a few rows."""
    network = data.network
    trained_on = network.checkpoint.get("data", {})
    return [
        ("network", _network_name(network)),
        ("parameters", f"{parameter_count(network.model):,}"),
        (
            "input",
            f"{network.preprocessing.image_px} px, {network.preprocessing.channels} channel(s)",
        ),
        ("weights", "running average (EMA)" if network.checkpoint.get("ema") else "as trained"),
        ("views averaged here", str(data.result["tta"])),
        (
            "temperature",
            f"{network.temperature:.3f}" if network.calibrated else "1 (not calibrated)",
        ),
        ("trained on", str(trained_on.get("source", "?"))),
    ]


def _network_name(network: LoadedModel) -> str:
    names = [str(member.config.model) for member in network.networks]
    return names[0] if len(names) == 1 else f"ensemble of {', '.join(names)}"


def environment_rows(
    checkpoint: Mapping[str, Any], summary: Mapping[str, Any], *, device: str
) -> list[tuple[str, str, str]]:
    """What the run and this page were made with: (what, run, page)."""
    here, there = versions(), summary.get("versions") or checkpoint.get("versions") or {}
    rows = [
        (name, str(there.get(name, "?")), str(here.get(name, "-")))
        for name in dict.fromkeys([*there, *here])
    ]
    rows += [
        ("device", str(summary.get("device", "?")), device),
        ("precision", str(summary.get("precision", "?")), "-"),
        ("processes", str(summary.get("world_size", checkpoint.get("world_size", "?"))), "1"),
        ("seed", str(summary.get("seed", checkpoint["config"].get("seed", "?"))), "-"),
        ("seconds of training", f"{summary['seconds']:,.0f}" if "seconds" in summary else "?", "-"),
        (
            "images per second",
            f"{summary['images_per_second']:,.0f}" if "images_per_second" in summary else "?",
            "-",
        ),
        ("weights SHA-256", str(summary.get("weights_sha256", "?")), "-"),
        ("finished", str(summary.get("finished", "?")), time.strftime("%Y-%m-%dT%H:%M:%S%z")),
        ("system", "-", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"),
    ]
    return rows
