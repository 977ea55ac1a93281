"""Rows A1 to A4, night form: killed at random and at every point, over and over."""

import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import processes
import support
from bench import EVERY, LOADER, Bench, Row, progress, saved_at

from fer_ignite.checkpoint.failpoints import POINTS

__all__ = ["every_boundary", "kills_in_a_row", "named_points", "random_kills"]


def random_kills(bench: Bench, trials: int) -> Iterator[Row]:
    """A1."""
    same, lost, where, missed = 0, 0, Counter[str](), 0
    for trial in range(trials):
        draw = random.Random(1000 + trial)
        nproc = 1 if trial % 5 == 4 else 2
        target = "0" if nproc == 1 else ("launcher", "0", "1", "all")[trial % 5]
        settings, place = bench.settings(nproc)
        kill = f"{target}:{draw.randint(1, support.STEPS)}:{draw.uniform(0, 50):.1f}"
        environment = {"FER_TEST_FOLDER": str(place), "FER_TEST_KILL": kill}
        command = bench.server.start(
            {**settings, "handlers": "handlers:kill_at"}, place / "log", **environment
        )
        command.wait()
        gone = processes.all_gone(command.pid)
        if (place / "phase.txt").exists():
            at, phase = (place / "phase.txt").read_text().split(maxsplit=1)
            where[phase] += 1
            lost = max(lost, int(at) - saved_at(place / "run"))
        else:
            missed += 1
        same += gone and bench.resumes_to_the_same(settings, place, nproc)
        progress(f"A1 {trial + 1}/{trials}, {same} bit-exact")
    yield "A1 random SIGKILL", f"{trials}/{trials} bit-exact", f"{same}/{trials}"
    yield "A1 iterations lost", f"<= {EVERY} (one more where a save was cut)", f"{lost}"
    fell = ", ".join(f"{phase} {count}" for phase, count in where.most_common()) + (
        f", after the end {missed}" if missed else ""
    )
    yield "A1 where they fell", "most in training, some in saves and validation", fell


def named_points(bench: Bench, trials: int) -> Iterator[Row]:
    """A2: at each point of a save, in validation, in a resume, on both ranks."""
    same, tried = 0, [(point, rank) for point in POINTS for rank in (0, 1)]
    for point, rank in tried:
        settings, place = bench.settings(2)
        iteration = 7 if point.startswith("best") else 14
        first = settings
        if point == "during-resume":
            assert bench.server.run(settings, place / "log", FER_FAULT="before-prune:0:10") != 0
            first, iteration = {**settings, "resume": "auto"}, 1
        code = bench.server.run(first, place / "log", FER_FAULT=f"{point}:{rank}:{iteration}")
        same += (
            code != 0
            and saved_at(place / "run") > 0
            and bench.resumes_to_the_same(settings, place, 2)
        )
        progress(f"A2 {point} rank {rank}, {same} bit-exact")
    yield "A2 named points", f"{len(tried)}/{len(tried)} bit-exact", f"{same}/{len(tried)}"


def every_boundary(bench: Bench, trials: int) -> Iterator[Row]:
    """A3: gone on from the disk as SIGKILL leaves it at each iteration's start, with 0, 1 and 2 loader processes."""
    same, tried = 0, 0
    for nproc in (1, 2):
        for workers in (0, 1, 2):
            changed = {**LOADER, "workers": workers} if workers else {}
            settings, whole = bench.settings(nproc, save_iterations=1, **changed)
            setup = {"handlers": "handlers:note_losses,handlers:keep_snapshots"}
            code = bench.server.run(
                {**settings, **setup}, whole / "log", limit_s=300, FER_TEST_FOLDER=str(whole)
            )
            assert code == 0, (whole / "log").read_text()
            uncut, lines = support.final(whole / "run"), _noted(whole, nproc)
            for iteration in range(support.STEPS):
                place = bench.place()
                support.as_killed_after(whole / "at", iteration, place)
                again = {
                    **settings,
                    "out": str(place),
                    "resume": "auto",
                    "handlers": "handlers:note_losses",
                }
                code = bench.server.run(
                    again, place / "log", limit_s=120, FER_TEST_FOLDER=str(place)
                )
                rest = [[line for line in rank if _iteration(line) > iteration] for rank in lines]
                same += (
                    code == 0
                    and support.final(place / "run") == uncut
                    and _noted(place, nproc) == rest
                )
                tried += 1
                shutil.rmtree(place)
                progress(
                    f"A3 {nproc} processes, {workers} loaders each, iteration {iteration}: {same}/{tried} bit-exact"
                )
            bench.forget(whole)
    yield (
        "A3 every boundary, 1 and 2 processes, 0, 1, 2 loaders",
        "126/126 bit-exact, same faces in order",
        f"{same}/{tried}",
    )


def _noted(place: Path, nproc: int) -> list[list[str]]:
    """Per process the lines of ``note_losses``: loss in hex and places of the faces, in order."""
    return [(place / f"losses-{rank}.jsonl").read_text().splitlines() for rank in range(nproc)]


def _iteration(line: str) -> int:
    return int(line.partition('"iteration": ')[2].partition(",")[0])


def kills_in_a_row(bench: Bench, trials: int) -> Iterator[Row]:
    """A4."""
    same, runs = 0, max(1, trials // 10)
    for trial in range(runs):
        draw, (settings, place), before = random.Random(trial), bench.settings(2), 0
        forward = True
        for _ in range(5):
            low = min(before + 1, support.STEPS)
            fault = f"{draw.choice(POINTS)}:{draw.randint(0, 1)}:{draw.randint(low, min(low + 6, support.STEPS))}"
            bench.server.run({**settings, "resume": "auto"}, place / "log", FER_FAULT=fault)
            now = saved_at(place / "run")
            forward, before = forward and now >= before, now
        same += forward and bench.resumes_to_the_same(settings, place, 2)
        progress(f"A4 {trial + 1}/{runs}, {same} bit-exact")
    yield "A4 five SIGKILLs in a row", f"{runs}/{runs} bit-exact, never backwards", f"{same}/{runs}"
