"""Rows A11, A12 and B3, night form: restarts by torchrun, two of its agents, processes that hang."""

import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import processes
import support
from bench import Bench, Row, progress, signalled_s

__all__ = ["hung_processes", "restarts", "two_agents"]

RESTARTS = 3
POINTS = (
    "before-open",
    "mid-write",
    "after-rename",
    "after-dirsync",
    "during-validation",
    "best-after-fsync",
)


def restarts(bench: Bench, trials: int) -> Iterator[Row]:
    """A11: three SIGKILLs on alternating ranks, standalone and with a fixed port."""
    runs, same, slowest = max(2, trials // 10), 0, 0.0
    settings, place = _joined(bench)
    started_s = time.monotonic()
    assert (
        processes.torchrun(
            settings, place / "log", "--standalone", limit_s=200, **_environment(place)
        )
        == 0
    )
    undisturbed_s = time.monotonic() - started_s
    for trial in range(runs):
        draw = random.Random(trial)
        faults = [
            f"{draw.choice(POINTS)}:{attempt % 2}:{5 + 5 * attempt}:{attempt}"
            for attempt in range(RESTARTS)
        ]
        where = (
            ("--standalone",)
            if trial % 2 == 0
            else ("--master-addr=127.0.0.1", f"--master-port={_free_port()}")
        )
        settings, place = _joined(bench)
        environment = {"FER_FAULT": ",".join(faults), **_environment(place)}
        started_s = time.monotonic()
        agent = (*where, f"--max-restarts={RESTARTS}")
        code = processes.torchrun(settings, place / "log", *agent, limit_s=300, **environment)
        slowest = max(slowest, (time.monotonic() - started_s - undisturbed_s) / RESTARTS)
        right = code == 0 and support.final(place / "run") == bench.uncut(2)
        same += right
        if right:
            bench.forget(place)
        progress(f"A11 {trial + 1}/{runs}, {same} bit-exact, {slowest:.1f} s per restart")
    yield (
        f"A11 torchrun --max-restarts, {RESTARTS} SIGKILLs",
        f"{runs}/{runs} exit 0, bit-exact",
        f"{same}/{runs}",
    )
    yield (
        "A11 slowest, per restart",
        "<= 10 s",
        f"{slowest:.1f} s, of which a start of Python and torch",
    )


def two_agents(bench: Bench, trials: int) -> Iterator[Row]:
    """A12: two agents on loopback with a process each, as two machines; and one of them loses its process."""
    bench.uncut(2)
    settings, place = _joined(bench)
    codes, _ = _two(settings, place)
    same = codes == [0, 0] and support.final(place / "run") == bench.uncut(2)
    alone, single = _joined(bench)
    assert (
        processes.torchrun(
            alone, single / "log", "--standalone", limit_s=200, **_environment(single)
        )
        == 0
    )
    losses = support.build_loss_from_config(place) == support.build_loss_from_config(single)
    yield (
        "A12 two torchrun agents",
        "losses and digest as with one agent",
        "equal" if same and losses else f"{codes}, {same}, {losses}",
    )
    runs, ended, slowest = 4, 0, 0.0
    for trial in range(runs):
        settings, place = _joined(bench)
        point = "after-dirsync" if trial % 4 < 1 else "during-validation"  # only rank 0 saves
        codes, seconds = _two(settings, place, FER_FAULT=f"{point}:{trial % 2}:5")
        ended += 0 not in codes and seconds <= 40
        slowest = max(slowest, seconds)
        progress(
            f"A12 {trial + 1}/{runs}, exit codes {codes}, {slowest:.1f} s from the first end to the second"
        )
    yield (
        "A12 a process of one agent dies",
        f"{runs}/{runs} both non-zero in <= 40 s",
        f"{ended}/{runs}, slowest {slowest:.1f} s",
    )


def hung_processes(bench: Bench, trials: int) -> Iterator[Row]:
    """B3: a process stops answering, without dying."""
    tried = [(launcher, rank) for launcher in ("fork", "torchrun") for rank in (0, 1)]
    ended, slowest = 0, 0.0
    for launcher, rank in tried:
        settings, place = bench.settings(2, handlers="handlers:signal_at")
        settings["dist_timeout"] = "10s"
        environment = {"FER_TEST_SIGNAL": f"rank {rank}:9:SIGSTOP", **_environment(place)}
        if launcher == "fork":
            command = bench.server.start(settings, place / "log", **environment)
            code, pid = command.wait(300), command.pid
        else:
            settings = {
                name: value
                for name, value in settings.items()
                if name not in ("nproc", "start_method")
            }
            process = processes.start_torchrun(settings, place / "log", **environment)
            code, pid = process.wait(300), process.pid
        seconds = time.time() - signalled_s(place)
        ended += code != 0 and seconds <= 25 and processes.all_gone(pid)
        slowest = max(slowest, seconds)
        progress(f"B3 {launcher} rank {rank}: {code} after {seconds:.1f} s, {ended}/{len(tried)}")
    target = f"{len(tried)}/{len(tried)} end in <= 25 s, 0 left"
    yield "B3 SIGSTOP, --dist-timeout 10", target, f"{ended}/{len(tried)}, slowest {slowest:.1f} s"


def _joined(bench: Bench) -> tuple[dict[str, Any], Path]:
    """Settings of a run whose processes torchrun starts."""
    settings, place = bench.settings(1, dist_timeout="30s", handlers="handlers:note_losses")
    return settings, place


def _environment(place: Path) -> dict[str, str]:
    (place / "tmp").mkdir(exist_ok=True)
    return {"FER_TEST_FOLDER": str(place), "TMPDIR": str(place / "tmp")}


def _two(settings: dict[str, Any], place: Path, **environment: str) -> tuple[list[int], float]:
    """Exit codes of two agents with one process each, and seconds between their ends."""
    agent = (
        "--nnodes=2",
        "--nproc-per-node=1",
        "--master-addr=127.0.0.1",
        f"--master-port={_free_port()}",
    )
    environment = {**_environment(place), "GLOO_SOCKET_IFNAME": "lo", **environment}
    agents = [
        processes.start_torchrun(
            settings, place / f"log-{node}", *agent, f"--node-rank={node}", **environment
        )
        for node in (0, 1)
    ]
    codes: dict[int, int] = {}
    ends: list[float] = []
    until = time.monotonic() + 300
    while len(codes) < 2 and time.monotonic() < until:
        for node, process in enumerate(agents):
            if node not in codes and process.poll() is not None:
                codes[node] = process.returncode
                ends.append(time.monotonic())
        time.sleep(0.05)
    for process in agents:
        process.kill()
    return [codes.get(node, 0) for node in (0, 1)], ends[-1] - ends[0] if len(ends) == 2 else 300.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
