"""State of a session for checkpoints, and its restoration."""

import hashlib
import logging
from collections.abc import Mapping
from typing import Any

import torch

from fer_ignite.checkpoint import failpoints
from fer_ignite.checkpoint.handler import PlainState
from fer_ignite.errors import ConfigError, DataError
from fer_ignite.training.coordination import StopReason
from fer_ignite.training.early_stopping import has_patience_left
from fer_ignite.training.session import (
    Session,
    global_random_state,
    restore_global_random_state,
    versions,
)

__all__ = ["evaluation_state", "restore", "resume_state"]

logger = logging.getLogger("fer_ignite")

# Entries of a parameter group that are no settings: its parameters, and the rates, which belong to the schedule.
_NO_SETTINGS = ("params", "lr", "initial_lr")


def evaluation_state(session: Session) -> dict[str, Any]:
    """What ``evaluate`` and ``predict`` need: enough to score and to use the networks, nothing else."""
    preprocessing = session.preprocessing
    entries: dict[str, Any] = {
        "kind": PlainState("best"),
        "config": PlainState(session.config.model_dump(mode="json")),
        "classes": PlainState(list(session.dataset.classes)),
        "preprocessing": PlainState(
            {
                **vars(preprocessing),
                "mean": list(preprocessing.mean),
                "std": list(preprocessing.std),
            }
        ),
        # The bare network: DDP's wrapper would put `module.` before each name.
        "model": session.model,
        "data": PlainState(_data(session)),
        "trainer": session.trainer,
        "versions": PlainState(versions()),
        "world_size": PlainState(session.world),
    }
    if session.averaged is not None:
        entries["ema"] = session.averaged
    return entries


def resume_state(session: Session) -> dict[str, Any]:
    """Everything that a run needs to continue as if nothing had happened."""
    return {
        **evaluation_state(session),
        "kind": PlainState("step"),
        "ema": PlainState(None) if session.averaged is None else session.averaged,
        "optimizer": session.optimizer,
        "scheduler": session.scheduler,
        "scaler": session.scaler,
        "sums": session.running_metrics,
        "handlers": PlainState(
            lambda: {name: thing.state_dict() for name, thing in session.kept.items()}
        ),
        "rng": PlainState(global_random_state),
        "outcome": PlainState(lambda: session.coordinator.status),
        "elapsed": PlainState(lambda: session.elapsed_s),
        # The run may continue in another folder, which needs the lines up to here.
        "history": PlainState(lambda: session.folder.history_text() if session.rank == 0 else ""),
        # Every entry of the schema is there, None where this run has no such part.
        **{
            name: PlainState(None) if part is None else part
            for name, part in _optional_parts(session).items()
        },
    }


def _optional_parts(session: Session) -> dict[str, Any]:
    """Parts with state_dict that a session may or may not have, by their names in the checkpoint."""
    return {
        "plateau": session.plateau,
        "early_stopping": session.early_stopping,
        "best": session.best_checkpoint,
        "top": session.top_checkpoints,
    }


def _data(session: Session) -> dict[str, Any]:
    dataset = session.dataset
    return {
        "source": dataset.source,
        "fingerprint": dataset.fingerprint,
        "val_fingerprint": dataset.split_fingerprint("val"),
        "counts": {split: len(indices) for split, indices in dataset.indices.items()},
        **({} if dataset.cache is not None else {"labels_sha256": _labels_sha256(session)}),
    }


def _labels_sha256(session: Session) -> str:
    """Of a user's data set: its pixels may be random, so that its labels alone say whether it is the same."""
    return hashlib.sha256(session.dataset.targets.labels_N.tobytes()).hexdigest()


def _require_same_labels(session: Session, data: Mapping[str, Any]) -> None:
    # Data with a dataset cache was compared before the start; older checkpoints lack the entry.
    was = data.get("labels_sha256")
    if was in (None, _labels_sha256(session)) or session.dataset.cache is not None:
        return
    if "data" not in session.config.override:
        raise DataError(
            f"--resume: the labels of {session.dataset.source} are not what the run began with; give the same data set, or allow it "
            "with --override data."
        )


