"""Results of a search: best.yaml, a table of trials, parameter importance."""

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fer_ignite.apps.tune.study import STORAGE, require_optuna
from fer_ignite.checkpoint.atomic_io import write_durably, write_text_durably

__all__ = ["draw_importance", "study_result", "write_results"]

# How and where the trials were run, which is not part of a later run's settings.
_OF_ONE_START = frozenset(
    {
        "quiet",
        "verbose",
        "summary",
        "max_time",
        "nproc",
        "nnodes",
        "node_rank",
        "master_addr",
        "master_port",
        "device",
        "gpus",
        "threads",
        "start_method",
        "dist_timeout",
        "plots",
        "tensorboard",
        "profile",
        "save_epochs",
        "save_minutes",
        "save_iterations",
        "keep_checkpoints",
    }
)
BEST, TRIALS, PICTURE = "best.yaml", "trials.csv", "importance.png"


def write_results(
    study: Any, folder: Path, *, given: Mapping[str, Any], importance: bool = False
) -> None:
    """Writes trials.csv, best.yaml once a trial is complete, and with ``importance`` the picture where it can be determined."""
    trials = study.get_trials(deepcopy=False)
    write_text_durably(folder / TRIALS, _table(trials))
    best = _best(study)
    if best is not None:
        write_text_durably(folder / BEST, _as_settings(best, trials, folder=folder, given=given))
    if importance and (shares := parameter_importance(study)):
        draw_importance(shares, folder / PICTURE)


def study_result(study: Any, folder: Path) -> dict[str, Any]:
    """The search so far, as plain values.

    Returns:
        ``folder, trials`` {complete, pruned, failed, running, waiting: counts}, ``best`` {trial, value, epoch, settings,
        folder} or None, ``importance`` {setting: share} (empty where too few trials are complete), ``files``.
    """
    trials, best = study.get_trials(deepcopy=False), _best(study)
    names = {
        "COMPLETE": "complete",
        "PRUNED": "pruned",
        "FAIL": "failed",
        "RUNNING": "running",
        "WAITING": "waiting",
    }
    states = [trial.state.name for trial in trials if "again" not in trial.user_attrs]
    return {
        "folder": str(folder),
        "trials": {name: states.count(state) for state, name in names.items()},
        "best": None
        if best is None
        else {
            "trial": best.number,
            "value": best.value,
            "epoch": best.user_attrs.get("best_epoch"),
            "settings": best.user_attrs["settings"],
            "folder": str(folder / best.user_attrs["folder"]),
        },
        "importance": parameter_importance(study),
        "files": [
            str(folder / name)
            for name in (BEST, TRIALS, PICTURE, STORAGE)
            if (folder / name).exists()
        ],
    }


def parameter_importance(study: Any) -> dict[str, float]:
    """Share of each setting in what made the complete trials differ, the largest first; empty where there are too few.

    Source: PED-ANOVA (Watanabe et al., 2023): which settings the best tenth of the trials agree in.
    """
    optuna = require_optuna()
    complete = [
        trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"
    ]
    if len(complete) < 4 or len({trial.value for trial in complete}) < 2:
        return {}
    try:
        # Optuna's default, fANOVA, needs scikit-learn, which the extra does not install.
        shares = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )
    except (ValueError, RuntimeError):
        return {}
    return {name: float(share) for name, share in shares.items()}


def draw_importance(shares: Mapping[str, float], path: Path) -> None:
    """A bar per setting, the most important on top."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 1 + 0.4 * len(shares)), layout="constrained")
    axes = figure.subplots()
    names = list(shares)[::-1]
    bars = axes.barh(names, [shares[name] for name in names], color="#1f6fb2")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(xlabel="share of importance", xlim=(0, 1.12 * max(*shares.values(), 1e-9)))
    axes.spines[["top", "right"]].set_visible(False)
    write_durably(path, lambda file: figure.savefig(file, format="png", dpi=110))


def _best(study: Any) -> Any:
    try:
        return study.best_trial
    except ValueError:  # no trial is complete
        return None


def _as_settings(
    best: Any, trials: Sequence[Any], *, folder: Path, given: Mapping[str, Any]
) -> str:
    fixed = {name: value for name, value in given.items() if name not in _OF_ONE_START}
    settings = {**fixed, **best.user_attrs["settings"]}
    # Only trials that were judged: failed, waiting and cut ones had no chance to be the best.
    judged = sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in trials)
    head = (
        f"# Best of {judged} trials: {best.value:.4f} on val at epoch {best.user_attrs.get('best_epoch')}, chosen for being the "
        f"best, so a little too good.\n#   fer-ignite train --config {shlex.quote(str(folder / BEST))}\n"
    )
    if settings.get("max_train_samples") is not None:
        head += (
            "# The trials trained on max_train_samples images; remove that line to train on all.\n"
        )
    return head + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def _table(trials: list[Any]) -> str:
    names = list(
        dict.fromkeys(name for trial in trials for name in trial.user_attrs.get("settings", {}))
    )
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["trial", "state", "value", "best_epoch", "stopped_at", "seconds", "folder", *names]
    )
    for trial in trials:
        attributes, duration = trial.user_attrs, trial.duration
        settings = attributes.get("settings", {})
        table.writerow(
            [
                trial.number,
                "again" if "again" in attributes else trial.state.name.lower(),
                trial.value if trial.state.name == "COMPLETE" else None,
                attributes.get("best_epoch"),
                attributes.get("pruned_at"),
                None if duration is None else round(duration.total_seconds(), 1),
                attributes.get("folder"),
                *(settings.get(name) for name in names),
            ]
        )
    return text.getvalue()
