"""Result of a run as sentences."""

from collections.abc import Mapping
from typing import Any

__all__ = ["outcome_sentences", "percent"]

_ENDED = {
    "completed": "",
    "early_stopped": " (stopped early)",
    "time_limit": " (stopped by its time limit)",
    "interrupted": " (interrupted)",
    "failed": " (failed)",
}
_SPLITS = {"val": "validation", "test": "test", "train": "training"}


def percent(share: float) -> str:
    """A share as people read it; a dash for what was not measured."""
    return "-" if share != share else f"{100 * share:.1f} %"


def outcome_sentences(
    result: Mapping[str, Any], summary: Mapping[str, Any], *, network: str, test_evaluations: int
) -> list[str]:
    """Accuracy, training, best and worst class, and the evaluations of test.

    Args:
        result: see :func:`fer_ignite.evaluate`.
        summary: the run's, {} where it is not known.
        test_evaluations: how often test was scored with the run's networks.
    """
    low, high = result["accuracy_interval"]
    lead = f"{network} names the expression of {percent(result['accuracy'])} of {result['n']:,} {_SPLITS[result['split']]} faces"
    sentences = [f"{lead} (95 % interval {100 * low:.1f} to {100 * high:.1f})."]
    if result.get("warning"):
        sentences.append(f"Warning: {result['warning']}")
    if summary:
        trained, ended = summary["data"]["trained_on"], _ENDED.get(summary["status"], "")
        sentences.append(
            f"It was trained for {summary['epochs']} epochs on {trained:,} faces{ended}."
        )
    sentences += _strengths(result)
    test = summary.get("test")
    if test and result["split"] != "test":
        count = test_evaluations
        seen = f"; test has been scored {count} time{'s' if count != 1 else ''}" if count else ""
        sentences.append(
            f"At its end the run scored {percent(test['accuracy'])} on {test['n']:,} test faces{seen}."
        )
    elif "test_evaluations" in result:
        sentences.append(
            f"This is evaluation number {result['test_evaluations']} of test with this run's networks."
        )
    return sentences


def _strengths(result: Mapping[str, Any]) -> list[str]:
    recalls = {name: row["recall"] for name, row in result["per_class"].items() if row["support"]}
    if len(recalls) < 2:
        return []
    best, worst = max(recalls, key=recalls.__getitem__), min(recalls, key=recalls.__getitem__)
    sentences = [
        f"It recognises {best} best ({percent(recalls[best])}) and {worst} worst ({percent(recalls[worst])})."
    ]
    names, matrix = result["class_names"], result["confusion_matrix"]
    wrong = [(matrix[i][j], i, j) for i in range(len(names)) for j in range(len(names)) if i != j]
    count, i, j = max(wrong, key=lambda entry: entry[0])
    if count:
        sentences.append(
            f"Its most frequent mistake is to take {names[i]} for {names[j]} ({count} faces)."
        )
    return sentences
