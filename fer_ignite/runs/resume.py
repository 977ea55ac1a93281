"""The resume point of a run, and what may differ from the run that it continues."""

import functools
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fer_ignite.checkpoint.format import Found, load_checkpoint, newest_valid, require_resumable
from fer_ignite.checkpoint.paths import BEST_NAME, resolve_checkpoint, step_files
from fer_ignite.checkpoint.remote_files import is_run_url, local_run, run_url
from fer_ignite.checkpoint.remote_run import RemoteRun
from fer_ignite.checkpoint.run_dir import RunDir
from fer_ignite.config import OF_ONE_OPTIMIZER, Config, changed_settings, field_facts
from fer_ignite.data.exclude_list import is_same_list
from fer_ignite.data.readers.find import is_user_dataset
from fer_ignite.distributed import restart_count
from fer_ignite.errors import CheckpointError, ConfigError, DataError
from fer_ignite.imports import OBJECT, is_object_name, which_again
from fer_ignite.runs.hold import ask_store
from fer_ignite.runs.run_folder import began_with, lies_in, repeats
from fer_ignite.stores.store import is_url, last_part
from fer_ignite.training.early_stopping import has_patience_left, stopped_by_patience

__all__ = [
    "LAUNCH_SETTINGS",
    "OF_ONE_START",
    "USER_CODE",
    "best_is_lost",
    "check_changes",
    "find_resume_point",
    "is_user_code",
    "require_user_code",
    "was_killed_early",
    "why_finished",
]

# sync_bn stands among the launch flags, but changes the results.
LAUNCH_SETTINGS = tuple(
    name
    for name in Config.model_fields
    if field_facts(name)["group"] == "Launch" and name != "sync_bn"
)
# Settings that belong to one start of the program, not to the run: a checkpoint's are never taken up.
OF_ONE_START = frozenset(
    {
        "resume",
        "name",
        "out",
        "store_wait",
        "exist_ok",
        "override",
        "max_time",
        "handlers",
        "quiet",
        "verbose",
        "summary",
        "init_from",
        "cache",
        "profile",
    }
    | set(LAUNCH_SETTINGS)
)
# Settings that may name a user's code; code is never imported because a checkpoint names it.
USER_CODE = (
    "data",
    "model",
    "loss",
    "optimizer_factory",
    "sample_transform",
    "batch_transform",
    "collate_fn",
)


def find_resume_point(
    config: Config, folder: RunDir, *, remote: RemoteRun | None = None
) -> Found | None:
    """The checkpoint that a start continues from; None for a run that begins.

    Args:
        remote: the run in the store, where ``--out`` is a URL.
    Raises:
        CheckpointError: what ``--resume`` names is missing, damaged, or no resume point.
    """
    # torchrun repeats the first command line, which need not have --resume.
    requested = config.resume or ("auto" if restart_count() > 0 else None)
    if requested is None:
        return None
    if requested in ("auto", "last"):
        found = newest_valid(folder.checkpoints)
        if found is None and requested == "last":
            raise CheckpointError(
                f"{folder.path} holds no resume point; start one without --resume, or name it with --name."
            )
        return found
    # What an earlier attempt has saved here is further on than what it began with. Where that is an older resume point of this
    # folder, the newer ones may be those that the run was to go back from.
    if repeats(config) and (
        not _is_in_folder(requested, folder, remote=remote)
        or (remote is None and _has_saved_since(folder, requested))
    ):
        own = newest_valid(folder.checkpoints)
        if own is not None:
            return own
    if is_url(requested):
        requested = _local_resume_point(config, requested, remote=remote)
    try:
        # Of a run's folder the newest, not the best one, which may lie epochs back.
        newest = newest_valid(Path(requested) / "checkpoints") if Path(requested).is_dir() else None
        if newest is not None:
            return newest
        path = resolve_checkpoint(requested)
        mapping = load_checkpoint(path)
        require_resumable(mapping)
    except CheckpointError as error:
        raise CheckpointError(f"--resume: {error}") from None
    return Found(path, mapping, [])


def _is_in_folder(requested: str, folder: RunDir, *, remote: RemoteRun | None) -> bool:
    """Whether a path or URL names a checkpoint of the folder's own run that is there."""
    if not is_url(requested):
        return lies_in(folder, Path(requested)) and Path(requested).is_file()
    own = remote is not None and run_url(requested) == remote.url
    return own and (folder.checkpoints / last_part(requested)).is_file()


def _has_saved_since(folder: RunDir, requested: str) -> bool:
    """Whether the start that went back to an older resume point has saved a newer one; it wrote config.yaml before."""
    newest_first = step_files(folder.checkpoints)
    return (
        bool(newest_first)
        and began_with(folder, requested)
        and newest_first[0][1].stat().st_mtime_ns > folder.config.stat().st_mtime_ns
    )


def _local_resume_point(config: Config, url: str, *, remote: RemoteRun | None) -> str:
    """The local copy of a checkpoint or of a run named by URL; that of the run itself is the working copy's."""
    own = remote if remote is not None and run_url(url) == remote.url else None
    if is_run_url(url):
        return str(local_run(url) if own is None or not own.folder.holds_a_run else own.folder.path)
    if own is not None:
        name = f"checkpoints/{last_part(url)}"
        fetch = functools.partial(own.fetch_file, name)
        return str(ask_store("--resume", fetch, refused=CheckpointError, wait_s=config.store_wait))
    return str(resolve_checkpoint(url))


