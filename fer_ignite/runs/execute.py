"""Execution of a run: launch, seeds, folds, and the work of one process."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ignite.distributed as idist
import torch

from fer_ignite import errors
from fer_ignite.checkpoint.atomic_io import is_storage_failure, shown, write_json_durably
from fer_ignite.checkpoint.format import load_checkpoint
from fer_ignite.checkpoint.paths import ensemble_name
from fer_ignite.checkpoint.run_dir import RunDir
from fer_ignite.config import Config, check, json_schema
from fer_ignite.data.dataset import FaceDataset
from fer_ignite.data.open import open_dataset
from fer_ignite.distributed import LaunchSpec, Outcome, SignalFlag, is_main_process, launch
from fer_ignite.distributed.collectives import cpu_group, gather_json, long_timeout_group
from fer_ignite.distributed.machine import configure_process, detect_machine
from fer_ignite.distributed.resolve import make_plan
from fer_ignite.errors import ConfigError, FerError, StorageError, error_kind
from fer_ignite.imports import is_object_name, load_object, restore_objects
from fer_ignite.inference.evaluate import launch_evaluation
from fer_ignite.inference.request import EvaluateRequest
from fer_ignite.metrics.intervals import mean_and_spread
from fer_ignite.runs.banner import log_run_header, log_run_result
from fer_ignite.runs.finalize import finish
from fer_ignite.runs.hold import RunHold
from fer_ignite.runs.prepare import RunSpec, prepare, run_guard
from fer_ignite.runs.run_folder import default_name, local_out, require_free_folders
from fer_ignite.runs.teacher import load_teacher
from fer_ignite.runs.validate import check_monitor, check_sendable
from fer_ignite.stores.store import Store, is_url, refused_as
from fer_ignite.training.build import build_session_objects
from fer_ignite.training.loggers import close_run_logger, run_logger
from fer_ignite.training.objects import find_objects, require_sendable
from fer_ignite.training.session import Session
from fer_ignite.training.state import restore

__all__ = [
    "configure_own_process",
    "launch_folds",
    "launch_seeds",
    "launch_training",
    "open_session",
]

logger = logging.getLogger("fer_ignite")

# Settings that decide the stored side and the statistics of a user's data set.
_OF_PREPROCESSING = {"channels", "data", "image_size", "normalize", "resize", "resize_mode"}

Handlers = Sequence[Callable[[Session], Any]]


def launch_training(
    config: Config, *, given: Mapping[str, Any], handlers: Handlers = ()
) -> Outcome:
    """Prepares, starts the processes, and returns how the run ended; or how all of them ended, with ``folds``.

    See :func:`train` and :func:`launch_folds`.

    Raises:
        FerError: what can be known before the start is wrong, or turned out to be before the first epoch.
    """
    if config.folds is not None and config.fold is None:
        return launch_folds(config, given=given, handlers=handlers)
    spec = launch_spec(config)
    plan = make_plan(spec, os.environ, machine=detect_machine())
    if plan.mode == "spawn":
        check_sendable(handlers)
        require_sendable(find_objects(config))
    # Several launchers: only the processes themselves can agree on a folder, so that rank 0 prepares in the group.
    if plan.mode == "joined" or spec.nnodes > 1:
        return launch(
            _prepare_and_work,
            config.model_dump(),
            dict(given),
            tuple(handlers),
            find_objects(config),
            spec=spec,
        )
    check_monitor(config, handlers)
    run_spec, hold = prepare(config, given, handlers=handlers)
    with run_guard(run_spec, hold):
        outcome = (
            _finished_outcome(run_spec)
            if run_spec.finished is not None
            else launch(_work, run_spec, spec=spec)
        )
        # Raised inside the guard, which then removes the folder that was made for the run.
        if outcome.exit_code == ConfigError.exit_code:
            raise outcome.as_error()
    return _with_delivery(outcome, run_spec, hold=hold)


def _with_delivery(outcome: Outcome, run_spec: RunSpec, *, hold: RunHold | None) -> Outcome:
    """The outcome of a run whose folder is in a store: not a success where something did not arrive there."""
    if run_spec.store is not None and outcome.result is not None:
        outcome = replace(outcome, result={**outcome.result, "store": run_spec.store})
    if hold is None or hold.problem is None:
        return outcome
    # A failed run keeps its own exit code.
    if outcome.exit_code:
        logger.error(hold.problem)
        return outcome
    code, kind = StorageError.exit_code, StorageError.__name__
    return replace(outcome, exit_code=code, message=hold.problem, kind=kind)


def launch_seeds(config: Config, *, given: Mapping[str, Any], seeds: Sequence[int]) -> Outcome:
    """The same run for several seeds, one after the other, each in a folder of its own, and their mean and spread.

    Returns:
        The first outcome that was not a success, else one whose result has ``seeds``, ``folders`` and, for val and test,
        ``{accuracy: [mean, standard deviation], ...}``, and ``ensemble``, the figures of their mean probabilities; it also
        stands in ``<out>/<name>-seeds.json``.
    Raises:
        ConfigError: folds were requested too.
    """
    if config.folds is not None and config.fold is None:
        raise ConfigError(
            "--seeds and --folds each make several runs; give one of them, or one --fold with --seeds."
        )
    return _launch_each(config, given, setting="seed", values=seeds)


def launch_folds(config: Config, *, given: Mapping[str, Any], handlers: Handlers = ()) -> Outcome:
    """Cross-validation: one run per fold, one after the other, each in a folder of its own, and their mean and spread.

    Returns:
        As :func:`launch_seeds`, with ``folds`` in place of ``seeds`` and in ``<out>/<name>-folds.json``. There is no test.
    """
    assert config.folds is not None
    return _launch_each(
        config, given, setting="fold", values=range(config.folds), handlers=handlers
    )


def _launch_each(
    config: Config,
    given: Mapping[str, Any],
    *,
    setting: str,
    values: Sequence[int],
    handlers: Handlers = (),
) -> Outcome:
    base = config.name or default_name(config)
    changes = [{setting: value, "name": f"{base}-{setting}{value}"} for value in values]
    # All before the first: a wrong value for the last would be found after hours.
    configs = [check({**config.model_dump(), **change}) for change in changes]
    require_free_folders(configs)
    summaries = []
    for own, change in zip(configs, changes, strict=True):
        outcome = launch_training(own, given={**given, **change}, handlers=handlers)
        # A run that its time limit has cut has exit code 0 and no scores, and the mean needs all.
        if outcome.exit_code or outcome.result is None or "val" not in outcome.result:
            return outcome
        summaries.append(outcome.result)
    result: dict[str, Any] = {
        f"{setting}s": list(values),
        "folders": [summary["folder"] for summary in summaries],
    }
    for split in ("val", "test"):
        if all(split in summary for summary in summaries):
            result[split] = {
                name: list(mean_and_spread([summary[split][name] for summary in summaries]))
                for name in ("accuracy", "uar", "macro_f1", "loss")
            }
    # Not of folds: the val faces of one were train faces of the others.
    if setting == "seed" and len(summaries) > 1:
        result["ensemble"] = _score_ensemble(config, result)
    # Under torchrun every process comes here; one of them writes the file.
    if is_main_process():
        _write_result(config.out, f"{base}-{setting}s.json", result)
    return Outcome(result=result)


def _write_result(out: str, name: str, result: Mapping[str, Any]) -> None:
    file = local_out(out) / name
    with _resumable():
        write_json_durably(file, result)
    if is_url(out):
        with refused_as(StorageError, "--out"):
            Store(out).upload(file, name)


def _score_ensemble(config: Config, result: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of the mean of the runs' probabilities, on the splits that each run was scored on; empty where it can't be scored."""
    scores = {}
    for split in (split for split in ("val", "test") if split in result):
        request = EvaluateRequest(
            ensemble_name(result["folders"]),
            split=split,
            model=config.model if is_object_name(config.model) else None,
            collate_fn=config.collate_fn,
            cache=config.cache,
            device=config.device,
            quiet=config.quiet,
        )
        try:
            outcome = launch_evaluation(request)
        except FerError as error:  # such as data that came from the caller's object
            # A warning: the runs themselves have succeeded.
            logger.warning("the ensemble of the seeds was not scored: %s", error)
            return {}
        if outcome.exit_code or outcome.result is None:
            logger.warning("the ensemble of the seeds was not scored: %s", outcome.message)
            return {}
        names = ("accuracy", "uar", "macro_f1", "loss", "n", "tta")
        scores[split] = {name: outcome.result[name] for name in names}
    return scores


