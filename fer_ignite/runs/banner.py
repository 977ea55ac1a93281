"""Lines printed at the start and at the end of a run."""

import logging
import shlex
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer_ignite.checkpoint.paths import step_files
from fer_ignite.config import Config
from fer_ignite.data.augment.tta import views_text
from fer_ignite.data.dataset import FaceDataset
from fer_ignite.data.expressions import other_spellings
from fer_ignite.data.readers.find import is_drawn
from fer_ignite.distributed import Outcome
from fer_ignite.distributed.machine import describe_device
from fer_ignite.distributed.signals import SIGNAL_CODES
from fer_ignite.metrics.classification import SCORES
from fer_ignite.models.summary import describe_groups, describe_layers, flops, parameter_count
from fer_ignite.runs.prepare import RunSpec
from fer_ignite.runs.resume import LAUNCH_SETTINGS, USER_CODE, is_user_code
from fer_ignite.stores.store import parent_url
from fer_ignite.terminal import flag_words, program_name
from fer_ignite.training.session import Session

__all__ = [
    "log_notes",
    "log_run_header",
    "log_run_result",
    "result_lines",
    "warn_of_finished_tensors",
    "with_continuation",
]

logger = logging.getLogger("fer_ignite")

_FINISHED_TENSORS = (
    "the data set gives float tensors, which are used as they are: augmentation (except mixup and cutmix), --resize and "
    "--normalize have no effect, and predict, serve, demo and export refuse the network, as no file says how the tensors are made; "
    "give PIL images or uint8 pixels (without ToTensor and Normalize) to have all of these."
)


def log_run_header(session: Session, run_spec: RunSpec) -> None:
    """Machine, data, network, steps, folder, and what was changed on resume."""
    config, plan = session.config, session.train_loader.plan
    most = min(config.batch_size, len(plan.indices_N))
    state = session.trainer.state
    lines = [
        f"machine     {describe_device(session.device)}",
        *_data_lines(session),
        *_model_lines(session),
        f"steps       {config.epochs} epochs x {plan.steps_per_epoch} optimizer steps of at most {most} images"
        + (f" in {config.grad_accum_steps} micro-batches" if config.grad_accum_steps > 1 else ""),
        f"runs on     {session.device}, {session.precision}, {session.world} process(es) x {torch.get_num_threads()} thread(s)",
        f"writes to   {session.folder.path}",
    ]
    if run_spec.resume is not None:
        lines.append(
            f"continues   {run_spec.resume} at iteration {state.iteration}, epoch {state.iteration // len(session.train_loader) + 1}"
        )
        if session.resumed is not None and session.resumed["world_size"] != session.world:
            lines.append(
                f"changed on resume: processes {session.resumed['world_size']} -> {session.world}"
            )
    for line in lines:
        logger.info(line)
    for line in describe_groups(session.optimizer).splitlines():
        logger.info("  group     %s", line, extra={"file_only": not config.verbose})
    log_notes(run_spec)
    warn_of_finished_tensors(session)


def log_notes(run_spec: RunSpec) -> None:
    """What the preparation had to say: notes, and warnings, which are shown under ``quiet`` too."""
    for line in run_spec.notes:
        logger.info(line)
    for line in run_spec.warnings:
        logger.warning(line)


def warn_of_finished_tensors(session: Session) -> None:
    """One warning where a user's data set gives float tensors: what then has no effect."""
    if session.dataset.finished:
        logger.warning(_FINISHED_TENSORS)


def _model_lines(session: Session) -> list[str]:
    config, side = session.config, session.preprocessing.image_px
    shape = (1, session.preprocessing.channels, side, side)
    cost = flops(session.model, shape)
    lines = [
        f"model       {config.model}, {parameter_count(session.model):,} parameters, {cost / 1e6:.1f} MFLOPs per {side}x{side} image"
    ]
    if config.summary:
        layers = describe_layers(session.model, shape).splitlines()
        lines += [f"  layer     {line}" for line in layers]
    return lines


