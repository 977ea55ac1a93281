"""One trial: a run in its own folder with a handler that reports to the study and prunes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from fer_ignite.apps.tune.space import Dimension
from fer_ignite.apps.tune.study import build_optuna_sampler, requeue_trial, require_optuna
from fer_ignite.config import check, merged
from fer_ignite.distributed import Outcome
from fer_ignite.distributed.signals import SIGNAL_CODES
from fer_ignite.errors import CheckpointError, ConfigError, FerError
from fer_ignite.metrics.scalars import as_number
from fer_ignite.runs.execute import launch_training
from fer_ignite.training.events import RunEvents
from fer_ignite.training.session import Session

__all__ = ["InterruptedTrial", "InvalidTrial", "ReportToStudy", "run_trial"]

# A trial's final figures are of val only, from one view: what is compared is the validation that chose its best epoch.
_OF_TRIALS = {"tta": "none", "tensorboard": False, "plots": False, "quiet": True}


class InvalidTrial(Exception):
    """These settings can't be run together, or not here; the search continues without them."""


class InterruptedTrial(Exception):
    """A signal has stopped the run; it waits in its folder for the next worker.

    Attributes:
        exit_code: of the program.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"interrupted, exit code {exit_code}")
        self.exit_code = exit_code


# A class, not a closure: handlers are pickled for spawned processes.
class ReportToStudy:
    """A handler's setup that reports each validation to a trial, and stops the run when the pruner decides so.

    Args:
        trial: Optuna's.
        monitor: name of the validation metric.
        prune: the study's pruner may stop the trial, at any epoch but the last.
    """

    def __init__(self, trial: Any, *, monitor: str, prune: bool) -> None:
        self.trial, self.monitor, self.prune = trial, monitor, prune

    def __call__(self, session: Session) -> None:
        """Attaches to the session; the main process reports, and its stop request reaches all ranks."""
        if session.rank != 0:
            return
        trainer = session.trainer

        @trainer.on(Events.STARTED)
        def report_earlier_epochs(engine: Engine) -> None:
            # A trial that is tried again is another one for Optuna, without the first one's reports.
            for line in session.folder.read_history():
                self.report(line.get(f"val_{self.monitor}"), line["epoch"])

        @trainer.on(RunEvents.VALIDATED)
        def report(engine: Engine) -> None:
            epoch = engine.state.epoch
            self.report(session.epoch_metrics.get(self.monitor), epoch)
            # Not at the last epoch: nothing is saved by stopping there, and the figure would be lost.
            if self.prune and epoch < session.config.epochs and self.trial.should_prune():
                self.trial.set_user_attr("pruned_at", epoch)
                session.stop()

    def report(self, value: Any, epoch: int) -> None:
        """Reports a value to the study; one that is not finite is left out, as a diverged run is reported when it ends."""
        number = as_number(value)
        if number is not None and math.isfinite(number):
            self.trial.report(number, epoch)


def run_trial(
    trial: Any,
    *,
    space: Sequence[Dimension],
    given: Mapping[str, Any],
    folder: Path,
    worker: str,
    seed: int,
    monitor: str,
    prune: bool,
) -> float:
    """Draws the settings, trains with them, and returns the best validation's figure.

    Raises:
        optuna.TrialPruned: cut by the pruner, or its gradients stayed non-finite.
        InvalidTrial, InterruptedTrial: see there.
        FerError: what would meet every other trial too.
    """
    optuna = require_optuna()
    trial.set_user_attr("worker", worker)
    name = trial.user_attrs.get("folder") or f"trial-{trial.number:04d}"
    trial.set_user_attr("folder", name)
    # Per trial, so that the drawn settings do not depend on which worker draws them.
    trial.study.sampler = build_optuna_sampler(seed, trial.number)
    drawn = {dimension.name: dimension.suggest(trial) for dimension in space}
    trial.set_user_attr("settings", drawn)
    chosen = {
        # What was given overrides these; the folder, the resume and test are the search's own.
        **_OF_TRIALS,
        **merged(given, drawn),
        "out": str(folder),
        "name": name,
        "resume": "auto",
        "score_test": False,
    }
    try:
        config = check(chosen)
        report = ReportToStudy(trial, monitor=monitor, prune=prune)
        outcome = launch_training(config, given=chosen, handlers=[report])
    except (ConfigError, CheckpointError) as error:
        raise _invalid_trial(trial, str(error)) from None
    except KeyboardInterrupt:
        requeue_trial(trial.study, trial)
        raise
    return _figure(optuna, trial, outcome=outcome)


def _figure(optuna: Any, trial: Any, *, outcome: Outcome) -> float:
    code, message = outcome.exit_code, outcome.message or outcome.status
    if code in SIGNAL_CODES:
        requeue_trial(trial.study, trial)
        raise InterruptedTrial(code)
    # Diverged: pruned instead of failed, so that the sampler learns that these settings are bad.
    if code == 3:
        raise optuna.TrialPruned(message)
    if code == FerError.exit_code:
        raise _invalid_trial(trial, message)
    if code:
        raise outcome.as_error()
    # The run may have been in another process: the storage has what its handler noted.
    noted = trial.study.get_trials(deepcopy=False)[trial.number].user_attrs
    best = (outcome.result or {}).get("best", {})
    trial.set_user_attr("best_epoch", best.get("epoch"))
    if "pruned_at" in noted or best.get("value") is None:
        raise optuna.TrialPruned
    return float(best["value"])


def _invalid_trial(trial: Any, reason: str) -> InvalidTrial:
    trial.set_user_attr("reason", reason)
    return InvalidTrial(reason)