def restore(session: Session, checkpoint: Mapping[str, Any], *, best_lost: bool = False) -> None:
    """Puts a session where the checkpoint's run stood; to be called after wiring and before ``run``.

    Args:
        checkpoint: a resume point's content; see ``require_resumable``.
        best_lost: the best checkpoint can't be used: its score is forgotten, so that the next epoch writes another.
    Raises:
        ConfigError: an epoch has another number of iterations now.
        DataError: a user's data set has other labels now.
    """
    # Ignite checks it only when run() starts, after files and states were touched, and names no
    # setting.
    length, was = len(session.train_loader), int(checkpoint["trainer"]["epoch_length"])
    if length != was:
        raise ConfigError(
            f"--resume: an epoch of this run has {was} iterations, and {length} with these settings (batch_size, grad_accum_steps, "
            "max_train_samples, drop_last, exclude and the data count), so there is no place to continue from; leave them as they were, or "
            "begin a new run with --init-from best.pt."
        )
    _require_same_labels(session, checkpoint["data"])
    session.resumed = checkpoint
    session.model.load_state_dict(checkpoint["model"])
    if session.averaged is not None:  # where it is new, it starts at the weights
        session.averaged.load_state_dict(checkpoint["ema"] or checkpoint["model"])
    failpoints.reach(
        "during-resume", rank=session.rank, iteration=int(checkpoint["trainer"]["iteration"])
    )
    # The groups' base rates come from the configuration; the schedule sets the current ones at the next step.
    _restore_optimizer(session, checkpoint)
    session.scheduler.load_state_dict(checkpoint["scheduler"])
    _restore_scaler(session, checkpoint["scaler"])
    _restore_decisions(session, {**checkpoint, "best": None} if best_lost else checkpoint)
    _restore_trainer(session, checkpoint["trainer"])
    session.running_metrics.load_state_dict(checkpoint["sums"])
    # Users' handlers before the random state: loading a state may draw numbers.
    for name, thing in session.kept.items():
        if name in checkpoint["handlers"]:
            thing.load_state_dict(checkpoint["handlers"][name])
    restore_global_random_state(checkpoint["rng"])
    session.elapsed_before_s = float(checkpoint.get("elapsed", 0.0))
    iteration = session.trainer.state.iteration
    if has_patience_left(checkpoint, session.config.patience):
        session.trainer.state.stop_requested = False
    # Stopped early, and killed before its summary; or a signal came while a stop was requested for this epoch's end.
    ended = session.trainer.state.stop_requested and iteration % length == 0
    if ended or (
        checkpoint["outcome"] == "early_stopped"
        and not has_patience_left(checkpoint, session.config.patience)
    ):
        session.coordinator.reason = StopReason.HANDLER
    session.resume_checkpoint.add_existing(up_to=iteration)
    if session.rank == 0:
        # The epochs after this point are trained again, and their lines would stand twice.
        session.folder.truncate_after(iteration, checkpoint.get("history"))
        for line in session.folder.take_warnings():
            logger.warning(line)


def _restore_optimizer(session: Session, checkpoint: Mapping[str, Any]) -> None:
    """Moments and counts from the checkpoint; what is set (weight decay, betas, ...) as it is set now."""
    optimizer = session.optimizer
    settings = [
        {name: value for name, value in group.items() if name not in _NO_SETTINGS}
        for group in optimizer.param_groups
    ]
    try:
        # Asked by name: the state of Adam fits AdamW as well, and torch would load it without an
        # error.
        if checkpoint["config"]["opt"] != session.config.opt:
            raise ValueError(f"{checkpoint['config']['opt']} is now {session.config.opt}")
        optimizer.load_state_dict(checkpoint["optimizer"])
    except ValueError as error:  # torch's, where the groups are others
        logger.warning(
            "the optimizer starts from its initial state, without its moments: %s.", error
        )
        return
    # load_state_dict has put the checkpoint's settings into the groups.
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def _restore_decisions(session: Session, checkpoint: Mapping[str, Any]) -> None:
    """Best score, early stopping, plateau: those that go by the same metric as before; the plateau's factor in any case."""
    # Scores of two metrics can't be compared: after an accuracy of 0.65 no negated loss would ever
    # be the best. A checkpoint from before monitor_mode lacks it; then the name decided, as auto
    # does now.
    before = {"monitor_mode": "auto", **checkpoint["config"]}
    if any(before[name] != getattr(session.config, name) for name in ("monitor", "monitor_mode")):
        logger.warning(
            "--monitor was %s: best.pt is chosen again from here on, and patience is counted again.",
            before["monitor"],
        )
        if session.plateau is not None and checkpoint["plateau"] is not None:
            session.plateau.value = checkpoint["plateau"]["value"]
        if session.top_checkpoints is not None:
            # The files of the other metric go once the first of this one is there.
            session.top_checkpoints.load_state_dict({"saved": []})
        return
    for name, part in _optional_parts(session).items():
        if part is not None and checkpoint.get(name) is not None:
            part.load_state_dict(checkpoint[name])


def _restore_scaler(session: Session, state: Mapping[str, Any]) -> None:
    # The state of a scaler that is off is empty.
    # An enabled scaler refuses it with a RuntimeError.
    if bool(state) == session.scaler.is_enabled():
        session.scaler.load_state_dict(dict(state))
    else:
        logger.warning(
            "the checkpoint's precision was another: the loss scaler starts from its initial state."
        )


def _restore_trainer(session: Session, state: Mapping[str, Any]) -> None:
    trainer = session.trainer
    trainer.load_state_dict(state)
    # Ignite restores the number of epochs too; a resumed run may have another.
    trainer.state.max_epochs = session.config.epochs
    # A checkpoint is loaded on the CPU; these two are added to and compared on the device.
    for name in ("skipped_steps", "grad_norm"):
        value = state[name]  # grad_norm is None where no handler measured it
        setattr(
            trainer.state,
            name,
            None if value is None else torch.as_tensor(value).to(session.device),
        )
    trainer.inside_epoch = trainer.state.iteration % trainer.state.epoch_length != 0