def _data_lines(session: Session) -> list[str]:
    """The source, the faces of each split, and of each class in it."""
    dataset, trained_N = session.dataset, session.train_loader.plan.indices_N
    counts = {split: f"{len(indices):,}" for split, indices in dataset.indices.items()}
    # --max-train-samples, --drop-train-duplicates, --exclude
    if len(trained_N) < len(dataset.indices["train"]):
        counts["train"] = f"{len(trained_N):,} of {counts['train']}"
    totals = ", ".join(f"{split} {count}" for split, count in counts.items())
    spellings = other_spellings(dataset.classes)
    names = ", ".join(dataset.classes)
    lines = [
        f"data        {dataset.source}{_recognised(dataset)}: {totals}; {len(dataset.classes)} classes: {names}"
    ]
    if len(dataset.classes) <= _MOST_COLUMNS:
        widths = [max(6, len(name)) for name in dataset.classes]
        rows = {"  class": list(dataset.classes)}
        for split, indices in {**dataset.indices, "train": trained_N}.items():
            if len(indices):
                counts_K = np.bincount(
                    dataset.targets.labels_N[indices], minlength=len(dataset.classes)
                )
                rows[f"  {split}"] = [f"{count:,}" for count in counts_K.tolist()]
        for title, cells in rows.items():
            text = " ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
            lines.append(f"{title:<12}{text}")
    return [*lines, *([f"expressions {spellings}"] if spellings else []), *_left_out(dataset)]


_MOST_COLUMNS = 10  # classes that fit a terminal beside each other


# Kinds of sources that the name of the data shows already; a recognised data set is printed.
_PLAIN_SOURCES = ("demo", "folders", "csv manifest", "fer2013 csv", "pack")


def _recognised(dataset: FaceDataset) -> str:
    kind = dataset.facts.get("source_kind")
    return "" if kind is None or kind in _PLAIN_SOURCES else f" ({kind})"


def _left_out(dataset: FaceDataset) -> list[str]:
    """How many images are not in the data, and why."""
    reasons = [f"{count} ({reason})" for reason, count in dataset.facts.get("left_out", {}).items()]
    if skipped := dataset.facts.get("skipped", ()):
        reasons.append(f"{len(skipped)} (unusable, such as {skipped[0]})")
    return [f"left out    {', '.join(reasons)}"] if reasons else []


def log_run_result(session: Session, summary: Mapping[str, Any], *, run_spec: RunSpec) -> None:
    """The outcome, the scores, files to open and commands to run next; on the main process."""
    if session.rank != 0:
        return
    path = session.folder.path
    lines = result_lines(summary)
    if summary["status"] in ("time_limit", "interrupted"):
        lines.append(f"continue    {_continue(session, run_spec)}")
    else:
        lines += [f"look at     {file}" for file in _to_look_at(path)]
        if (
            (path / "checkpoints" / "best.pt").is_file()
            and "val" in summary
            # A Python object has no name that a command line could give.
            and not run_spec.objects
        ):
            lines.append(f"next        {_evaluate(session)}")
        if is_drawn(session.config.data):
            lines.append(
                "note        these faces are drawn; the scores say nothing about real ones (give --data a data set)"
            )
    for line in lines:
        logger.info(line)


def with_continuation(outcome: Outcome, config: Config) -> Outcome:
    """The outcome of a run that a signal has stopped with a message that says where, and how to continue from Python."""
    if outcome.status != "interrupted" or outcome.exit_code not in SIGNAL_CODES:
        return outcome
    by = f"interrupted by {signal.Signals(outcome.exit_code - 128).name}"
    if outcome.result is None:
        text = f"the run was {by} before it could save; train it again, or continue an earlier resume point with resume='auto'."
        return replace(outcome, message=text)
    path, iterations = Path(outcome.result["folder"]), outcome.result["iterations"]
    remedy = (
        f"{_python_call(path.name, config.out, config)} with the same objects and handlers continues it"
        if step_files(path / "checkpoints")
        else "it has no resume point yet; start it again with exist_ok=True"
    )
    return replace(
        outcome, message=f"the run in {path} was {by} at iteration {iterations}; {remedy}."
    )


