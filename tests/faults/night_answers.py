"""Row C8, night form: how far one process and two drift apart, by network and by what it does with its slice."""

import json
from collections.abc import Iterator
from typing import Any

import support
from bench import Bench, Row, progress

__all__ = ["one_and_two_processes"]

# Nothing that turns a rounding into a choice: no maximum, no division by small second moments.
SMOOTH = {
    "model_args": {"widths": [8], "blocks": [0], "activation": "gelu", "pooling": "avg"},
    "opt": "sgd",
    "lr": 0.05,
    "momentum": 0.9,
}
NETWORKS: dict[str, dict[str, Any]] = {"smooth, SGD": SMOOTH, "max-pooling, Adam": {}}
WHAT: dict[str, dict[str, Any]] = {
    "group norm": {},
    "batch norm": {"norm": "batch"},
    "dropout 0.3": {"dropout": 0.3},
}


def one_and_two_processes(bench: Bench, trials: int) -> Iterator[Row]:
    """C8, and C1 beside it: 203 steps, the same global batches, augmentation on."""
    for network, settings in NETWORKS.items():
        for what, changed in WHAT.items():
            progress(f"C8 {network}, {what}")
            (losses, accuracies), (losses_2, accuracies_2) = (
                _run(bench, nproc, options={**settings, **changed}) for nproc in (1, 2)
            )
            apart = [
                support.greatest_difference(*_first(losses, losses_2, steps))
                for steps in (14, 56, 203)
            ]
            faces = (
                max(abs(a - b) for a, b in zip(accuracies, accuracies_2, strict=True)) * support.VAL
            )
            promised = (
                "<= 1e-5"
                if (network, what) == ("smooth, SGD", "group norm")
                else "measured, not promised"
            )
            result = (
                "loss "
                + ", ".join(f"{value:.0e}" for value in apart)
                + f" in 14, 56, 203 steps; val {faces:.0f} faces of {support.VAL}"
            )
            yield f"C8 one process or two: {network}, {what}", promised, result


def _run(
    bench: Bench, nproc: int, changed: dict[str, Any]
) -> tuple[dict[int, tuple[float, float]], list[float]]:
    given = {
        "epochs": 29,
        "save_iterations": None,
        "save_epochs": 100,
        "tensorboard": False,
        **changed,
    }
    settings, place = bench.settings(nproc, handlers="handlers:note_losses", **given)
    assert bench.server.run(settings, place / "log", limit_s=1200, FER_TEST_FOLDER=str(place)) == 0
    return support.build_loss_from_config(place), [
        json.loads(line)["val_accuracy"] for line in support.history(place / "run")
    ]


def _first(
    one: dict[int, Any], other: dict[int, Any], steps: int
) -> tuple[dict[int, Any], dict[int, Any]]:
    return {k: one[k] for k in one if k <= steps}, {k: other[k] for k in other if k <= steps}
