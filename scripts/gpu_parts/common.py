"""Rows of the GPU check, and what all parts share: device, data, sizes and the time that is left."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        status: ok, fails or skipped.
        figure: what was measured, or the reason.
        postponed: the time was over before it was measured; the next check runs its part again.
    """

    name: str
    status: str
    figure: str
    postponed: bool = False


def judged(name: str, holds: bool, figure: str) -> Row:
    """A row that is ok where ``holds``, else fails."""
    return Row(name, "ok" if holds else "fails", figure)


def postponed(name: str) -> Row:
    """A row for which no time is left."""
    return Row(name, "skipped", "no time left; run the check again", postponed=True)


@dataclass
class Check:
    """One run of the check.

    Args:
        tiny: sizes that let every part run on a CPU within seconds.
        data: FER2013's csv, or drawn faces.
        work: folder of the runs; a second check continues what it finds there.
        ends: time.monotonic() at which --minutes are over.
    """

    device: torch.device
    tiny: bool
    data: str
    work: Path
    ends: float
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def real(self) -> bool:
        """Whether the data are FER2013's."""
        return not self.data.startswith("demo:")

    def left_s(self) -> float:
        return self.ends - time.monotonic()

    def settings(self, **changed: Any) -> dict[str, Any]:
        """Settings of a small run on drawn faces."""
        tiny = {"model_args": {"widths": [8, 8], "blocks": [0, 1]}} if self.tiny else {}
        return {
            "data": "demo:210" if self.tiny else "demo:700",
            "device": self.device.type,
            "out": str(self.work),
            "batch_size": 32,
            "plots": False,
            "tensorboard": False,
            "quiet": True,
            "threads": 1,
            **tiny,
            **changed,
        }

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


def run_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``fer-ignite`` in a process of its own, with one CPU thread."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-m", "fer_ignite", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **environment},
    )


def as_flags(settings: dict[str, Any]) -> list[str]:
    """Settings as ``--set`` arguments."""
    return [
        word
        for name, value in settings.items()
        for word in ("--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}")
    ]


Part = Callable[[Check], Iterator[Row]]
