"""``fer-ignite`` commands in processes of their own: started fast, killed, waited for, searched for what is left."""

import atexit
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the command line takes them."""
    pairs = [("--set", f"{name}={json.dumps(value)}") for name, value in settings.items()]
    return ["train", *(part for pair in pairs for part in pair)]


@dataclass
class Command:
    """One started command.

    Attributes:
        pid: of the process that was started; with ``--nproc`` that is the launcher, and it leads a session.
        log: its stdout and stderr.
    """

    pid: int
    log: Path
    server: "Server"

    def wait(self, limit_s: float = 60) -> int:
        """The exit code; a test that waits longer than ``limit_s`` fails."""
        return self.server.code_of(self.pid, limit_s)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def ranks(self) -> list[int]:
        """Process ids of the children, in the order of their ranks."""
        return sorted(pid for pid in session_of(self.pid) if parent_of(pid) == self.pid)


class Server:
    """Keeps ``server.py`` running and talks to it."""

    def __init__(self) -> None:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)]),
        }
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self.codes: dict[int, int] = {}
        self.buffer = b""
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)

    def start(self, settings: Mapping[str, Any], log: Path, **environment: str) -> Command:
        request = {"arguments": flags(settings), "log": str(log), "environment": environment}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        until = time.monotonic() + 60
        while not (started := [line["started"] for line in self._lines() if "started" in line]):
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.005)
        return Command(started[0], log, self)

    def run(
        self, settings: Mapping[str, Any], log: Path, *, limit_s: float = 60, **environment: str
    ) -> int:
        return self.start(settings, log, **environment).wait(limit_s)

    def code_of(self, pid: int, limit_s: float) -> int:
        until = time.monotonic() + limit_s
        while pid not in self.codes:
            self._lines()
            assert time.monotonic() < until, f"process {pid} still runs after {limit_s:g} s"
            time.sleep(0.005)
        return self.codes.pop(pid)

    def _lines(self) -> list[dict[str, int]]:
        assert self.process.stdout is not None
        self.buffer += self.process.stdout.read() or b""
        *lines, self.buffer = self.buffer.split(b"\n")
        values = [json.loads(line) for line in lines]
        self.codes.update({value["pid"]: value["code"] for value in values if "code" in value})
        return values

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


@lru_cache(maxsize=1)
def the_server() -> Server:
    """One for all tests of this session."""
    server = Server()
    atexit.register(server.close)
    return server


def _stat(pid: int) -> list[str]:
    return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()


def parent_of(pid: int) -> int:
    try:
        return int(_stat(pid)[1])
    except OSError:
        return 0


def session_of(leader: int) -> list[int]:
    """Living processes of the session that ``leader`` began."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = _stat(int(folder.name))
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] not in "ZX":
            found.append(int(folder.name))
    return found


def all_gone(leader: int, limit_s: float = 10) -> bool:
    """Whether no process of the session is left, after ``limit_s`` at the latest."""
    until = time.monotonic() + limit_s
    while session_of(leader):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def torchrun(
    settings: Mapping[str, Any], log: Path, *agent: str, limit_s: float = 90, **environment: str
) -> int:
    """A real torchrun of the command with two processes; the exit code."""
    process = start_torchrun(settings, log, *agent, **environment)
    try:
        return process.wait(limit_s)
    finally:
        process.kill()


def start_torchrun(
    settings: Mapping[str, Any], log: Path, *agent: str, **environment: str
) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        *(agent or ("--standalone",)),
    ]
    return _started([*command, "-m", "fer_ignite", *flags(settings)], log, environment)


def real_command(
    settings: Mapping[str, Any], log: Path, **environment: str
) -> subprocess.Popen[bytes]:
    """The command in a fresh interpreter, as a user starts it."""
    return _started([sys.executable, "-m", "fer_ignite", *flags(settings)], log, environment)


def _started(
    command: Sequence[str], log: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    paths = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **environment},
        )
