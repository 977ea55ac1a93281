"""End of a run: the best network scored on val, then once on test, and summary.json."""

import copy
import hashlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from fer_ignite.checkpoint.atomic_io import write_durably
from fer_ignite.checkpoint.format import load_checkpoint, state_digest, write_checkpoint
from fer_ignite.checkpoint.paths import BEST_NAME, LAST_NAME
from fer_ignite.data.dataset import FaceDataset
from fer_ignite.data.loader import EvalLoader
from fer_ignite.distributed.collectives import broadcast_tensors, cpu_group
from fer_ignite.errors import NONFINITE_REMEDY, CheckpointError, NonFiniteError, one_line
from fer_ignite.inference.predictions import prediction_rows, write_predictions_csv
from fer_ignite.inference.robustness import common_temperature, score_conditions
from fer_ignite.inference.scoring import ScoredSplit, score_report, score_split
from fer_ignite.metrics.calibration import fit_temperature
from fer_ignite.training.coordination import STATUS, StopReason
from fer_ignite.training.loggers import warn_on_plot_errors
from fer_ignite.training.monitor import lower_is_better
from fer_ignite.training.plots import draw_confusion
from fer_ignite.training.session import Session, versions

__all__ = ["THRESHOLDS", "best_network", "finish"]

logger = logging.getLogger("fer_ignite")

_CALIBRATION_FACES = 1000

# Accuracies on val whose first passing every run records: 58.3 % of docs/accuracy.md and round numbers around it.
THRESHOLDS = (0.50, 0.55, 0.583, 0.60, 0.65, 0.70)


def finish(session: Session, reason: StopReason) -> dict[str, Any]:
    """Scores and summarises; writes ``summary.json`` and the test-access log on the main process.

    The test split is scored only when the run is over: one that a signal or a time limit has cut will continue. With
    ``score_test`` off it is never scored.
    """
    status = STATUS[reason]
    if status == "completed":
        session.require_taken_step()
    summary = _facts(session, status)
    if status in ("completed", "early_stopped"):
        model, path = best_network(session)
        temperature: float | None = None
        # val first: the temperature is fitted on it, and test is divided by the same one.
        for split in ("val", "test"):
            if len(session.dataset.indices[split]) and (
                split != "test" or session.config.score_test
            ):
                scored = _scored(session, model, split=split, tta=session.config.tta)
                if split == "val":
                    temperature = _fitted_temperature(session, model, scored=scored)
                summary[split] = _report(
                    session, model, split=split, scored=scored, temperature=temperature
                )
                if session.config.predictions and session.rank == 0:
                    _write_predictions(session, split, scored=scored, temperature=temperature)
        if path is not None:
            _store_temperature(path, temperature)
        # Before summary.json: a run killed in between scores test again, and both times count.
        if "test" in summary:
            _log_test_access(session, summary["test"])
    if session.rank == 0:
        # Before the trackers: summary.json is among the files that they send.
        session.folder.write_summary(summary)
        if session.trackers is not None:
            session.trackers.finish(summary)
    return summary