def result_lines(summary: Mapping[str, Any]) -> list[str]:
    """How a run ended and its scores: shares in per cent, with split, number of faces and views of each.

    Args:
        summary: what ``summary.json`` holds.
    """
    lines = [
        f"{summary['status'].replace('_', ' ')} after {summary['epochs']} epochs, {summary['seconds']:.0f} s"
    ]
    best = summary["best"]
    if best["value"] is not None:
        # Validation during training looks at one view of each face.
        lines.append(
            f"best        {_score(best['metric'], best['value'])} on val with 1 view, epoch {best['epoch']}"
        )
    for split in ("val", "test"):
        if split in summary:
            scored = summary[split]
            scores = ", ".join(
                _score(name, scored[name]) for name in ("accuracy", "uar", "macro_f1")
            )
            lines.append(
                f"{split:<11} {scores} on {scored['n']:,} faces with {views_text(scored['tta'])}"
            )
    return lines


_TITLES = {"uar": "UAR", "macro_f1": "macro F1", "weighted_f1": "weighted F1"}


def _score(name: str, value: float) -> str:
    title = _TITLES.get(name, name)
    return f"{title} {100 * value:.2f} %" if name in SCORES else f"{title} {value:.4f}"


def _to_look_at(path: Path) -> list[Path]:
    files = (path / "plots" / "curves.png", path / "results.csv")
    return [file for file in files if file.is_file()][:1]


def _evaluate(session: Session) -> str:
    words = [program_name(), "evaluate", str(session.folder.path / "checkpoints" / "best.pt")]
    for name in ("data", "model", "collate_fn"):
        words += _user_code_flag(session, name)
    return shlex.join(words + _cache(session))


def _continue(session: Session, run_spec: RunSpec) -> str:
    config, path = session.config, session.folder.path
    if not step_files(path / "checkpoints"):
        return "not possible: the run ended before its first resume point; start it again with --exist-ok"
    out = str(path.parent) if run_spec.store is None else parent_url(run_spec.store)
    if run_spec.handlers or run_spec.objects:
        call = _python_call(path.name, out, config)
        return f"from Python, with the same handlers and objects: {call}"
    words = ["train", "--resume", "auto", "--name", path.name]
    if out != "runs":
        words += ["--out", out]
    for name, value in _launch_settings(config).items():
        words += flag_words(name, value)
    for name in USER_CODE:
        words += _user_code_flag(session, name)
    for name in config.handlers:
        words += ["--handlers", name]
    words += _cache(session)
    # Processes of torchrun or srun: the command of this program alone would continue with one.
    if session.world > 1 and not config.starts_processes:
        return f"under the same launcher, with as many processes: -m fer_ignite {shlex.join(words)}"
    return shlex.join([program_name(), *words])


def _python_call(name: str, out: str, config: Config) -> str:
    """The call that continues the run of this name."""
    place = {"name": name, "out": out, "resume": "auto", **_launch_settings(config)}
    return f"train(Config({', '.join(f'{key}={value!r}' for key, value in place.items())}), ...)"


def _launch_settings(config: Config) -> dict[str, Any]:
    """How the processes were started, where it isn't the default: no checkpoint brings it back."""
    values = config.model_dump(include=set(LAUNCH_SETTINGS), exclude_defaults=True)
    # As the flag takes it: 0,2.
    return {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in values.items()
    }


def _user_code_flag(session: Session, name: str) -> list[str]:
    """The flag of a setting that names a user's code: no checkpoint brings it back."""
    value = str(getattr(session.config, name) or "")
    return [f"--{name.replace('_', '-')}", value] if is_user_code(name, value) else []


def _cache(session: Session) -> list[str]:
    return [] if session.config.cache is None else ["--cache", session.config.cache]
