"""Rows A7 to A9, night form: signals to everybody, at any moment, once and twice."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import processes
import support
from bench import LOADER, Bench, Row, progress, signalled_s, stopped_in_order, wait_until

from fer_ignite.checkpoint.format import newest_valid

__all__ = ["second_signals", "signals", "signals_out_of_turn"]

TARGETS, SIGNALS = ("launcher", "rank 0", "rank 1", "group"), (signal.SIGTERM, signal.SIGINT)


def signals(bench: Bench, trials: int) -> Iterator[Row]:
    """A7: every target and signal, under real spawn and real torchrun."""
    repeats = max(1, trials // 20)
    for launcher in ("spawn", "torchrun"):
        same, slowest = 0, 0.0
        tried = [(target, signum.name) for target in TARGETS for signum in SIGNALS] * repeats
        for number, (target, name) in enumerate(tried):
            settings, place = bench.settings(2)
            iteration = random.Random(number).randint(2, support.STEPS - 4)
            signalled = {"FER_TEST_SIGNAL": f"{target}:{iteration}:{name}", **_environment(place)}
            code, seconds, left = _cut(launcher, settings, place, signalled)
            right = code == 128 + signal.Signals[name] if launcher == "spawn" else code != 0
            slowest = max(slowest, seconds)
            whole = right and not left and seconds <= 10 and stopped_in_order(place, 2)
            same += whole and bench.resumes_to_the_same(settings, place, 2)
            progress(
                f"A7 {launcher} {target} {name} {number + 1}/{len(tried)}, {same} right and bit-exact, {slowest:.1f} s"
            )
        target = "right code, none lost, same iteration, bit-exact"
        yield (
            f"A7 signals, {launcher}",
            f"{len(tried)}/{len(tried)} {target}",
            f"{same}/{len(tried)}",
        )
        yield f"A7 slowest end, {launcher}", "<= 10 s", f"{slowest:.1f} s"


def _environment(place: Path) -> dict[str, str]:
    (place / "tmp").mkdir()
    return {"FER_TEST_FOLDER": str(place), "TMPDIR": str(place / "tmp")}


def _cut(
    launcher: str, settings: dict[str, Any], place: Path, environment: dict[str, str]
) -> tuple[int, float, bool]:
    """Exit code of a real start that signals itself, seconds from the signal to the end, whether a process is left."""
    noting = {**settings, "handlers": "handlers:note_losses,handlers:signal_at"}
    if launcher == "torchrun":
        for name in ("nproc", "start_method"):
            del noting[name]
        process = processes.start_torchrun(noting, place / "log", **environment)
    else:
        process = processes.real_command(
            {**noting, "start_method": "spawn"}, place / "log", **environment
        )
    code = process.wait(200)
    ended_s = time.time()
    return code, ended_s - signalled_s(place), not processes.all_gone(process.pid, 2)


def second_signals(bench: Bench, trials: int) -> Iterator[Row]:
    """A8: the second signal falls while a large resume point is being written."""
    same, slowest, fell, runs = 0, 0.0, 0, max(1, trials // 10)
    changed = {"handlers": "handlers:carry_ballast"}
    for trial in range(runs):
        nproc = 1 + trial % 2
        settings, place = bench.settings(nproc, **changed)
        draft = _draft(place)
        command = bench.server.start(settings, place / "log", FER_TEST_FOLDER=str(place))
        # The first save, of iteration 5, is to be whole: it is what must stay intact.
        wait_until((place / "run" / "checkpoints" / "last.pt").exists)
        os.kill(command.pid, signal.SIGTERM)
        fell += wait_until(draft, 20)
        second_s = time.monotonic()
        os.kill(command.pid, SIGNALS[trial % 2])
        code, seconds = command.wait(), time.monotonic() - second_s
        slowest = max(slowest, seconds)
        found = newest_valid(place / "run" / "checkpoints")
        whole = code != 0 and seconds <= 2 and found is not None and not found.skipped
        same += (
            whole
            and processes.all_gone(command.pid, 2)
            and bench.resumes_to_the_same(settings, place, nproc, **changed)
        )
        progress(f"A8 {trial + 1}/{runs}, {same} intact, {fell} in a save, {slowest:.1f} s")
    yield (
        "A8 second signal while saving",
        f"{runs}/{runs} previous checkpoint intact, bit-exact",
        f"{same}/{runs}, {fell} in a save",
    )
    yield "A8 slowest end", "<= 2 s", f"{slowest:.1f} s"


def _draft(place: Path) -> Callable[[], bool]:
    """Whether a checkpoint is being written."""
    return lambda: any((place / "run" / "checkpoints").glob("*.tmp"))


def signals_out_of_turn(bench: Bench, trials: int) -> Iterator[Row]:
    """A9: in the scan of the data, at the rendezvous, at the start of loaders, in validation, in a save."""
    tried = [(phase, signum) for phase in _PHASES for signum in SIGNALS]
    same, slowest = 0, 0.0
    for phase, signum in tried:
        place = bench.place()
        code, seconds = _PHASES[phase](bench, place, signum)
        slowest = max(slowest, seconds)
        found = (
            newest_valid(place / "run" / "checkpoints")
            if (place / "run" / "checkpoints").exists()
            else None
        )
        named = found is None or (found.path.name.startswith("step-") and not found.skipped)
        right = code != 0 and seconds <= 10 and named
        same += right
        progress(f"A9 {phase} {signum.name}: {code} after {seconds:.1f} s, {same}/{len(tried)}")
        if right:
            bench.forget(place)
    yield (
        "A9 signals out of turn",
        f"{len(tried)}/{len(tried)} non-zero, no draft taken for a checkpoint",
        f"{same}/{len(tried)}",
    )
    yield "A9 slowest end", "<= 10 s", f"{slowest:.1f} s"


def _ended(process: "subprocess.Popen[bytes]", signum: int) -> tuple[int, float]:
    """Sends the signal; exit code, or 0 where a process is left, and seconds until the end."""
    started_s = time.monotonic()
    os.kill(process.pid, signum)
    code = process.wait(60)
    return code if processes.all_gone(process.pid) else 0, time.monotonic() - started_s


def _in_scan(bench: Bench, place: Path, signum: int) -> tuple[int, float]:
    data, cache = support.write_faces(place / "many.csv", train=6000), place / "cache"
    process = processes.real_command(
        support.settings(data, place), place / "log", FER_IGNITE_CACHE=str(cache)
    )
    wait_until(lambda: cache.exists() and any(cache.iterdir()))
    return _ended(process, signum)


def _at_rendezvous(bench: Bench, place: Path, signum: int) -> tuple[int, float]:
    settings = support.settings(bench.faces, place, nproc=2)
    process = processes.real_command(settings, place / "log", **_environment(place))
    wait_until(lambda: any((place / "tmp").glob("fer-ignite-launch-*/rendezvous")))
    return _ended(process, signum)


def _at_loader_start(bench: Bench, place: Path, signum: int) -> tuple[int, float]:
    settings = support.settings(bench.faces, place, workers=2, epochs=50, **LOADER)
    process = processes.real_command(settings, place / "log", FER_TEST_FOLDER=str(place))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(lambda: (place / "run" / "config.yaml").exists() and children.read_text().split())
    return _ended(process, signum)


def _in_validation(bench: Bench, place: Path, signum: int) -> tuple[int, float]:
    settings = support.settings(
        bench.faces, place, nproc=2, start_method="fork", handlers="handlers:wait_in_validation"
    )
    process = processes.real_command(settings, place / "log", FER_TEST_FOLDER=str(place))
    wait_until(lambda: (place / "validating").exists())
    return _ended(process, signum)


def _in_save(bench: Bench, place: Path, signum: int) -> tuple[int, float]:
    settings = support.settings(
        bench.faces, place, save_iterations=5, handlers="handlers:carry_ballast"
    )
    process = processes.real_command(settings, place / "log", FER_TEST_FOLDER=str(place))
    wait_until(_draft(place))
    return _ended(process, signum)


_PHASES = {
    "scan": _in_scan,
    "rendezvous": _at_rendezvous,
    "loaders": _at_loader_start,
    "validation": _in_validation,
    "save": _in_save,
}