def configure_own_process(config: Config) -> None:
    """Sets this process up as :func:`launch_training` would set up the only one of a run.

    Raises:
        ConfigError: the settings ask for several processes, or for what this machine doesn't have.
    """
    plan = make_plan(launch_spec(config), os.environ, machine=detect_machine())
    if plan.mode == "spawn":
        flag = "nnodes" if config.nnodes > 1 else "nproc"
        raise ConfigError(
            f"build_session works in this process, and {flag} is {getattr(config, flag)}: leave it out, or call train(...)."
        )
    configure_process(plan.threads)


def launch_spec(config: Config) -> LaunchSpec:
    """How the processes are to be started."""
    return LaunchSpec(
        nproc=config.nproc,
        nnodes=config.nnodes,
        node_rank=config.node_rank,
        master_addr=config.master_addr,
        master_port=config.master_port,
        device=config.device,
        gpus=config.gpus,
        threads=config.threads,
        start_method=config.start_method,
        dist_timeout_s=config.dist_timeout,
    )


def _finished_outcome(run_spec: RunSpec) -> Outcome:
    for line in run_spec.warnings if idist.get_rank() == 0 else ():
        logger.warning(line)
    # The main process's: another machine may lack the folder.
    summary = gather_json(RunDir(run_spec.folder).read_summary(), cpu_group())[0]
    return Outcome(0, summary["status"], run_spec.finished, {**summary, "folder": run_spec.folder})


