"""Long runs and many starts do not grow: memory, descriptors, processes, files (short forms of rows G1 to G4)."""

import importlib
import itertools
import json
import os
import tempfile
from pathlib import Path

import pytest
import tensorboardX

from fer_ignite import train
from fer_ignite.training import tensorboard

processes = importlib.import_module("processes")
support = importlib.import_module("support")
growth = importlib.import_module("growth")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="reads Linux's /proc"),
]


ONE_ARENA = {
    "MALLOC_ARENA_MAX": "1"
}  # else threads that wait for each other get arenas of their own


def lines_of(folder):
    return [json.loads(line) for line in (folder / "growth.jsonl").read_text().splitlines()]


def growth_between(earlier, later, what):
    """How far the smallest value rose, MB: a leak lifts it, a buffer that is in use at one epoch's end doesn't."""
    return min(line[what] for line in later) - min(line[what] for line in earlier)


def test_ninety_epochs_leave_memory_descriptors_and_threads_as_twenty_did(server, tmp_path):
    """In a process of its own: what other tests left behind in this one is freed, and taken again, at any time.

    A leak grows in every one of the five pieces of 14 epochs; an allocator that settles late grows in some.
    """
    settings = {
        "data": "demo:140",
        "epochs": 90,
        "batch_size": 32,
        "model_args": {"widths": [8, 8], "blocks": [0, 0]},
        "precision": "fp32",
        "threads": 1,
        "out": str(tmp_path),
        "quiet": True,
        "handlers": "handlers:note_growth",
    }
    environment = {"FER_TEST_FOLDER": str(tmp_path), **ONE_ARENA}
    started = server.start(settings, tmp_path / "log", **environment)
    assert started.wait(400) == 0, started.said
    lines = lines_of(tmp_path)
    settled, last = lines[19], lines[-1]
    pieces = [lines[start : start + 14] for start in range(20, 90, 14)]
    grown = [growth_between(a, b, "resident") for a, b in itertools.pairwise(pieces)]
    assert min(grown) <= 2 and sum(grown) <= 40, grown  # 2 MB: 0.14 MB per epoch
    assert all(last[what] == settled[what] for what in ("descriptors", "threads", "children"))


def test_loader_processes_neither_grow_nor_multiply(server, faces, tmp_path):
    loader = {"sample_transform": "handlers:shaken", "augment": False, "workers": 2}
    settings = support.settings(
        faces, tmp_path, epochs=16, **loader, handlers="handlers:note_growth"
    )
    environment = {"FER_TEST_FOLDER": str(tmp_path), **ONE_ARENA}
    started = server.start(settings, tmp_path / "log", **environment)
    assert started.wait(120) == 0, started.said
    lines = lines_of(tmp_path)
    assert lines[5]["loader"] > 0  # else there were none to look at
    assert growth_between(lines[5:10], lines[11:], "loader") <= 5
    assert growth_between(lines[5:10], lines[11:], "resident") <= 10
    # The least of five: an ended loader process may be there for a moment more.
    for what in ("descriptors", "threads", "children"):
        before, after = ([line[what] for line in part] for part in (lines[5:10], lines[11:]))
        assert min(after) <= min(before), what


def test_runs_that_end_and_runs_that_fail_leave_no_files_in_shared_places(server, faces, tmp_path):
    shared = Path(tempfile.mkdtemp())  # with a short name: loader processes make sockets in it
    before = growth.leftovers(shared)
    several = {
        "nproc": 2,
        "start_method": "fork",
        "epochs": 1,
        "sample_transform": "handlers:shaken",
        "augment": False,
        "workers": 1,
    }
    for number, handler in enumerate(
        ("handlers:note_losses", "handlers:fail_at", "handlers:kill_a_loader_process")
    ):
        settings = support.settings(faces, tmp_path, **several)
        environment = {"FER_TEST_FOLDER": str(tmp_path), "TMPDIR": str(shared)}
        environment["FER_TEST_FAIL"] = "1:ITERATION_COMPLETED:ValueError"
        started = server.start(
            {**settings, "name": str(number), "handlers": handler}, tmp_path / "log", **environment
        )
        assert started.wait(120) == (number > 0), started.said
        assert processes.all_gone(started.pid)
    assert sorted(growth.leftovers(shared) - before) == []
    shared.rmdir()


def test_what_a_run_writes_about_a_hundred_thousand_iterations_is_small(tmp_path, monkeypatch):
    """Epochs of 200 iterations here; with more in each there are fewer lines."""
    # Curves and confusion matrices: their number is bounded, so they don't grow with a run. Here the last epoch has one.
    monkeypatch.setattr(tensorboard, "_PICTURES", 1)
    data = support.write_faces(tmp_path / "faces.csv", train=200, val=7, test=0)

    def written(epochs):
        out = tmp_path / str(epochs)
        settings = {"epochs": epochs, "batch_size": 1, "log_every": 50, "tensorboard": True}
        config = support.config_of(data, out, **settings, model_ema=False)
        assert train(config)["iterations"] == 200 * epochs
        run = out / "run"
        names = ("log.txt", "history.jsonl", "results.csv")
        files = [*(run / name for name in names), *(run / "tensorboard").iterdir()]
        return sum(file.stat().st_size for file in files)

    assert (written(4) - written(1)) * 100_000 / 600 <= 5e6


def test_a_long_run_has_fifty_sets_of_curves_at_most(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "_PICTURES", 2)
    shown = []
    monkeypatch.setattr(
        tensorboardX.SummaryWriter,
        "add_pr_curve_raw",
        lambda writer, tag, *rows, global_step, **options: shown.append(global_step),
    )
    data = support.write_faces(tmp_path / "faces.csv", train=8, val=7, test=0)
    train(support.config_of(data, tmp_path, epochs=5, batch_size=8, tensorboard=True))
    assert sorted(set(shown)) == [3, 5]
