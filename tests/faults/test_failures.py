"""Errors of users' handlers, numbers that are not finite, dead loader processes: named, common, and harmless."""

import importlib
import json
import re

import pytest

processes = importlib.import_module("processes")
support = importlib.import_module("support")
from fer_ignite.checkpoint.format import newest_valid  # noqa: E402

pytestmark = pytest.mark.slow
EVENTS = (
    *(
        "STARTED",
        "EPOCH_STARTED",
        "GET_BATCH_STARTED",
        "ITERATION_STARTED",
        "ITERATION_COMPLETED",
        "EPOCH_COMPLETED",
    ),
    *("COMPLETED", "evaluator.COMPLETED"),
)


def settings_of(faces, tmp_path, nproc=2, **changed):
    settings = support.settings(faces, tmp_path, **changed)
    return (
        settings
        if nproc == 1
        else {**settings, "nproc": nproc, "start_method": "fork", "dist_timeout": "30s"}
    )


@pytest.mark.parametrize("rank", ["0", "1", "both"])
@pytest.mark.parametrize("event", EVENTS)
def test_an_error_in_a_handler_ends_all_processes_and_names_it(
    server, faces, tmp_path, event, rank
):
    if rank != "0" and event in ("GET_BATCH_STARTED", "EPOCH_STARTED", "ITERATION_COMPLETED"):
        pytest.skip("as at ITERATION_STARTED")
    settings = settings_of(
        faces, tmp_path, save_iterations=3, handlers="handlers:watch_exceptions,handlers:fail_at"
    )
    started = server.start(
        settings,
        tmp_path / "log",
        FER_TEST_FAIL=f"{rank}:{event}:ValueError",
        FER_TEST_FOLDER=str(tmp_path),
    )
    assert started.wait(12) == 1
    assert processes.all_gone(started.pid, 1)
    assert "in handler_that_fails" in started.said
    last = started.said.strip().splitlines()[-1]
    assert re.search(
        rf"Rank {'[01]' if rank == 'both' else rank} failed: ValueError: the handler's own words",
        last,
    ), last
    found = newest_valid(tmp_path / "run" / "checkpoints")
    assert found is None or not found.skipped
    assert not list((tmp_path / "run").rglob("*.tmp"))


@pytest.mark.parametrize(("nproc", "rank"), [(1, "0"), (2, "0"), (2, "1"), (2, "both")])
def test_a_keyboard_interrupt_in_a_handler_is_130(server, faces, tmp_path, nproc, rank):
    settings = settings_of(
        faces, tmp_path, nproc, handlers="handlers:watch_exceptions,handlers:fail_at"
    )
    environment = {
        "FER_TEST_FAIL": f"{rank}:ITERATION_STARTED:KeyboardInterrupt",
        "FER_TEST_FOLDER": str(tmp_path),
    }
    assert server.run(settings, tmp_path / "log", limit_s=12, **environment) == 130


@pytest.mark.parametrize("what", ["loss", "gradients"])
@pytest.mark.parametrize(("nproc", "rank"), [(1, "0"), (2, "1"), (2, "both")])
def test_numbers_that_stay_non_finite_end_all_processes_at_the_same_iteration(
    server, faces, tmp_path, nproc, rank, what
):
    settings = settings_of(
        faces,
        tmp_path,
        nproc,
        save_iterations=3,
        nonfinite_patience=4,
        handlers="handlers:watch_exceptions,handlers:spoil,handlers:note_losses",
    )
    environment = {"FER_TEST_SPOIL": f"{rank}:9:{what}", "FER_TEST_FOLDER": str(tmp_path)}
    started = server.start(settings, tmp_path / "log", **environment)
    assert started.wait(15) == 3, started.said
    assert "gradients were not finite in 4 optimizer steps" in started.said.strip().splitlines()[-1]
    assert "Traceback" not in started.said
    ends = [
        json.loads(path.read_text().splitlines()[-1])["iteration"]
        for path in tmp_path.glob("losses-*.jsonl")
    ]
    assert len(ends) == nproc and len(set(ends)) == 1
    # four in a row from iteration 9 on, read one or two iterations later
    assert 12 <= ends[0] <= 14
    weights = {
        line for path in tmp_path.glob("weights-*.txt") for line in path.read_text().splitlines()
    }
    assert len(weights) == 1, "an optimizer step was taken with what was not finite"
    found = newest_valid(tmp_path / "run" / "checkpoints")
    assert found is not None and not found.skipped
    assert json.loads((tmp_path / "run" / "history.jsonl").read_text().splitlines()[0])["is_best"]
    best = support.load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")
    assert best["trainer"]["iteration"] == 7


def test_a_few_steps_that_are_not_finite_are_only_not_taken(server, faces, tmp_path):
    settings = settings_of(faces, tmp_path, 2, handlers="handlers:spoil", nonfinite_patience=4)
    environment = {"FER_TEST_SPOIL": "1:9:loss:11", "FER_TEST_FOLDER": str(tmp_path)}
    assert server.run(settings, tmp_path / "log", **environment) == 0, (
        tmp_path / "log"
    ).read_text()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["skipped_steps"]) == ("completed", 3)


@pytest.mark.parametrize("patience", [1, 2])
@pytest.mark.parametrize("nproc", [1, 2])
def test_early_stopping_is_common_and_nan_is_no_gain(server, faces, tmp_path, nproc, patience):
    scores = [0.5, float("nan"), 0.6, 0.55, 0.6, 0.1, 0.2, 0.3]
    # By hand: best 0.5; nan: 1 without gain (patience 1 ends in epoch 2); 0.6 a gain; 0.55, 0.6: 2 without (epoch 5).
    expected = {1: 2, 2: 5}[patience]
    settings = settings_of(
        faces,
        tmp_path,
        nproc,
        epochs=8,
        patience=patience,
        monitor="made_up",
        monitor_mode="max",
        handlers="handlers:score,handlers:note_losses",
    )
    environment = {"FER_TEST_SCORES": json.dumps(scores), "FER_TEST_FOLDER": str(tmp_path)}
    started = server.start(settings, tmp_path / "log", **environment)
    assert started.wait() == 0, started.said
    assert started.said.splitlines()[0].startswith("early stopped after"), started.said
    ends = [
        json.loads(path.read_text().splitlines()[-1])["iteration"]
        for path in tmp_path.glob("losses-*.jsonl")
    ]
    assert ends == [expected * support.PER_EPOCH] * nproc
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["epochs"]) == ("early_stopped", expected)
    assert summary["best"]["epoch"] == {1: 1, 2: 3}[patience]


@pytest.mark.parametrize("nproc", [1, 2])
def test_a_killed_loader_process_ends_the_run_and_is_named(server, faces, tmp_path, nproc):
    loader = {"sample_transform": "handlers:shaken", "augment": False, "workers": 2}
    settings = settings_of(
        faces, tmp_path, nproc, **loader, handlers="handlers:kill_a_loader_process"
    )
    started = server.start(settings, tmp_path / "log", FER_TEST_FOLDER=str(tmp_path))
    assert started.wait(15) == 1
    victim = (tmp_path / "victim.txt").read_text()
    last = started.said.strip().splitlines()[-1]
    # torch doesn't always tell the signal
    assert victim in last and "--workers" in last and "memory" in last
    assert processes.all_gone(started.pid)
