"""Rounds in turn: each contender is a process that makes a step on request, so that all share one machine fairly."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any

__all__ = ["Contender", "Pacer", "interleave", "spread"]

HERE = Path(__file__).parent


class Pacer:
    """In the contender: call :meth:`step` after every step; it waits between rounds and times inside of them."""

    def __init__(self) -> None:
        self.connection = Client(os.environ["BENCH_ADDRESS"], family="AF_UNIX")
        self.facts: dict[str, Any] = {}
        self.wait(ready=True)

    def wait(self, **said: Any) -> None:
        self.connection.send(said)
        order = self.connection.recv()
        if order is None:
            os._exit(0)
        self.warm, self.count = order
        self.done = 0
        if self.warm == 0:
            self.begin()

    def begin(self) -> None:
        self.facts = {}
        self.started = time.perf_counter()

    def step(self) -> None:
        self.done += 1
        if self.done == self.warm + self.count:
            self.wait(seconds=time.perf_counter() - self.started, **self.facts)
        elif self.done == self.warm:
            self.begin()

    def add(self, name: str, value: float) -> None:
        """Sums something up over the round."""
        self.facts[name] = self.facts.get(name, 0.0) + value


class Contender:
    """In the conductor: one process; :meth:`round` has it make ``warm + count`` steps and tells what ``count`` took."""

    def __init__(
        self,
        kind: str,
        settings: Mapping[str, Any],
        *,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        address = tempfile.mktemp(prefix="bench-", suffix=".sock")
        listener = Listener(address, family="AF_UNIX")
        command = [python, str(HERE / "contenders.py"), kind, json.dumps(settings)]
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  open as long as the process lives
        paths = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
        everything = {
            **os.environ,
            "PYTHONPATH": paths,
            "BENCH_ADDRESS": address,
            **(environment or {}),
        }
        started = time.perf_counter()
        self.process = subprocess.Popen(
            command, env=everything, stdout=self.log, stderr=self.log, cwd=tempfile.mkdtemp()
        )
        listener._listener._socket.settimeout(180)  # type: ignore[attr-defined]
        try:
            self.connection = listener.accept()
            self.connection.recv()
        except (OSError, EOFError):
            raise SystemExit(f"{kind} did not start:\n{self.said()}") from None
        self.start_s = time.perf_counter() - started

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-3000:]

    def round(self, warm: int, count: int) -> dict[str, Any]:
        try:
            self.connection.send((warm, count))
            result: dict[str, Any] = self.connection.recv()
        except (OSError, EOFError):
            raise SystemExit(f"a contender died:\n{self.said()}") from None
        return result

    def close(self) -> None:
        try:
            self.connection.send(None)
            self.process.wait(timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()


def interleave(
    contenders: Mapping[str, Contender], *, rounds: int, warm: int, count: int
) -> dict[str, list[dict[str, Any]]]:
    """``rounds`` rounds of each, in turn; the first round of all is thrown away."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            said = contender.round(warm, count if number else 1)
            if number:
                results[name].append(said)
    return results


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "n": len(values),
    }