def was_killed_early(folder: RunDir, config: Config) -> bool:
    """Whether the run is to continue, and was killed before its first resume point; then it begins at iteration 0."""
    early = (config.resume == "auto" or repeats(config)) and not folder.summary.exists()
    if early:
        folder.truncate_after(0)
    return early


def best_is_lost(found: Found, folder: RunDir) -> bool:
    """Whether the resume point's best.pt can't be used; a damaged one is set aside."""
    best = folder.checkpoints / BEST_NAME
    known = (found.mapping["best"] or {}).get("value") is not None
    # A run that continues in another folder has no best.pt there before an epoch is better.
    if not known or (not best.exists() and not lies_in(folder, found.path)):
        return False
    try:
        weights = load_checkpoint(best)["model"]
        problem = None if set(weights) == set(found.mapping["model"]) else "holds another network"
    except CheckpointError as error:
        problem = f"can't be used ({str(error).rstrip('.')})"
    if problem is None:
        return False
    remedy = "the best network is chosen among the epochs from here on"
    if best.exists():
        folder.set_aside(best, f"{problem}; {remedy}")
    else:
        folder.warnings.append(f"{best} is missing; {remedy}.")
    return True


def is_user_code(setting: str, text: str) -> bool:
    """Whether the value of one of ``USER_CODE`` names a user's code, as opposed to something built in."""
    return is_user_dataset(text) if setting == "data" else is_object_name(text)


def require_user_code(saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuses to continue a run that used a user's code which is not given again.

    Args:
        saved: the checkpoint's settings.
        given: those of this start.
    Raises:
        ConfigError: naming the flags or objects.
    """
    named = {
        name: str(saved[name])
        for name in USER_CODE
        if is_user_code(name, str(saved.get(name) or ""))
    }
    absent = {name: text for name, text in named.items() if name not in given}
    if absent:
        code = {name: text for name, text in absent.items() if not text.startswith(OBJECT)}
        if objects := [
            which_again(name, text) for name, text in absent.items() if name not in code
        ]:
            raise ConfigError(f"the checkpoint's run used Python objects: {'; '.join(objects)}")
        flags = " ".join(f"--{name.replace('_', '-')} {text}" for name, text in code.items())
        raise ConfigError(
            f"the checkpoint's run used code of its user's; checkpoints never import it: give it again: {flags}"
        )


def check_changes(
    mapping: Mapping[str, Any], config: Config, *, fingerprint: str | None
) -> list[str]:
    """A line for each setting that differs from the checkpoint's run and may.

    Args:
        mapping: the checkpoint's content.
        fingerprint: of the data; None for a user's data set, which is compared when it is there.
    Raises:
        ConfigError: a structural setting differs, without ``--override``.
        DataError: the data is other data, without ``--override data``.
    """
    changes = {
        name: change
        for name, change in changed_settings(
            mapping["config"], config.model_dump(mode="json")
        ).items()
        if name not in OF_ONE_START
    }
    same_data = fingerprint is not None and fingerprint == mapping["data"]["fingerprint"]
    if same_data:
        changes.pop("data", None)  # it has moved
    if "exclude" in changes and is_same_list(*changes["exclude"]):
        changes.pop("exclude")  # likewise
    allowed = {*config.override, *(OF_ONE_OPTIMIZER if "opt" in config.override else ())}
    structural = [
        name for name in changes if field_facts(name)["structural"] and name not in allowed
    ]
    if structural:
        described = ", ".join(
            f"{name} ({changes[name][0]} -> {changes[name][1]})" for name in structural
        )
        raise ConfigError(
            f"--resume continues with another run's settings: {described}; leave them as they were, "
            f"or allow it with --override {','.join(structural)}."
        )
    if not same_data and fingerprint is not None and "data" not in config.override:
        raise DataError(
            f"--resume: the data is not what the run began with (fingerprint {fingerprint[:12]}, was "
            f"{mapping['data']['fingerprint'][:12]}); restore it, or allow it with --override data."
        )
    return [f"changed on resume: {name} {old} -> {new}" for name, (old, new) in changes.items()]


def why_finished(mapping: Mapping[str, Any], config: Config, *, folder: RunDir) -> str | None:
    """Why there is nothing left to do, as a sentence with what would train on; None where there is."""
    outcome, trainer = mapping["outcome"], mapping["trainer"]
    epoch = trainer["iteration"] // trainer["epoch_length"]
    summary = folder.read_summary()
    if (
        outcome == "early_stopped"
        and has_patience_left(mapping, config.patience)
        and epoch < config.epochs
    ):
        return None
    if summary.get("iterations") != trainer["iteration"] or summary.get("status") not in (
        "completed",
        "early_stopped",
    ):
        return None  # killed between its last resume point and its summary
    if outcome == "early_stopped":
        best = shlex.quote(str(folder.checkpoints / "best.pt"))
        more = (
            "more: --patience"
            if stopped_by_patience(mapping)
            else f"to train on: a new run with --init-from {best}"
        )
        return f"the run stopped early at epoch {epoch}; there is nothing left to do ({more})."
    if epoch >= config.epochs and trainer["iteration"] % trainer["epoch_length"] == 0:
        return f"the run is complete at epoch {epoch} of {config.epochs}; there is nothing left to do (more: --epochs)."
    return None
