"""MLflow tracker: settings as parameters, points in batches, files as artifacts."""

import logging
import math
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ignite.handlers.mlflow_logger import MLflowLogger

from fer_ignite.apps.trackers.mlflow_model import save_mlflow_model
from fer_ignite.apps.trackers.run_ids import without_password
from fer_ignite.apps.trackers.tracker import RunResults, Tracker, no_answer
from fer_ignite.apps.trackers.upload_queue import Point
from fer_ignite.errors import ConfigError
from fer_ignite.imports import is_object_name, require_library

__all__ = ["MLflowTracker"]

# MLflow's own settings would try for minutes; the post tries again by itself, and training does not wait for it.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_LONGEST_PARAMETER = 6000
_PARAMETERS_PER_REQUEST = 100
_TRANSIENT_CODES = (408, 429)  # HTTP: time limit, too many requests


class MLflowTracker(Tracker, MLflowLogger):
    """A run in MLflow, on the server or in the database that ``MLFLOW_TRACKING_URI`` names, else ``./mlflow.db``."""

    name = "mlflow"
    title = "MLflow"
    _uncertain = False  # a request failed: the server may have carried it out

    @classmethod
    def check(cls, entry: Mapping[str, Any]) -> None:
        require_library("mlflow", extra="track", purpose="--track mlflow")
        place = os.environ.get("MLFLOW_TRACKING_URI") or str(entry.get("place", ""))
        if reason := _silent(place):
            raise ConfigError(
                f"--track mlflow: {reason}; start the server, or set MLFLOW_TRACKING_URI to where it is."
            )
        if urlsplit(place).scheme in ("", "file") and place:
            _check_file_store(place)

    def unreachable_reason(self) -> str | None:
        reason = _silent(self.uri)
        return reason and f"MLflow does not answer any more ({reason})"

    def open_record(self, settings: Mapping[str, Any]) -> str:
        import mlflow

        entry, ours = self.register.entry(self.name), dict(_PATIENCE)
        if entry and not mlflow.is_tracking_uri_set():
            # Not mlflow.set_tracking_uri: its choice would outlive this run in the process.
            ours["MLFLOW_TRACKING_URI"] = entry["place"]
        # An empty variable is none to MLflow.
        self._replaced = {name: os.environ.get(name) for name in ours if not os.environ.get(name)}
        os.environ.update({name: ours[name] for name in self._replaced})
        try:
            return self._open(settings, entry=entry)
        except BaseException:
            self._restore_environment()
            raise

    def _open(self, settings: Mapping[str, Any], *, entry: Mapping[str, Any]) -> str:
        import mlflow

        self.uri = mlflow.get_tracking_uri()
        self.client = mlflow.MlflowClient(self.uri)
        place = _absolute(without_password(self.uri))
        known = entry.get("id") if entry.get("place") == place else None
        # the user's own, around train(); it is not ours to end
        self.joined = mlflow.active_run() is not None
        if not self.joined:
            self._start(known if known and self._exists(known) else None)
        MLflowLogger.__init__(self)  # takes the active run
        self.id = self.active_run.info.run_id
        if self.id == known:
            self.continue_from(self._reached())
        else:
            self.register.begin(self.name, id=self.id, place=place)
        self._note_settings(settings)
        self._model = settings["model"]
        info = self.active_run.info
        return (
            f"{place}/#/experiments/{info.experiment_id}/runs/{self.id}"
            if "http" in place
            else f"{place}, run {self.id}"
        )

    def _start(self, known: str | None) -> None:
        import mlflow

        # MLflow's own variable decides where the user set it; the monitor needs psutil, which the extra installs.
        logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
        configured = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING" in os.environ
        monitor = None if configured else find_spec("psutil") is not None
        if known is not None:
            mlflow.start_run(run_id=known, log_system_metrics=monitor)
            return
        commit = _git_commit()
        name = self.project or os.environ.get("MLFLOW_EXPERIMENT_NAME")
        experiment = None if name else os.environ.get("MLFLOW_EXPERIMENT_ID")
        # Not mlflow.set_experiment: it leaves its choice in the environment, for every later run of this process.
        mlflow.start_run(
            experiment_id=experiment or self._experiment(name or "fer_ignite"),
            run_name=self.run_name,
            tags={} if commit is None else {"mlflow.source.git.commit": commit},
            log_system_metrics=monitor,
        )

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        return str(self.client.create_experiment(name) if found is None else found.experiment_id)

    def _exists(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return bool(self.client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _reached(self) -> dict[str, int]:
        """The last iteration of each metric, as the server has it: MLflow keeps every point, and can't take one back."""
        names = self.client.get_run(self.id).data.metrics
        return {
            name: max(point.step for point in self.client.get_metric_history(self.id, name))
            for name in names
        }

    def _note_settings(self, settings: Mapping[str, Any]) -> None:
        from mlflow.entities import Param, RunTag

        there = self.client.get_run(self.id).data.params
        texts = {name: str(value)[:_LONGEST_PARAMETER] for name, value in settings.items()}
        # A parameter can't be changed: what a resume changed becomes a tag.
        tags = [
            RunTag(f"resumed.{name}", text)
            for name, text in texts.items()
            if there.get(name, text) != text
        ]
        new = [Param(name, text) for name, text in texts.items() if name not in there]
        # At least one request: the tags go with the first, also where no parameter is new.
        for start in range(0, max(len(new), 1), _PARAMETERS_PER_REQUEST):
            self.client.log_batch(
                self.id,
                params=new[start : start + _PARAMETERS_PER_REQUEST],
                tags=tags if start == 0 else [],
            )

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None, **_: Any) -> None:
        """What Ignite's handlers call; they part tag and name by a space, which MLflow's pages don't group by."""
        self.note(
            {name.replace(" ", "/", 1): value for name, value in metrics.items()}, int(step or 0)
        )

    def deliver(self, points: Sequence[Point]) -> None:
        metrics = list(_metrics(points))
        if self._uncertain:
            metrics = self._missing(metrics)
        # Cleared only after the request: one that raises leaves it set for the next trial.
        self._uncertain = True
        if metrics:
            self.client.log_batch(self.id, metrics=metrics)
        self._uncertain = False
        self.mark(points)

    def _missing(self, metrics: Sequence[Any]) -> list[Any]:
        there = {
            (name, metric.step, metric.timestamp)
            for name in {metric.key for metric in metrics}
            for metric in self.client.get_metric_history(self.id, name)
        }
        return [
            metric for metric in metrics if (metric.key, metric.step, metric.timestamp) not in there
        ]

    def refused(self, error: Exception) -> bool:
        """Client errors are final, except a time limit and too many requests."""
        from mlflow.exceptions import MlflowException

        # Other errors, such as a broken connection, count as 500 and are tried again.
        code = error.get_http_status_code() if isinstance(error, MlflowException) else 500
        return 400 <= code < 500 and code not in _TRANSIENT_CODES

    def deliver_results(self, results: RunResults) -> None:
        self.deliver([results.scores])
        for path in results.files:
            self.client.log_artifact(self.id, str(path))
        for path in results.pictures:
            self.client.log_artifact(self.id, str(path), "plots")
        if results.checkpoint is not None:
            self.client.log_artifact(self.id, str(results.checkpoint), "checkpoints")
            if not is_object_name(str(self._model)):  # checkpoints never import user code
                with tempfile.TemporaryDirectory() as folder:
                    save_mlflow_model(Path(folder) / "model", results.checkpoint)
                    self.client.log_artifacts(self.id, str(Path(folder) / "model"), "model")

    def close_record(self, status: str) -> None:
        import mlflow

        try:
            if not self.joined:
                mlflow.end_run({"finished": "FINISHED", "stopped": "KILLED"}.get(status, "FAILED"))
        finally:
            self._restore_environment()

    def _restore_environment(self) -> None:
        for name, value in self._replaced.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _metrics(points: Iterable[Point]) -> Iterable[Any]:
    from mlflow.entities import Metric

    for point in points:
        for name, value in point.values.items():
            if not math.isinf(value):  # it would be stored as 1.8e308
                yield Metric(name, value, point.time_ms, point.step)


def _check_file_store(place: str) -> None:
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        mlflow.MlflowClient(place).search_experiments(max_results=1)
    except MlflowException as error:
        raise ConfigError(
            f"--track mlflow: MLFLOW_TRACKING_URI is {place}, and MLflow refuses it: {' '.join(str(error).split())}"
        ) from None


def _git_commit() -> str | None:
    """The commit of the repository that the run was started in; None outside of one, or without git."""
    try:
        finished = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return finished.stdout.strip()


def _absolute(place: str) -> str:
    """A database's address, also where a resume is started from another folder."""
    name = place.removeprefix("sqlite:///")
    return place if name == place else f"sqlite:///{Path(name).absolute()}"


def _silent(place: str) -> str | None:
    """Why a tracking server does not answer; None where it does, or where none is named."""
    return (
        no_answer(place.rstrip("/") + "/health")
        if place.startswith(("http://", "https://"))
        else None
    )
