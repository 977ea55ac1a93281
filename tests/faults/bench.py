"""What the rows of ``scripts/faults`` share: the faces, the server, and what uncut runs ended with."""

import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import processes
import support

from fer_ignite.checkpoint.format import load_checkpoint, newest_valid

EVERY = 5  # iterations between resume points
LOADER = {"sample_transform": "handlers:shaken", "augment": False}
Row = tuple[str, str, str]


class Bench:
    """One folder, one server, and the ends of uncut runs, each computed once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.server = folder, processes.Server()
        self.faces = support.write_faces(folder / "faces.csv")
        self.known: dict[str, dict[str, Any]] = {}
        self.number = 0

    def place(self) -> Path:
        """A new folder."""
        self.number += 1
        (self.folder / str(self.number)).mkdir()
        return self.folder / str(self.number)

    def settings(self, nproc: int, **changed: Any) -> tuple[dict[str, Any], Path]:
        """Those of a new run in a folder of its own; several processes are forked by the server's child."""
        place = self.place()
        several = (
            {"nproc": nproc, "start_method": "fork", "dist_timeout": "30s"} if nproc > 1 else {}
        )
        given = {"save_iterations": EVERY, "tensorboard": True, **several, **changed}
        return support.settings(self.faces, place, **given), place

    def uncut(self, nproc: int, **changed: Any) -> dict[str, Any]:
        """What the run ends with when nothing happens to it."""
        key = repr((nproc, changed))
        if key not in self.known:
            settings, place = self.settings(nproc, **changed)
            code = self.server.run(settings, place / "log", limit_s=200, FER_TEST_FOLDER=str(place))
            assert code == 0, (place / "log").read_text()
            self.known[key] = support.final(place / "run")
            self.forget(place)
        return self.known[key]

    def resumes_to_the_same(
        self, settings: Mapping[str, Any], place: Path, nproc: int, **changed: Any
    ) -> bool:
        """Whether the run, resumed as often as it was cut, ends as the uncut one; its folder is then removed."""
        code = self.server.run(
            {**settings, "resume": "auto"}, place / "log", limit_s=200, FER_TEST_FOLDER=str(place)
        )
        same = code == 0 and support.final(place / "run") == self.uncut(nproc, **changed)
        if same:
            self.forget(place)
        return same

    def forget(self, place: Path) -> None:
        shutil.rmtree(place)


def saved_at(run: Path) -> int:
    """Iteration of the newest resume point that can be used, 0 where there is none."""
    found = newest_valid(run / "checkpoints")
    return 0 if found is None else int(found.mapping["trainer"]["iteration"])


def stopped_in_order(place: Path, nproc: int) -> bool:
    """Whether every process's last iteration is that of the newest resume point, and last.pt is it."""
    run, ends = place / "run", support.last_iterations(place)
    if saved_at(run) == 0:
        return False
    newest = support.newest(run)
    at = int(load_checkpoint(newest)["trainer"]["iteration"])
    whole = newest.name == f"step-{at}.pt" and (run / "checkpoints" / "last.pt").samefile(newest)
    return ends == [at] * nproc and whole and not list(run.rglob("*.tmp"))


def signalled_s(place: Path) -> float:
    """When ``signal_at`` sent its signal, by the wall clock; long ago where it never did."""
    note = place / "signalled"
    return float(note.read_text()) if note.exists() else 0.0


def wait_until(condition: Any, limit_s: float = 60) -> bool:
    """Whether ``condition()`` came true in time."""
    until = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def progress(text: str) -> None:
    print(f"\r{text:<100}", end="", file=sys.stderr, flush=True)
