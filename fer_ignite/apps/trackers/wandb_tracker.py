"""Weights & Biases tracker, online or offline (``WANDB_MODE=offline``)."""

import configparser
import contextlib
import netrc
import os
import re
import secrets
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ignite.handlers.wandb_logger import WandBLogger

from fer_ignite.apps.trackers.offline import wandb_reached
from fer_ignite.apps.trackers.tracker import RunResults, Tracker, no_answer
from fer_ignite.apps.trackers.upload_queue import Point
from fer_ignite.errors import ConfigError
from fer_ignite.imports import require_library

__all__ = ["WandbTracker"]

_OPENING_S = 60
_FINISH_S = 120


class WandbTracker(Tracker, WandBLogger):
    """A run of Weights & Biases; its step is the iteration."""

    name = "wandb"
    title = "Weights & Biases"

    @classmethod
    def check(cls, entry: Mapping[str, Any]) -> None:
        require_library("wandb", extra="track", purpose="--track wandb")
        if not _online():
            return
        if not (_setting("api_key") or _setting("identity_token_file") or _in_netrc(_server())):
            raise ConfigError(
                "--track wandb: there is no API key; run 'wandb login' once, or set WANDB_MODE=offline."
            )
        if reason := no_answer(_server()):
            raise ConfigError(
                f"--track wandb: {reason}; set WANDB_MODE=offline, and 'wandb sync' the run later."
            )

    def open_record(self, settings: Mapping[str, Any]) -> str:
        import wandb

        entry = self.register.entry(self.name)
        own = wandb.run  # the user's, around train(); it is not ours to end
        self.joined = own is not None
        known = str(own.id) if own is not None else str(entry.get("id") or secrets.token_hex(4))
        # kept first: a start that dies in between is continued, not doubled
        if known != entry.get("id"):
            entry = {}
            self.register.begin(self.name, id=known)
        WandBLogger.__init__(
            self,
            project=self.project or os.environ.get("WANDB_PROJECT") or "fer_ignite",
            name=self.run_name,
            id=known,
            # W&B looks the run up on its server, which an offline start does not reach.
            resume="allow" if _online() else None,
            dir=os.environ.get("WANDB_DIR") or str(self.folder),
            config=dict(settings),
            # A resume may change settings, such as the number of epochs.
            allow_val_change=True,
            settings=wandb.Settings(**_settings(wandb.Settings.model_fields)),
        )
        self.tracked = self._wandb.run
        place = str(
            self.tracked.url if _online() else Path(self.tracked.settings.sync_dir).absolute()
        )
        self.register.note(self.name, places=list(dict.fromkeys([*entry.get("places", []), place])))
        if _online():
            self.continue_from(entry.get("reached", {}))
        else:
            self.continue_offline(entry, wandb_reached)
        return place

    def log(self, values: Mapping[str, Any], step: int | None = None, **_: Any) -> None:
        """What Ignite's handlers call."""
        self.note(values, int(step or 0))

    def deliver(self, points: Sequence[Point]) -> None:
        for point in points:
            self.tracked.log(dict(point.values), step=point.step)
        self.mark(points)

    def deliver_results(self, results: RunResults) -> None:
        import wandb

        shown = {f"plots/{path.stem}": wandb.Image(str(path)) for path in results.pictures}
        self.tracked.log({**results.scores.values, **shown}, step=results.scores.step)
        self.tracked.summary.update(dict(results.scores.values))
        self.mark([results.scores])
        # Artifacts, which are copied: run.save would make links to files that a resume replaces.
        for kind, paths in (
            ("files", results.files),
            ("best", [results.checkpoint] if results.checkpoint else []),
        ):
            artifact = wandb.Artifact(
                _artifact_name(f"{self.run_name}-{kind}"), type="model" if kind == "best" else "run"
            )
            for path in paths:
                artifact.add_file(str(path))
            if paths:
                self.tracked.log_artifact(artifact)

    def close_record(self, status: str) -> None:
        if not self.joined:
            self.tracked.finish(exit_code=1 if status == "failed" else 0)


def _settings(known: Container[str]) -> dict[str, Any]:
    # A kill loses what W&B has not written yet: by its own settings 15 seconds.
    requested = {
        "console": "off",
        "silent": True,
        "init_timeout": _OPENING_S,
        "finish_timeout": _FINISH_S,
        "x_transaction_log_flush_interval": 1.0,
    }
    # Settings that begin with x_ are internal to W&B, and not in every version.
    return {name: value for name, value in requested.items() if name in known}


def _artifact_name(text: str) -> str:
    return re.sub(r"[^\w.-]", "-", text)[:128]  # what W&B allows in one


def _online() -> bool:
    return _setting("mode", "online") in ("online", "run", "shared")


def _server() -> str:
    return _setting("base_url", "https://api.wandb.ai").rstrip("/")


def _setting(name: str, default: str = "") -> str:
    """A setting of W&B as `wandb.init` resolves it: the environment's, the current folder's file, the user's file.

    `wandb offline` and `wandb login --host` write these files. They are read here because `wandb.setup()` starts a process, and
    reads the environment only once.
    """
    config = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    local = Path(".wandb") if Path(".wandb").is_dir() else Path("wandb")
    values: dict[str, str] = {}
    for file in (config / "settings", local / "settings"):
        parser = configparser.ConfigParser(interpolation=None)
        # W&B takes a file that it can't read for empty, and prints a warning.
        with contextlib.suppress(OSError, UnicodeDecodeError, configparser.Error):
            parser.read(file)
            values |= dict(parser["default"]) if parser.has_section("default") else {}
    return os.environ.get(f"WANDB_{name.upper()}") or values.get(name) or default


def _in_netrc(server: str) -> bool:
    host = urlsplit(server).hostname or ""
    for path in (os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"):
        try:
            if path and netrc.netrc(str(path)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