def _prepare_and_work(
    local_rank: int,
    values: Mapping[str, Any],
    given: Mapping[str, Any],
    handlers: Any,
    objects: Mapping[str, Any],
) -> Outcome:
    """Under torchrun or Slurm: the main process prepares, the others receive its specification, or its error."""
    # A spawned process starts without the objects that the caller registered.
    restore_objects(objects)
    config, shared, hold = check(values), {}, None
    if idist.get_rank() == 0:
        try:
            check_monitor(config, handlers)
            run_spec, hold = prepare(config, given, handlers=handlers)
            # As JSON to the other ranks, so without what only pickles; each rank has the handlers itself.
            shared = {**vars(run_spec), "handlers": [], "objects": {}}
        except FerError as error:
            # Sent, not raised: the other ranks wait in the collective below, and raise it too.
            shared = {"error": error_kind(error), "message": str(error)}
    # a download or a large dataset cache takes longer than any operation of a run
    with long_timeout_group() as group:
        shared = gather_json(shared, group)[0]
    if "error" in shared:
        raise getattr(errors, shared["error"])(shared["message"])
    run_spec = RunSpec(
        **{
            **shared,
            "handlers": tuple(handlers),
            "objects": dict(objects),
            # JSON has made lists of the tuples.
            "notes": tuple(shared["notes"]),
            "warnings": tuple(shared["warnings"]),
            "made": tuple(shared["made"]),
        }
    )
    with run_guard(run_spec, hold):
        outcome = (
            _work(local_rank, run_spec)
            if run_spec.finished is None
            else _finished_outcome(run_spec)
        )
    return _with_delivery(outcome, run_spec, hold=hold)


def _work(local_rank: int, run_spec: RunSpec) -> Outcome:
    """One process of a run, from wiring to summary."""
    # A spawned process starts without the objects that the caller registered.
    restore_objects(run_spec.objects)
    config = check(run_spec.config)
    # _resumable is the outermost: it also completes the storage errors of _explain_machine_errors.
    with _resumable(), _explain_machine_errors(config), SignalFlag() as received:
        rank, folder = idist.get_rank(), RunDir(run_spec.folder)
        run_logger(folder, rank=rank, quiet=config.quiet)
        try:
            with open_session(
                config, run_spec, folder=folder, signal_number=lambda: received.signum
            ) as session:
                log_run_header(session, run_spec)
                reason = session.run()
                summary = {**finish(session, reason), "folder": str(folder.path)}
                log_run_result(session, summary, run_spec=run_spec)
        finally:
            close_run_logger()
        return Outcome(reason.exit_code, str(summary["status"]), None, summary)


