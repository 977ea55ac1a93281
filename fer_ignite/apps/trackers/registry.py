"""Trackers by name, and their checks before a run starts: packages, keys, reachable servers."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from fer_ignite.apps.trackers.run_ids import RunIds
from fer_ignite.apps.trackers.tracker import Tracker

__all__ = ["check_trackers", "tracker_class"]

_CLASSES = {
    "mlflow": ("fer_ignite.apps.trackers.mlflow_tracker", "MLflowTracker"),
    "wandb": ("fer_ignite.apps.trackers.wandb_tracker", "WandbTracker"),
    "clearml": ("fer_ignite.apps.trackers.clearml_tracker", "ClearmlTracker"),
}


def tracker_class(name: str) -> type[Tracker]:
    """The class of the tracker that ``--track`` calls ``name``; its package is not imported yet."""
    module, attribute = _CLASSES[name]
    found: type[Tracker] = getattr(importlib.import_module(module), attribute)
    return found


def check_trackers(names: Sequence[str], register: Path | None) -> None:
    """Fails early, within seconds, where a tracker can't be used.

    Args:
        register: trackers.json of the run that continues, which need not exist; None for a new run.
    Raises:
        ConfigError: the package, the key or the server is missing; one sentence with the remedy.
    """
    known = None if register is None else RunIds(register)
    for name in names:
        tracker_class(name).check({} if known is None else known.entry(name))
