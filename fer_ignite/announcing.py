"""What a run tells people at its start and at its end."""

import logging
from collections.abc import Mapping
from typing import Any

import torch

from fer_ignite.models.summary import describe_groups, flops, parameter_count
from fer_ignite.preparing import Job
from fer_ignite.training.session import Session

__all__ = ["say_what_was_done", "say_what_will_be_done"]

logger = logging.getLogger("fer_ignite")


def say_what_will_be_done(session: Session, job: Job) -> None:
    """Data, network, parameter groups, steps, device, folder, and what was changed on resume."""
    config, faces, plan = session.config, session.faces, session.train_stream.plan
    counts = ", ".join(f"{split} {len(indices)}" for split, indices in faces.indices.items())
    side = session.preparation.image_px
    cost = flops(session.model, (1, session.preparation.channels, side, side))
    state = session.trainer.state
    lines = [
        f"data        {faces.source}: {counts}; {len(faces.classes)} classes: {', '.join(faces.classes)}",
        f"model       {config.model}, {parameter_count(session.model):,} parameters, {cost / 1e6:.1f} MFLOPs per "
        f"{side}x{side} image",
        *(f"  group     {line}" for line in describe_groups(session.optimizer).splitlines()),
        f"steps       {config.epochs} epochs x {plan.windows_per_epoch} optimizer steps of {config.batch_size} images"
        + (f" in {config.grad_accum_steps} micro-batches" if config.grad_accum_steps > 1 else ""),
        f"runs on     {session.device}, {session.precision}, {session.world} process(es) x {torch.get_num_threads()} thread(s)",
        f"writes to   {session.folder.path}",
        *job.notes,
    ]
    if job.resume is not None:
        lines.append(f"continues   {job.resume} at iteration {state.iteration}, epoch {state.iteration // len(session.train_stream) + 1}")
        if session.resumed is not None and session.resumed["world_size"] != session.world:
            lines.append(f"changed on resume: processes {session.resumed['world_size']} -> {session.world}")
    for line in lines:
        logger.info(line)
    for line in job.warnings:
        logger.warning(line)


def say_what_was_done(session: Session, summary: Mapping[str, Any]) -> None:
    """The outcome, the scores, and what to look at or type next."""
    best = summary["best"]
    logger.info("%s after %d epochs, %.0f s", summary["status"].replace("_", " "), summary["epochs"], summary["seconds"])
    if best["value"] is not None:
        logger.info("best        %s %.4f on val, epoch %d", best["metric"], best["value"], best["epoch"])
    if "test" in summary:
        test = summary["test"]
        logger.info(
            "test        accuracy %.2f %%, UAR %.2f %%, macro F1 %.2f %%, %d faces",
            100 * test["accuracy"], 100 * test["uar"], 100 * test["macro_f1"], test["n"],
        )  # fmt: skip
    path = session.folder.path
    if summary["status"] in ("time_limit", "interrupted"):
        logger.info("continue    fer-ignite train --resume auto --name %s%s", path.name, _again(session))
        return
    logger.info("look at     %s", path / "plots" / "curves.png")
    logger.info("next        fer-ignite evaluate %s", path / "checkpoints" / "best.pt")
    if session.config.data.startswith("demo"):
        logger.info("            fer-ignite train --data fer2013.csv      (real faces)")


def _again(session: Session) -> str:
    config = session.config
    out = "" if config.out == "runs" else f" --out {config.out}"
    return out + "".join(f" --handlers {name}" for name in config.handlers)
