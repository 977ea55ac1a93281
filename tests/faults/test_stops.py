"""Whoever gets the signal, all processes stop after the same iteration, saved, and the run continues from there."""

import importlib
import json
import os
import random
import signal
import time

import pytest

processes = importlib.import_module("processes")
support = importlib.import_module("support")
from fer_ignite.checkpoint.format import load_checkpoint  # noqa: E402

pytestmark = pytest.mark.slow
CODES = {"SIGTERM": 143, "SIGINT": 130, "SIGHUP": 129, "SIGUSR1": 138, "SIGUSR2": 140}


def settings_of(faces, tmp_path, nproc=2, **changed):
    settings = support.settings(faces, tmp_path, save_iterations=5, tensorboard=True, **changed)
    return (
        settings
        if nproc == 1
        else {**settings, "nproc": nproc, "start_method": "fork", "dist_timeout": "30s"}
    )


def iteration_of(run) -> int:
    """Of the newest resume point; its name, content and last.pt agree."""
    newest = support.newest(run)
    content = load_checkpoint(newest)
    assert content["trainer"]["iteration"] == int(newest.stem[5:])
    assert (run / "checkpoints" / "last.pt").samefile(newest)
    assert not list(run.rglob("*.tmp"))
    return int(newest.stem[5:])


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("target", ["launcher", "rank 0", "rank 1", "group", "single"])
def test_a_signal_saves_and_stops_all_at_the_same_iteration(
    server, faces, uncut, tmp_path, target, name
):
    nproc = 1 if target == "single" else 2
    settings, log = settings_of(faces, tmp_path, nproc), tmp_path / "log"
    iteration = random.Random(f"{target} {name}").randint(2, support.STEPS - 4)
    environment = {
        "FER_TEST_FOLDER": str(tmp_path),
        "FER_TEST_SIGNAL": f"{target}:{iteration}:{name}",
    }
    settings["handlers"] = "handlers:note_losses,handlers:signal_at"
    started = server.start(settings, log, **environment)
    assert started.wait(20) == CODES[name], started.said
    assert processes.all_gone(started.pid, 1)
    run = tmp_path / "run"
    stopped = iteration_of(run)
    # A forwarded signal takes its way through the launcher; what a process sends itself is read one iteration later.
    assert (
        iteration
        <= stopped
        <= iteration + (1 if target in ("rank 0", "rank 1", "single") else support.PER_EPOCH)
    )
    assert support.last_iterations(tmp_path) == [stopped] * nproc  # nothing lost, no rank further
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    assert load_checkpoint(support.newest(run))["outcome"] == "interrupted"
    assert (
        server.run(
            {**settings, "resume": "auto", "handlers": "handlers:note_losses"}, log, **environment
        )
        == 0
    )
    assert support.final(run) == uncut(nproc)


@pytest.mark.parametrize("nproc", [1, 2])
def test_a_second_signal_ends_it_at_once_and_harms_nothing(server, faces, uncut, tmp_path, nproc):
    settings, log = settings_of(faces, tmp_path, nproc), tmp_path / "log"
    started = server.start(
        {**settings, "handlers": "handlers:hang_at_nine"}, log, FER_TEST_FOLDER=str(tmp_path)
    )
    until = time.monotonic() + 30
    while not (tmp_path / "hanging").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    os.kill(started.pid, signal.SIGTERM)
    time.sleep(0.3)
    second_s = time.monotonic()
    os.kill(started.pid, signal.SIGTERM)
    assert started.wait(25) != 0
    assert time.monotonic() - second_s < 25
    assert processes.all_gone(started.pid, 2)
    assert server.run({**settings, "resume": "auto"}, log) == 0
    assert support.final(tmp_path / "run") == uncut(nproc)


@pytest.mark.parametrize("name", CODES)
def test_loader_processes_neither_save_nor_end_the_run_when_the_group_is_signalled(
    server, faces, tmp_path, name
):
    loader = {"sample_transform": "handlers:shaken", "augment": False, "workers": 2}
    settings, log = settings_of(faces, tmp_path, 1, **loader), tmp_path / "log"
    environment = {"FER_TEST_FOLDER": str(tmp_path), "FER_TEST_SIGNAL": f"group:9:{name}"}
    whole = server.start({**settings, "name": "whole"}, log)
    assert whole.wait() == 0, whole.said
    started = server.start(
        {**settings, "handlers": "handlers:note_losses,handlers:signal_at"}, log, **environment
    )
    assert started.wait(20) == CODES[name], started.said
    assert processes.all_gone(started.pid, 5)
    assert support.last_iterations(tmp_path) == [iteration_of(tmp_path / "run")]
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*.pt"))) <= 2
    assert server.run({**settings, "resume": "auto"}, log) == 0
    assert support.final(tmp_path / "run") == support.final(tmp_path / "whole")


@pytest.mark.parametrize("nproc", [1, 2])
def test_the_time_limit_stops_all_and_the_run_continues_later(
    server, faces, uncut, tmp_path, nproc
):
    settings, log = settings_of(faces, tmp_path, nproc), tmp_path / "log"
    assert server.run({**settings, "max_time": "0.01s"}, log) == 0
    run = tmp_path / "run"
    assert json.loads((run / "summary.json").read_text())["status"] == "time_limit"
    assert 1 <= iteration_of(run) < support.STEPS
    assert server.run({**settings, "resume": "auto"}, log) == 0
    assert support.final(run) == uncut(nproc)
