"""The default recipe, and the same without one of its ingredients at a time; test is never looked at."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fer_ignite import Config, train
from fer_ignite.errors import FerError

VARIANTS: dict[str, dict[str, Any]] = {
    "quick": {},
    "no augmentation": {"augment": False},
    "of the augmentation only the flip": {"rotate": 0, "scale": 0, "translate": 0},
    "no label smoothing": {"smoothing": 0},
    "SGD with Nesterov momentum (lr 0.1; weight decay 5e-4)": {
        "opt": "sgd",
        "lr": 0.1,
        "weight_decay": 5e-4,
    },
    "constant learning rate": {"sched": "constant"},
    "mean in place of the maximum over the last map": {"model_args": {"pooling": "avg"}},
    "half the widths": {"model_args": {"width_factor": 0.5}},
}


def measure(given: argparse.Namespace, chosen: Sequence[str]) -> list[dict[str, Any]]:
    """One run per variant; a finished one in the folder is not repeated."""
    rows = []
    for name in chosen:
        folder = "".join(mark if mark.isalnum() else "-" for mark in name)
        settings = {
            "data": given.data,
            "epochs": given.epochs,
            "seed": given.seed,
            "score_test": False,
            "plots": False,
        }
        placed = {
            "out": given.out,
            "name": folder,
            "resume": "auto",
            "tensorboard": False,
            "quiet": True,
        }
        rows.append(row_of(name, train(Config(**settings, **placed, **VARIANTS[name]))))
        print(line_of(rows[-1], rows[0]), file=sys.stderr)
    return rows


def row_of(name: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracies on val in per cent, and seconds."""
    val = summary["val"]
    figures = {"shift10": val["accuracy"], "one": val["single_view"]["accuracy"]}
    return {
        "name": name,
        **{view: round(100 * share, 2) for view, share in figures.items()},
        "seconds": summary["seconds"],
    }


def line_of(row: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """A row of the table; the difference is to the recipe itself, with one view."""
    return f"| {row['name']} | {row['one']:.2f} | {row['one'] - first['one']:+.2f} | {row['shift10']:.2f} | {row['seconds']:.0f} |"


def main() -> int:
    """Prints the table and writes the figures."""
    words = argparse.ArgumentParser(
        description="The default recipe without one ingredient at a time, judged on val."
    )
    words.add_argument("--data", required=True, help="e.g. fer2013.csv")
    words.add_argument("--epochs", type=int, default=16)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument(
        "--out",
        default="runs/ablation",
        help="folder of the runs; the same command continues in it",
    )
    words.add_argument("--only", default=",".join(VARIANTS), help="variants, separated by commas")
    words.add_argument("--json", help="write the figures there")
    given = words.parse_args()
    chosen = list(dict.fromkeys(["quick", *(name.strip() for name in given.only.split(","))]))
    unknown = [name for name in chosen if name not in VARIANTS]
    if unknown:
        words.error(f"there is no variant {unknown[0]!r}; choose from {'; '.join(VARIANTS)}")
    try:
        rows = measure(given, chosen)
    except FerError as error:
        print(f"ablation: {error}", file=sys.stderr)
        return error.exit_code
    print(
        "| settings | val, one view, % | difference | val, ten views, % | seconds |\n|---|---|---|---|---|"
    )
    print("\n".join(line_of(row, rows[0]) for row in rows))
    if given.json:
        Path(given.json).write_text(
            json.dumps({"epochs": given.epochs, "seed": given.seed, "rows": rows}, indent=1) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
