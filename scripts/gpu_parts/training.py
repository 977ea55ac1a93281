"""Whole trainings on the GPU: the time of `quick` to given accuracies on val, and the GPU recipe to its end."""

import json
from collections.abc import Iterator
from pathlib import Path

from common import Check, Row, as_flags, judged, postponed, run_command

QUICK, GPU_RECIPE = "quick", "gpu-draft"
THRESHOLDS = (0.583, 0.68)  # on val: the tutorial project's figure, and what quick reaches
RECORD = 0.7414  # on PrivateTest: RMN, the best published with ImageNet weights


def quick(check: Check) -> Iterator[Row]:
    """The default recipe; test stays unseen."""
    yield from _train(check, QUICK, ["--no-score-test"])


def gpu_recipe(check: Check) -> Iterator[Row]:
    """The GPU recipe in the time that is left; a second check continues it. Test is scored once, at its end."""
    left_s = check.left_s()
    if left_s < 30 and not check.tiny:
        yield postponed(f"recipe {GPU_RECIPE}")
        return
    limit = [] if check.tiny else ["--max-time", f"{max(20, left_s - 15):.0f}s"]
    yield from _train(check, GPU_RECIPE, ["--resume", "auto", *limit])


def _train(check: Check, recipe: str, more: list[str]) -> Iterator[Row]:
    name = f"gpu-check-{recipe}"
    own = {"data": check.data, "device": check.device.type, "out": str(check.work), "name": name}
    if check.tiny:
        own |= {
            "epochs": 1,
            "model_args": {"widths": [8, 8], "blocks": [0, 0]},
            "batch_size": 64,
            "plots": False,
        }
    if "--resume" not in more:
        more = [*more, "--exist-ok"]
    ended = run_command("train", "--recipe", recipe, *as_flags(own), *more)
    folder = check.work / name
    if ended.returncode or not (folder / "summary.json").exists():
        yield Row(f"recipe {recipe}", "fails", ended.stderr.strip()[-300:])
        return
    summary = json.loads((folder / "summary.json").read_text())
    epochs = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    for threshold in THRESHOLDS:
        first = next((e for e in epochs if e["val_accuracy"] >= threshold), None)
        best = max(e["val_accuracy"] for e in epochs)
        label = f"recipe {recipe}: seconds to {100 * threshold:g} % on val"
        if not check.real:
            yield Row(label, "skipped", "needs FER2013: set FER2013_CSV")
        elif first is None:
            yield Row(label, "fails", f"best {100 * best:.2f} %")
        else:
            yield Row(label, "ok", f"{first['elapsed_seconds']:.1f} s, epoch {first['epoch']}")
    cut = summary["status"] == "time_limit"
    yield Row(f"recipe {recipe}: {summary['status']}", "ok", _figures(summary, folder), cut)
    if recipe == GPU_RECIPE and check.real and "test" in summary:
        accuracy = summary["test"]["accuracy"]
        yield judged(
            f"recipe {recipe}: PrivateTest, one look", accuracy > RECORD, f"{100 * accuracy:.2f} %"
        )


def _figures(summary: dict, folder: Path) -> str:
    epochs = sum(1 for _ in (folder / "history.jsonl").open())
    val = f", val {100 * summary['val']['accuracy']:.2f} %" if "val" in summary else ""
    return f"{epochs} epochs in {summary['seconds']:.1f} s{val}"
