"""SIGKILL at any moment, to any process: the resumed run ends with the same bits, and nothing is left behind."""

import hashlib
import importlib
import os
import random
import signal
import time

import pytest

processes = importlib.import_module("processes")
support = importlib.import_module("support")
from fer_ignite.checkpoint.failpoints import POINTS  # noqa: E402
from fer_ignite.checkpoint.format import load_checkpoint, newest_valid  # noqa: E402

pytestmark = pytest.mark.slow
EVERY = 5  # iterations between resume points


def small(faces, tmp_path, nproc=2, **changed):
    settings = support.settings(faces, tmp_path, save_iterations=EVERY, tensorboard=True, **changed)
    return (
        settings
        if nproc == 1
        else {**settings, "nproc": nproc, "start_method": "fork", "dist_timeout": "30s"}
    )


def resume_to_the_end(server, settings, log, **environment):
    code = server.run({**settings, "resume": "auto"}, log, **environment)
    assert code == 0, log.read_text()


@pytest.mark.parametrize("trial", range(10))  # scripts/faults makes a hundred
def test_a_run_killed_at_a_random_moment_ends_with_the_same_bits(
    server, faces, uncut, tmp_path, trial
):
    draw = random.Random(trial)
    nproc = 1 if trial % 5 == 4 else 2
    target = "0" if nproc == 1 else ("launcher", "0", "1", "all")[trial % 5]
    iteration = draw.randint(1, support.STEPS)
    settings, log = small(faces, tmp_path, nproc), tmp_path / "log"
    run = tmp_path / "run"
    kill = f"{target}:{iteration}:{draw.uniform(0, 50):.1f}"
    environment = {"FER_TEST_FOLDER": str(tmp_path), "FER_TEST_KILL": kill}
    command = server.start({**settings, "handlers": "handlers:kill_at"}, log, **environment)
    code = command.wait()
    assert processes.all_gone(command.pid), "processes are left"
    if not (tmp_path / "phase.txt").exists():
        assert code == 0  # done before the blow fell
    else:
        at = int((tmp_path / "phase.txt").read_text().split()[0])
        found = newest_valid(run / "checkpoints")
        saved = 0 if found is None else found.mapping["trainer"]["iteration"]
        assert at - saved <= EVERY + 1  # the save of this very iteration may have been under way
        resume_to_the_end(server, settings, log)
    assert support.final(run) == uncut(nproc)


@pytest.mark.parametrize(
    ("point", "rank"),
    [
        (point, rank)
        for point in POINTS
        for rank in (0, 1)
        if rank == 0 or not point.startswith("best")
    ],
)
def test_a_run_killed_at_a_named_point_ends_with_the_same_bits(
    server, faces, uncut, tmp_path, point, rank
):
    settings, log, run = small(faces, tmp_path), tmp_path / "log", tmp_path / "run"
    # The third save of each kind; there are keep = 2 resume points by then, so that one is pruned.
    iteration = 7 if point.startswith("best") else 14
    if point == "during-resume":
        server.run(
            {**settings, "handlers": "handlers:kill_at"},
            log,
            FER_TEST_FOLDER=str(tmp_path),
            FER_TEST_KILL="0:13:0",
        )
        iteration, settings = 1, {**settings, "resume": "auto"}
    command = server.start(settings, log, FER_FAULT=f"{point}:{rank}:{iteration}")
    assert command.wait() != 0, "nothing was killed"
    assert processes.all_gone(command.pid)
    found = newest_valid(run / "checkpoints")
    assert found is not None and not found.skipped
    resume_to_the_end(server, settings, log)
    assert support.final(run) == uncut(2)
    assert not list(run.rglob("*.tmp"))