@contextlib.contextmanager
def _resumable() -> Iterator[None]:
    """Adds to a storage error how a run continues; other commands, which write with the same functions, lack the flag."""
    try:
        yield
    except StorageError as error:
        raise StorageError(
            f"{str(error).rstrip('.')}. Then continue with --resume auto."
        ) from error


@contextlib.contextmanager
def _explain_machine_errors(config: Config) -> Iterator[None]:
    """Turns what the machine refused into a sentence with a remedy."""
    try:
        yield
    except RuntimeError as error:  # torch's own out-of-memory error is one
        text = str(error)
        if (
            isinstance(error, torch.cuda.OutOfMemoryError)
            or "can't allocate memory" in text
            or "not enough memory" in text
        ):
            raise FerError(_out_of_memory(config)) from None
        raise
    except OSError as error:  # from a library that writes by itself, or from a user's handler
        if not is_storage_failure(error):
            raise
        place = f"{shown(error.filename)} can't be written" if error.filename else "a write failed"
        checked = f"{shown(local_out(config.out))}, the folder of temporary files and /dev/shm"
        raise StorageError(f"{place}: {error.strerror}. Make room or repair {checked}.") from error


def _out_of_memory(config: Config) -> str:
    return (
        f"out of memory on {select_device(config)} with --batch-size {config.batch_size} in {config.grad_accum_steps} "
        f"micro-batches over {idist.get_world_size()} processes; double --grad-accum-steps, or halve --batch-size. "
        f"Where it happened while scoring, halve --eval-batch-size ({config.eval_batch_size}), which a resume may change."
    )


def open_session(
    config: Config,
    run_spec: RunSpec,
    *,
    folder: RunDir,
    signal_number: Callable[[], int] = lambda: 0,
) -> Session:
    """A wired session, resumed where the run specification names a checkpoint."""
    handlers = [load_object(name, setting="--handlers") for name in config.handlers]
    device = select_device(config)
    # Else torch.cuda's streams, and a plain "cuda" in a user's handler, are those of GPU 0.
    if device.index is not None:
        torch.cuda.set_device(device)
    dataset = open_dataset(config, run_spec.cache_path)
    checkpoint = None if run_spec.resume is None else load_checkpoint(run_spec.resume)
    if checkpoint is not None:
        dataset = _as_begun(dataset, config, checkpoint)
    session = build_session_objects(
        config,
        dataset,
        folder=folder,
        device=device,
        handlers=[*handlers, *run_spec.handlers],
        signal_number=signal_number,
        time_limit_s=config.max_time,
        teacher=load_teacher(config, dataset, device=device),
    )
    if checkpoint is not None:
        restore(session, checkpoint, best_lost=run_spec.best_lost)
    if session.rank == 0:
        # Last: config.yaml makes the folder count as a run; a start that fails leaves none.
        folder.write_config(run_spec.config, schema=json_schema())
    return session


def _as_begun(dataset: FaceDataset, config: Config, checkpoint: Mapping[str, Any]) -> FaceDataset:
    """A user's data set with the side and statistics that the run began with, unless settings that decide them are overridden.

    They are found anew at each start: samples may be random, and another version of this package may choose another side.
    """
    if dataset.cache is not None or _OF_PREPROCESSING & set(config.override):
        return dataset
    saved = checkpoint["preprocessing"]
    return replace(
        dataset,
        side_px=saved["stored_px"] or dataset.side_px,
        mean=tuple(saved["mean"]),
        std=tuple(saved["std"]),
    )


def select_device(config: Config) -> torch.device:
    """This process's device; of --gpus, a single process takes the first."""
    if idist.get_world_size() > 1:
        return idist.device()
    # By number: CUDA reads CUDA_VISIBLE_DEVICES once, and the caller may have used a GPU before.
    device = make_plan(launch_spec(config), {}, machine=detect_machine()).device
    return (
        torch.device(device, config.gpus[0])
        if device == "cuda" and config.gpus
        else torch.device(device)
    )
