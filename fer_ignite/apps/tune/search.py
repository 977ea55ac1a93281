"""Search loop: trials one after another, by as many workers as share the folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_ignite.apps.tune.results import study_result, write_results
from fer_ignite.apps.tune.space import Dimension, read_space
from fer_ignite.apps.tune.study import count_trials, open_study, require_optuna, worker_lock
from fer_ignite.apps.tune.trials import InterruptedTrial, InvalidTrial, run_trial
from fer_ignite.checkpoint.atomic_io import storage_errors
from fer_ignite.config import Config, check, field_facts
from fer_ignite.data.open import find_cache
from fer_ignite.distributed import Outcome
from fer_ignite.errors import ConfigError
from fer_ignite.runs.validate import check_handlers, check_monitor, check_names
from fer_ignite.stores.store import is_url
from fer_ignite.training.monitor import lower_is_better

__all__ = ["TuneRequest", "tune"]

_INVALID_IN_A_ROW = 3
# Of the search itself, not of its trials; the folder is named by --out and --name.
_OF_THE_SEARCH = ("out", "name", "resume", "exist_ok", "override", "score_test")

Echo = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """Options of ``tune``.

    Args:
        space: a YAML file, see :func:`fer_ignite.apps.tune.space.read_space`.
        trials: in the study as a whole, those of earlier starts and of other workers included.
        timeout_s: no trial is begun after that many seconds.
        prune: stop trials that are worse than the median of the earlier ones at the same epoch.
    """

    space: str
    trials: int = 20
    timeout_s: float | None = None
    prune: bool = True


def tune(
    config: Config,
    request: TuneRequest,
    *,
    given: Mapping[str, Any],
    echo: Echo = lambda text: None,
) -> Outcome:
    """Searches for the settings with the best validation figure (``monitor``); test is never scored.

    The folder ``<out>/<name>`` (by default ``tune-<the space's file name>``) gets the study, a run's folder per trial,
    best.yaml, trials.csv and importance.png. The same call again continues; at the same time, it works beside the first.

    Args:
        config, given: settings of all trials, and those among them that were really given.
        echo: called with a line about each trial.
    Returns:
        An outcome whose result is :func:`fer_ignite.apps.tune.results.study_result`'s.
    Raises:
        ConfigError, DataError, FolderInUseError: one sentence; no trial was begun.
    """
    optuna = require_optuna()
    space = read_space(request.space, given=given)
    plain = config.model_dump(mode="json")
    kept = {name: plain[name] for name in given if name not in _OF_THE_SEARCH}
    if given.get("score_test"):
        raise ConfigError(
            "--score-test: a search never scores test; leave it out, and score the winner by training it."
        )
    if is_url(config.out):
        raise ConfigError(
            f"--out {config.out}: a search keeps its study in a file with locks; name a local or shared folder."
        )
    # Before the folder is made: a search that is refused leaves nothing behind.
    fingerprint = _check(config, kept)
    folder = Path(config.out) / (config.name or f"tune-{Path(request.space).stem}")
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    # Four complete trials first, and a quarter of the epochs: early curves cross often.
    pruner = optuna.pruners.MedianPruner(
        n_startup_trials=4, n_warmup_steps=1 + max(1, config.epochs // 4)
    )
    minimize = lower_is_better(config.monitor, config.monitor_mode)
    what = _what(config, space, fingerprint=fingerprint)
    code = 0
    with open_study(folder, minimize=minimize, pruner=pruner, what=what) as study:
        with worker_lock(folder) as worker:

            def objective(trial: Any) -> float:
                return run_trial(
                    trial,
                    space=space,
                    given=kept,
                    folder=folder,
                    worker=worker,
                    seed=config.seed,
                    monitor=config.monitor,
                    prune=request.prune,
                )

            try:
                # Without this test optimize would run one trial more: only a callback behind a trial can stop it.
                if count_trials(study) < request.trials or _waiting(study):
                    study.optimize(
                        objective,
                        timeout=request.timeout_s,
                        # Any other error would meet the next trial too, and ends the search.
                        catch=(InvalidTrial,),
                        callbacks=[
                            _reporter(echo),
                            # After each trial: a kill leaves the table and best.yaml of all that were complete.
                            lambda study, trial: write_results(study, folder, given=kept),
                            # Last: it raises where the search can't go on, which calls no later one.
                            _stopper(request.trials),
                        ],
                    )
            except InterruptedTrial as interrupted:
                code = interrupted.exit_code
            finally:
                # Also after the error of a trial, which calls no callback: the table has that trial too.
                write_results(study, folder, given=kept, importance=True)
        result = study_result(study, folder)
    return Outcome(code, "interrupted" if code else "completed", None, result)


def _check(config: Config, kept: Mapping[str, Any]) -> str | None:
    """All that would meet every trial; the data's fingerprint."""
    _refuse_starts(config)
    if config.folds is not None and config.fold is None:
        raise ConfigError(
            "--folds makes several runs of one setting; tune compares by one: choose it with --fold, or leave both out."
        )
    if config.fast_dev_run:
        raise ConfigError(
            "--fast-dev-run scores on three batches; leave it out, and try the search with --max-train-samples and --epochs."
        )
    check_names(config)
    check_monitor(config)
    check_handlers(config.handlers)
    return find_cache(check(dict(kept)))[1]


def _refuse_starts(config: Config) -> None:
    """How a single run starts: a search has a start of its own. ``--resume auto`` is what it does anyway."""
    resume = config.resume if config.resume != "auto" else None
    came = {
        "--exist-ok": config.exist_ok,
        f"--resume {resume}": resume,
        f"--override {','.join(config.override)}": config.override,
    }
    for flag in (flag for flag, value in came.items() if value):
        raise ConfigError(
            f"{flag} is about a single run; the same search given again continues in its folder: leave it out, or choose "
            "another --name to start a new run."
        )


def _what(config: Config, space: list[Dimension], *, fingerprint: str | None) -> dict[str, Any]:
    """What makes trials comparable: their space, their common settings, their data."""
    tried = {dimension.name: dimension.plain() for dimension in space}
    fixed = {
        name: value
        for name, value in config.model_dump(mode="json").items()
        if field_facts(name)["group"] not in ("Output", "Launch")
        and name not in ("data", "cache", "max_time", "seed", *tried)
    }
    # The fingerprint in place of the path: data that was moved is the same data.
    return {**fixed, "space": tried, "data": config.data if fingerprint is None else fingerprint}


def _waiting(study: Any) -> bool:
    return any(trial.state.name == "WAITING" for trial in study.get_trials(deepcopy=False))


def _stopper(trials: int) -> Callable[[Any, Any], None]:
    def stop_when_enough(study: Any, trial: Any) -> None:
        last = study.get_trials(deepcopy=False)[-_INVALID_IN_A_ROW:]
        if len(last) == _INVALID_IN_A_ROW and all(
            one.state.name == "FAIL" and "again" not in one.user_attrs for one in last
        ):
            raise ConfigError(
                f"the last {_INVALID_IN_A_ROW} trials could not be run, the last one because {_reason(trial)}"
            )
        if count_trials(study) >= trials and not _waiting(study):
            study.stop()

    return stop_when_enough


def _reporter(echo: Echo) -> Callable[[Any, Any], None]:
    def report_trial(study: Any, trial: Any) -> None:
        settings = "  ".join(
            f"{name} {_short(value)}"
            for name, value in trial.user_attrs.get("settings", {}).items()
        )
        echo(f"trial {trial.number:3d}  {_end(study, trial)}  {settings}")

    return report_trial


def _end(study: Any, trial: Any) -> str:
    if trial.state.name == "COMPLETE":
        mark = "  best so far" if study.best_trial.number == trial.number else ""
        return f"{trial.value:.4f} at epoch {trial.user_attrs.get('best_epoch')}{mark}"
    if trial.state.name == "PRUNED":
        return (
            f"stopped at epoch {trial.user_attrs['pruned_at']}"
            if "pruned_at" in trial.user_attrs
            else "diverged"
        )
    return f"can't be run: {_reason(trial)}"


def _reason(trial: Any) -> str:
    return str(trial.user_attrs.get("reason", "of an error."))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
