"""Fault rows, measured many times: prints a table of row, target and measured, and where the kills fell."""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]
os.environ.setdefault("FER_IGNITE_CACHE", tempfile.mkdtemp(prefix="fer-ignite-faults-"))

import processes  # noqa: E402
import support  # noqa: E402

from fer_ignite.faults import POINTS  # noqa: E402
from fer_ignite.training.checkpoints import newest_valid  # noqa: E402

EVERY = 5
Row = tuple[str, str, str]


class Bench:
    """The faces, the server, and what uncut runs ended with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.server = folder, processes.Server()
        self.faces = support.write_faces(folder / "faces.csv")
        self.known: dict[int, dict[str, Any]] = {}
        self.number = 0

    def settings(self, nproc: int) -> tuple[dict[str, Any], Path]:
        """Those of a new run in a folder of its own."""
        self.number += 1
        place = self.folder / str(self.number)
        place.mkdir()
        settings = support.settings(self.faces, place, save_iterations=EVERY, tensorboard=True)
        several = {"nproc": nproc, "start_method": "fork", "dist_timeout": "30s"} if nproc > 1 else {}
        return {**settings, **several}, place

    def uncut(self, nproc: int) -> dict[str, Any]:
        if nproc not in self.known:
            settings, place = self.settings(nproc)
            code = self.server.run(settings, place / "log")
            assert code == 0, (place / "log").read_text()
            self.known[nproc] = support.final(place / "run")
        return self.known[nproc]

    def resumes_to_the_same(self, settings: dict[str, Any], place: Path, nproc: int) -> bool:
        code = self.server.run({**settings, "resume": "auto"}, place / "log")
        return code == 0 and support.final(place / "run") == self.uncut(nproc)


def random_kills(bench: Bench, trials: int) -> Iterator[Row]:
    """A1."""
    same, lost, where, missed = 0, 0, Counter[str](), 0
    for trial in range(trials):
        draw = random.Random(1000 + trial)
        nproc = 1 if trial % 5 == 4 else 2
        target = "0" if nproc == 1 else ("launcher", "0", "1", "all")[trial % 5]
        settings, place = bench.settings(nproc)
        environment = {
            "FER_TEST_FOLDER": str(place),
            "FER_TEST_KILL": f"{target}:{draw.randint(1, support.STEPS)}:{draw.uniform(0, 50):.1f}",
        }
        command = bench.server.start({**settings, "handlers": "handlers:kill_at"}, place / "log", **environment)
        command.wait()
        gone = processes.all_gone(command.pid)
        if (place / "phase.txt").exists():
            at, phase = (place / "phase.txt").read_text().split(maxsplit=1)
            where[phase] += 1
            found = newest_valid(place / "run" / "checkpoints")
            lost = max(lost, int(at) - (0 if found is None else found.mapping["trainer"]["iteration"]))
        else:
            missed += 1
        same += gone and bench.resumes_to_the_same(settings, place, nproc)
        progress(f"A1 {trial + 1}/{trials}, {same} bit-exact")
    yield "A1 random SIGKILL", f"{trials}/{trials} bit-exact", f"{same}/{trials}"
    yield "A1 iterations lost", f"<= {EVERY} (one more where a save was cut)", f"{lost}"
    fell = ", ".join(f"{phase} {count}" for phase, count in where.most_common()) + (f", after the end {missed}" if missed else "")
    yield "A1 where they fell", "most in training, some in saves and validation", fell


def named_points(bench: Bench, trials: int) -> Iterator[Row]:
    """A2."""
    same, tried = 0, [(point, rank) for point in POINTS if point != "during-resume" for rank in (0, 1)]
    for point, rank in tried:
        settings, place = bench.settings(2)
        code = bench.server.run(settings, place / "log", FER_FAULT=f"{point}:{rank}:{7 if point.startswith('best') else 14}")
        same += code != 0 and bench.resumes_to_the_same(settings, place, 2)
        progress(f"A2 {point} rank {rank}, {same} bit-exact")
    yield "A2 named points", f"{len(tried)}/{len(tried)} bit-exact", f"{same}/{len(tried)}"


def every_boundary(bench: Bench, trials: int) -> Iterator[Row]:
    """A3: stopped by SIGTERM after each iteration, by 1 and 2 processes."""
    same, tried = 0, [(k, nproc) for nproc in (1, 2) for k in range(1, support.STEPS)]
    for iteration, nproc in tried:
        settings, place = bench.settings(nproc)
        target = "single" if nproc == 1 else f"rank {iteration % 2}"
        environment = {"FER_TEST_FOLDER": str(place), "FER_TEST_SIGNAL": f"{target}:{iteration}:SIGTERM"}
        code = bench.server.run({**settings, "handlers": "handlers:signal_at"}, place / "log", **environment)
        done = code == 0 and iteration == support.STEPS - 1  # it came too late to stop anything
        same += (code == 143 or done) and bench.resumes_to_the_same(settings, place, nproc)
        progress(f"A3 iteration {iteration}, {nproc} processes, {same} bit-exact")
    yield "A3 every boundary", f"{len(tried)}/{len(tried)} bit-exact", f"{same}/{len(tried)}"


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
            found = newest_valid(place / "run" / "checkpoints")
            now = 0 if found is None else found.mapping["trainer"]["iteration"]
            forward, before = forward and now >= before, now
        same += forward and bench.resumes_to_the_same(settings, place, 2)
        progress(f"A4 {trial + 1}/{runs}, {same} bit-exact")
    yield "A4 five SIGKILLs in a row", f"{runs}/{runs} bit-exact, never backwards", f"{same}/{runs}"


def signals(bench: Bench, trials: int) -> Iterator[Row]:
    """A7."""
    same, slowest = 0, 0.0
    tried = [(target, name) for target in ("launcher", "rank 0", "rank 1", "group") for name in ("SIGTERM", "SIGINT")] * 5
    for number, (target, name) in enumerate(tried):
        settings, place = bench.settings(2)
        iteration = random.Random(number).randint(2, support.STEPS - 4)
        environment = {"FER_TEST_FOLDER": str(place), "FER_TEST_SIGNAL": f"{target}:{iteration}:{name}"}
        command = bench.server.start({**settings, "handlers": "handlers:signal_at"}, place / "log", **environment)
        code, started_s = command.wait(), time.monotonic()
        gone = processes.all_gone(command.pid)
        slowest = max(slowest, time.monotonic() - started_s)
        right = code == 128 + signal.Signals[name]
        same += right and gone and bench.resumes_to_the_same(settings, place, 2)
        progress(f"A7 {target} {name}, {same} bit-exact")
    yield "A7 signals", f"{len(tried)}/{len(tried)} right code, bit-exact", f"{same}/{len(tried)}"


ROWS: dict[str, Callable[[Bench, int], Iterator[Row]]] = {
    "A1": random_kills, "A2": named_points, "A3": every_boundary, "A4": kills_in_a_row, "A7": signals,
}  # fmt: skip


def progress(text: str) -> None:
    print(f"\r{text:<100}", end="", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    parser.add_argument("--trials", type=int, default=100, help="random kills; a tenth of it for A4 [default: 100]")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"which, of {', '.join(ROWS)} [default: all]")
    options = parser.parse_args()
    rows: list[Row] = []
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fer-ignite-faults-") as folder:
        bench = Bench(Path(folder))
        for name in options.rows.split(","):
            rows += ROWS[name](bench, options.trials)
        bench.server.close()
    print(file=sys.stderr)
    for row in (("row", "target", "measured"), ("---", "---", "---"), *rows):
        print("| " + " | ".join(row) + " |")
    print(f"\n{(time.monotonic() - started_s) / 60:.1f} minutes, {os.cpu_count()} cores.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
