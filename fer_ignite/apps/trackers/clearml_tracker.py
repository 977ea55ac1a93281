"""ClearML tracker, online or offline (``CLEARML_OFFLINE_MODE=1``)."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.handlers.clearml_logger import ClearMLLogger

from fer_ignite.apps.trackers.offline import clearml_reached
from fer_ignite.apps.trackers.tracker import RunResults, Tracker, no_answer
from fer_ignite.apps.trackers.upload_queue import Point
from fer_ignite.errors import ConfigError
from fer_ignite.imports import require_library

__all__ = ["ClearmlTracker"]

# Nothing of the process is patched: no torch.save that uploads, no arguments taken over, no console captured.
_HANDS_OFF = dict.fromkeys(
    (
        "auto_connect_frameworks",
        "auto_connect_arg_parser",
        "auto_connect_streams",
        "auto_resource_monitoring",
    ),
    False,
)


class ClearmlTracker(Tracker, ClearMLLogger):
    """A ClearML task; its iteration is the run's."""

    name = "clearml"
    title = "ClearML"

    @classmethod
    def check(cls, entry: Mapping[str, Any]) -> None:
        require_library("clearml", extra="track", purpose="--track clearml")
        if _offline():
            return
        if not (
            os.environ.get("CLEARML_API_ACCESS_KEY")
            or os.environ.get("CLEARML_AUTH_TOKEN")
            or _config_file().exists()
        ):
            raise ConfigError(
                "--track clearml: ClearML isn't set up; run 'clearml-init' once, or set CLEARML_OFFLINE_MODE=1."
            )
        if reason := _silent():
            raise ConfigError(
                f"--track clearml: {reason}; set CLEARML_OFFLINE_MODE=1, and import the session later."
            )

    def unreachable_reason(self) -> str | None:
        reason = None if _offline() else _silent()
        return reason and f"ClearML does not answer any more ({reason})"

    def open_record(self, settings: Mapping[str, Any]) -> str:
        from clearml import Task

        entry = self.register.entry(self.name)
        known = entry.get("id")
        # An offline session can't be opened again; a new one is, and both are imported into one task.
        online = known if known and not _offline() and not known.startswith("offline-") else None
        # ClearML forks a process for its reports while another of its threads starts `git`: the fork keeps that call's
        # pipe open, and the end of the task waits 300 s for the thread. A thread sends the reports as well; clearml 2.1.12
        # reads no environment variable for it.
        Task._report_subprocess_enabled = False
        # the user's own, around train(); it is not ours to end
        self.joined = Task.current_task() is not None
        ClearMLLogger.__init__(
            self,
            project_name=self.project or os.environ.get("CLEARML_PROJECT") or "fer_ignite",
            task_name=self.run_name,
            reuse_last_task_id=online or False,
            # 0 is an offset: with True ClearML adds the last iteration to each one that is reported.
            continue_last_task=0 if online else False,
            **_HANDS_OFF,
        )
        self.task = self.get_task()
        self.sender = self.task.get_logger()
        self.clearml_logger: Any = _LoggerProxy(self)
        self.task.set_parameters(
            {f"General/{name}": str(value) for name, value in settings.items()}
        )
        place = (
            str(self.task.get_offline_mode_folder())
            if _offline()
            else str(self.task.get_output_log_web_page())
        )
        if known is not None and (online or _offline()):
            if _offline():
                self.continue_offline(entry, clearml_reached)
            else:
                self.continue_from(entry.get("reached", {}))
            self.register.note(
                self.name, places=list(dict.fromkeys([*entry.get("places", []), place]))
            )
        else:
            self.register.begin(self.name, id=self.task.id, places=[place])
        return place

    def deliver(self, points: Sequence[Point]) -> None:
        for point in points:
            for name, value in point.values.items():
                title, _, series = name.partition("/")
                self.sender.report_scalar(title, series or title, value, point.step)
        self.mark(points)

    def deliver_results(self, results: RunResults) -> None:
        self.deliver([results.scores])
        for path in results.files:
            self.task.upload_artifact(path.stem, str(path))
        for path in results.pictures:
            self.sender.report_image(
                "plots", path.stem, iteration=results.scores.step, local_path=str(path)
            )
        if results.checkpoint is not None:
            self.task.upload_artifact("best", str(results.checkpoint))

    def close_record(self, status: str) -> None:
        if self.joined or self.unreachable_reason():
            return
        # Before close(), which marks a running task as completed.
        if status == "failed" and not _offline():
            self.task.mark_failed(force=True)
        self.task.close()


class _LoggerProxy:
    """In the place where Ignite's handlers expect ClearML's own logger."""

    def __init__(self, tracker: ClearmlTracker) -> None:
        self._tracker = tracker

    def report_scalar(self, title: str, series: str, value: float, iteration: int) -> None:
        # Ignite names a learning rate by its group's number alone.
        self._tracker.note(
            {f"{title}/{f'group_{series}' if title == 'lr' else series}": value}, iteration
        )


def _offline() -> bool:
    from clearml import Task

    return bool(Task.is_offline())


def _config_file() -> Path:
    return Path(os.environ.get("CLEARML_CONFIG_FILE") or Path.home() / "clearml.conf")


def _silent() -> str | None:
    from clearml.backend_api.session.session import Session

    return no_answer(Session.get_api_server_host())