def test_five_kills_in_a_row_lose_at_most_what_was_not_saved(server, faces, uncut, tmp_path):
    settings, log, run = small(faces, tmp_path), tmp_path / "log", tmp_path / "run"
    saved = 0
    for number, faults in enumerate(
        (
            "mid-write:0:5",
            "during-resume:1:1",
            "during-validation:1:7",
            "mid-prune:0:14",
            "after-rename:0:20",
        )
    ):
        assert server.run({**settings, "resume": "auto"}, log, FER_FAULT=faults) != 0, number
        found = newest_valid(run / "checkpoints")
        at = 0 if found is None else found.mapping["trainer"]["iteration"]
        assert at >= saved
        saved = at
        if number == 0:
            # killed in its first save: the next attempt starts from its initial state, up to a point to resume
            assert found is None
            server.run({**settings, "resume": "auto"}, log, FER_FAULT="before-open:0:8")
            saved = 7
    resume_to_the_end(server, settings, log)
    assert support.final(run) == uncut(2)


def test_a_finished_run_is_left_as_it_is(server, faces, tmp_path):
    settings, log = small(faces, tmp_path, 1, epochs=1), tmp_path / "log"
    assert server.run(settings, log) == 0
    last, tb = tmp_path / "run" / "checkpoints" / "last.pt", tmp_path / "run" / "tensorboard"
    before = (
        hashlib.sha256(last.read_bytes()).hexdigest(),
        sorted(os.listdir(tb)),
        (tmp_path / "run" / "history.jsonl").read_text(),
    )
    for nproc in (1, 2):
        started_s = time.monotonic()
        assert server.run({**small(faces, tmp_path, nproc, epochs=1), "resume": "auto"}, log) == 0
        assert time.monotonic() - started_s < 25
    assert "the run is complete at epoch 1 of 1; there is nothing left to do" in log.read_text()
    assert before == (
        hashlib.sha256(last.read_bytes()).hexdigest(),
        sorted(os.listdir(tb)),
        (tmp_path / "run" / "history.jsonl").read_text(),
    )


def test_an_early_stopped_run_is_left_as_it_is(server, faces, tmp_path):
    settings, log = small(faces, tmp_path, 1, epochs=30, patience=1, lr=0.3), tmp_path / "log"
    assert server.run(settings, log) == 0
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    content, before = load_checkpoint(last), last.read_bytes()
    epoch = content["trainer"]["iteration"] // support.PER_EPOCH
    assert (content["outcome"], epoch < 30) == ("early_stopped", True)
    assert server.run({**settings, "resume": "auto"}, log) == 0
    assert f"the run stopped early at epoch {epoch}; there is nothing left to do" in log.read_text()
    assert last.read_bytes() == before


def test_an_early_stopped_run_killed_before_its_summary_is_only_finished(server, faces, tmp_path):
    settings, log = small(faces, tmp_path, 1, epochs=30, patience=1, lr=0.3), tmp_path / "log"
    assert server.run(settings, log) == 0
    uncut = support.final(tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    resume_to_the_end(server, settings, log)
    assert support.final(tmp_path / "run") == uncut


def test_a_second_run_in_the_folder_is_refused_until_the_first_is_dead(server, faces, tmp_path):
    settings, log = small(faces, tmp_path, 2, epochs=2000), tmp_path / "log"
    first = server.start(settings, log)
    checkpoints = tmp_path / "run" / "checkpoints"
    until = time.monotonic() + 30
    while not list(checkpoints.glob("step-*.pt")):
        assert time.monotonic() < until
        time.sleep(0.02)
    started_s = time.monotonic()
    second = server.start({**settings, "resume": "auto"}, tmp_path / "second")
    assert second.wait() == 5
    assert time.monotonic() - started_s < 25
    assert str(first.pid) in (tmp_path / "second").read_text()
    assert session_alive(first)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert processes.all_gone(first.pid)
    at = newest_valid(checkpoints).mapping["trainer"]["iteration"]
    resume_to_the_end(server, {**settings, "epochs": at // support.PER_EPOCH + 1}, log)


def session_alive(command) -> bool:
    return command.pid in processes.session_of(command.pid)