def _fitted_temperature(session: Session, model: nn.Module, *, scored: ScoredSplit) -> float | None:
    """The temperature of val's outputs; with ``calibrate`` robust, of val under all corruptions, on at most 1,000 of its faces."""
    if session.config.calibrate == "val":
        return fit_temperature(scored.logits_NK, scored.labels_N)
    loader = build_split_loader(session.dataset, "val", like=session.val_loader)
    # Evenly spaced over the split; each condition scores all of them.
    step = -(-len(loader.indices_N) // _CALIBRATION_FACES)
    fewer = replace(loader, indices_N=loader.indices_N[::step])

    def score(part: EvalLoader, name: str) -> ScoredSplit:
        return _score_loader(session, model, loader=part, name=name, tta=session.config.tta)

    return common_temperature(score_conditions(score, fewer))


def _write_predictions(
    session: Session, split: str, *, scored: ScoredSplit, temperature: float | None
) -> None:
    dataset, places = session.dataset, scored.indices_N.tolist()
    columns = {
        "ids": [dataset.image_id(place) for place in places],
        "splits": [split] * len(places),
        "labels": scored.labels_N.tolist(),
        "logits": scored.logits_NK.tolist(),
    }
    rows = prediction_rows(columns, dataset.classes, temperature=temperature or 1.0)
    write_predictions_csv(session.folder.predictions(split), dataset.classes, rows=rows)


def _store_temperature(path: Path, temperature: float | None) -> None:
    """Writes the temperature into a checkpoint; None removes one that an earlier end of the run has written."""
    content = load_checkpoint(path)
    # An unchanged file is not written again: its digest stays.
    if content.pop("temperature", None) != temperature:
        added = {} if temperature is None else {"temperature": temperature}
        write_durably(path, lambda file: write_checkpoint({**content, **added}, file))


def _facts(session: Session, status: str) -> dict[str, Any]:
    state, best = session.trainer.state, session.best_checkpoint.best
    history = list(session.folder.read_history()) if session.rank == 0 else []
    return {
        "status": status,
        # Completed ones: Ignite's state.epoch counts an epoch that was cut short as well.
        "epochs": state.iteration // len(session.train_loader),
        "iterations": state.iteration,
        "optimizer_steps": state.optimizer_steps,
        "skipped_steps": int(state.skipped_steps),
        "seconds": round(session.elapsed_s, 2),
        "images_per_second": _mean(
            [line["images_per_second"] for line in history if "images_per_second" in line]
        ),
        "best": {
            "metric": session.config.monitor,
            "value": _natural(best["value"], session),
            "epoch": best["epoch"],
        },
        "time_to_accuracy": time_to_accuracy(history),
        "weights_sha256": weights_digest(session),
        "seed": session.config.seed,
        "world_size": session.world,
        "precision": session.precision,
        "device": str(session.device),
        "versions": versions(),
        "data": {
            "source": session.dataset.source,
            "fingerprint": session.dataset.fingerprint,
            "counts": {split: len(indices) for split, indices in session.dataset.indices.items()},
            "trained_on": len(session.train_loader.plan.indices_N),
        },
        "tta": session.config.tta,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _natural(score: float | None, session: Session) -> float | None:
    falls = lower_is_better(session.config.monitor, session.config.monitor_mode)
    # Checkpoints keep the highest score, so one where lower is better is negated.
    return -score if falls and score is not None else score


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 1) if values else 0.0


def time_to_accuracy(history: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Per threshold: epoch and seconds (training and validation, from the start) at which val first passed it."""
    passed: dict[str, dict[str, float]] = {}
    for threshold in THRESHOLDS:
        first = next((line for line in history if line.get("val_accuracy", 0.0) >= threshold), None)
        if first is not None:
            passed[f"{100 * threshold:g}"] = {
                "epoch": first["epoch"],
                "seconds": first["elapsed_seconds"],
            }
    return passed


def weights_digest(session: Session) -> str:
    """SHA-256 over the final network's and its average's tensors; equal weights have equal digests."""
    ema = session.averaged.state_dict() if session.averaged is not None else {}
    text = state_digest(session.model.state_dict()) + (state_digest(ema) if ema else "")
    return hashlib.sha256(text.encode()).hexdigest()


def best_network(session: Session) -> tuple[nn.Module, Path | None]:
    """A copy of the evaluated network with best.pt's weights, on every process; the last ones where there is no best.

    A run that continues from a checkpoint of another folder, and finds no better network, has no best.pt of its own.

    Returns:
        The network, and on the main process the file that its weights were read from, None where there is none.
    """
    # A copy: the session's network, which may be the caller's own, keeps its last weights.
    model, used = copy.deepcopy(session.evaluated), None
    path = session.best_checkpoint.last_checkpoint
    if path is None:
        if session.rank == 0:
            logger.warning(
                "there is no %s; the last network is scored, %s.",
                BEST_NAME,
                session.folder.checkpoints / LAST_NAME,
            )
        return model, None
    if session.rank == 0:
        best, problem = _best_weights(session, path)
        if problem is not None:
            logger.warning(
                "%s %s; the last network is scored, %s.", path, problem, path.with_name(LAST_NAME)
            )
        else:
            model, used = best, Path(path)
    broadcast_tensors(model.state_dict().values())  # the other processes may not see this disk
    return model, used


def _best_weights(session: Session, path: Path) -> tuple[nn.Module, str | None]:
    """A copy of the evaluated network with a file's weights, and why that can't be used, if so."""
    # A copy: load_state_dict fills what fits before it raises for the rest.
    model = copy.deepcopy(session.evaluated)
    if not os.path.lexists(path):
        return model, "isn't here: the best epoch lies before the resume, in another folder"
    try:
        checkpoint = load_checkpoint(path)
        model.load_state_dict(checkpoint.get("ema") or checkpoint["model"])
    except (
        CheckpointError,
        RuntimeError,
    ) as error:  # RuntimeError: a checkpoint of another network
        return model, f"can't be used ({one_line(error)})"
    # After a resume from an earlier point best.pt may be of an epoch that is trained again.
    if (found := checkpoint["trainer"]["iteration"]) != session.best_checkpoint.best["iteration"]:
        return model, f"is of iteration {found}, which this run went back behind"
    return model, None


def _report(
    session: Session,
    model: nn.Module,
    *,
    split: str,
    scored: ScoredSplit,
    temperature: float | None,
) -> dict[str, Any]:
    config, classes = session.config, session.dataset.classes
    in_train_N = session.dataset.in_train(split, trained_N=session.train_loader.plan.indices_N)
    report = _totals(scored, classes, temperature=temperature, in_train_N=in_train_N)
    if config.tta != "none":
        single = _totals(
            _scored(session, model, split=split, tta="none"), classes, temperature=temperature
        )
        report["single_view"] = _without(("per_class",), single)
    if split == "test" and session.rank == 0 and config.plots:
        matrix = scored.metrics["confusion_matrix"].tolist()
        with warn_on_plot_errors("of test"):
            draw_confusion(
                matrix,
                classes,
                path=session.folder.plots / "confusion_matrix_test.png",
                title="test, best epoch",
            )
    return report


def _totals(scored: ScoredSplit, classes: Sequence[str], **options: Any) -> dict[str, Any]:
    return _without(("class_names", "confusion_matrix"), score_report(scored, classes, **options))


def _without(names: Sequence[str], report: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if name not in names}


def _scored(session: Session, model: nn.Module, *, split: str, tta: str) -> ScoredSplit:
    loader = build_split_loader(session.dataset, split, like=session.val_loader)
    return _score_loader(session, model, loader=loader, name=split, tta=tta)


def _score_loader(
    session: Session, model: nn.Module, *, loader: EvalLoader, name: str, tta: str
) -> ScoredSplit:
    scored = score_split(
        model,
        session.scoring_terms,
        loader=loader,
        num_classes=len(session.dataset.classes),
        device=session.device,
        precision=session.precision,
        tta=tta,
        group=cpu_group(),
        bar=None if session.config.quiet else name,
    )
    if not scored.finite:
        iteration = session.trainer.state.iteration
        raise NonFiniteError(
            f"the outputs on {name} are not finite at the end of the run (iteration {iteration}). {NONFINITE_REMEDY}"
        )
    return scored


def build_split_loader(dataset: FaceDataset, split: str, *, like: EvalLoader) -> EvalLoader:
    """The loader of another split, with the preprocessing and the ranks of ``like``."""
    return replace(like, indices_N=dataset.indices[split])


def _log_test_access(session: Session, test: Mapping[str, Any]) -> None:
    if session.rank == 0:
        line = {
            "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "by": "train",
            "split": "test",
            **_without(("per_class",), test),
        }
        session.folder.log_test_access(line)
