"""The same worker functions under a real torchrun: joining, failing, stopping, restarting."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from fer_ignite.distributed import (
    LaunchSpec,
    Outcome,
    final_outcome_marker,
    previous_final_outcome,
    requeue_count,
    restart_count,
)
from fer_ignite.distributed.resolve import Machine, make_plan
from fer_ignite.distributed.torchrun import _prepare_environment, mark_final

HERE = Path(__file__).parent
slow = pytest.mark.slow


def attempt(tmp_path: Path, number: int) -> dict[str, str]:
    folder = tmp_path / "run" / f"attempt_{number}" / "0"
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "TORCHELASTIC_ERROR_FILE": str(folder / "error.json"),
        "TORCHELASTIC_RESTART_COUNT": str(number),
    }


@pytest.mark.parametrize("code", [2, 3, 5, 130, 143])
def test_a_final_end_is_seen_by_the_next_attempt_only(tmp_path, code):
    mark_final(Outcome(code, "failed", "No."), attempt(tmp_path, 0))
    assert previous_final_outcome(attempt(tmp_path, 0)) is None
    assert previous_final_outcome(attempt(tmp_path, 1)) == Outcome(
        code, "failed", "Not restarted: No."
    )


@pytest.mark.parametrize("code", [0, 1, 4])
def test_other_ends_may_be_repeated(tmp_path, code):
    mark_final(Outcome(code), attempt(tmp_path, 0))
    assert previous_final_outcome(attempt(tmp_path, 1)) is None


def test_without_torchrun_there_is_no_marker():
    assert (final_outcome_marker({}), restart_count({}), previous_final_outcome({})) == (
        None,
        0,
        None,
    )


def test_slurm_s_count_of_restarts_is_not_torchrun_s(tmp_path):
    requeued = {**attempt(tmp_path, 0), "SLURM_RESTART_COUNT": "2"}
    assert (requeue_count(requeued), restart_count(requeued)) == (2, 0)


def test_a_task_of_a_requeued_job_keeps_the_count_and_no_other_variable_of_slurm(monkeypatch):
    environ = {
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NTASKS": "2",
        "SLURM_RESTART_COUNT": "1",
    }
    monkeypatch.setattr(os, "environ", environ)
    _prepare_environment(make_plan(LaunchSpec(), environ, machine=Machine(cores=4, cuda_devices=0)))
    assert environ["WORLD_SIZE"] == "2" and requeue_count(environ) == 1
    assert [name for name in environ if name.startswith("SLURM_")] == ["SLURM_RESTART_COUNT"]


def torchrun(
    function: str,
    *args: object,
    tag: str = "",
    restarts: int = 0,
    static: bool = False,
    timeout_s: int = 30,
):
    where = ["--master-port", str(free_port())] if static else ["--standalone"]
    flags = [*where, "--nproc-per-node", "2", "--max-restarts", str(restarts)]
    script = [str(HERE / "workers.py"), function, "-", str(timeout_s), *map(str, args)]
    paths = os.pathsep.join((str(HERE.parents[1]), str(HERE)))
    environ = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *flags, *script],
        env={**environ, "PYTHONPATH": paths, "FER_RUN_TAG": tag},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tagged(tag: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if (
                state not in "ZX"
                and f"FER_RUN_TAG={tag}".encode() in (folder / "environ").read_bytes()
            ):
                found.append(int(folder.name))
    return found


def wait_until(condition, limit_s: float) -> bool:
    until = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    """torchrun leaves its log folder behind."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@slow
def test_torchruns_processes_join_one_group_with_the_threads_of_spawned_ones(tmp_path):
    output, errors = (process := torchrun("tell_ranks", tmp_path)).communicate(timeout=60)
    assert process.returncode == 0, errors
    cores = len(os.sched_getaffinity(0))
    for rank in (0, 1):
        expected = {
            "rank": rank,
            "world": 2,
            "threads": max(1, cores // 2),
            "local_rank": rank,
            "sum": 3.0,
        }
        assert str({**expected, "backend": "gloo"}) in output


@slow
@pytest.mark.parametrize(
    ("how", "words"), [("error", "ValueError: the face fell off"), ("SIGKILL", "SIGKILL")]
)
def test_one_failed_process_ends_the_job_and_is_torchruns_root_cause(how, words):
    process = torchrun("fail", how, 1, tag=(tag := uuid.uuid4().hex))
    _, errors = process.communicate(timeout=60)
    cause = errors.partition("Root Cause")[2]
    assert process.returncode == 1
    assert "rank      : 1 " in cause
    assert words in cause
    assert tagged(tag) == []


@slow
def test_a_hanging_process_is_named_and_ended_sooner_than_torchrun_would():
    started_s = time.monotonic()
    process = torchrun("fail", "SIGSTOP", 1, tag=(tag := uuid.uuid4().hex), timeout_s=3)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - started_s < 60
    assert "rank 1 stopped answering within 3 s" in errors
    assert (process.returncode, tagged(tag)) == (1, [])


@slow
@pytest.mark.parametrize("static", [False, True])
def test_killed_processes_are_restarted_and_the_run_completes(tmp_path, static):
    process = torchrun("count_attempts", tmp_path, "SIGKILL", restarts=3, static=static)
    output, errors = process.communicate(timeout=90)
    assert (process.returncode, output.count("'sum': 2.0")) == (0, 2), errors
    assert sorted(path.name for path in tmp_path.glob("attempt-*")) == [
        f"attempt-{n}-{r}" for n in range(3) for r in (0, 1)
    ]


@slow
@pytest.mark.parametrize("how", ["stopped", "nonfinite"])
def test_a_run_that_was_stopped_or_went_nonfinite_is_not_continued(tmp_path, how):
    process = torchrun("count_attempts", tmp_path, how, restarts=2)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 1
    assert {path.name for path in tmp_path.glob("attempt-*")} == {"attempt-0-0", "attempt-0-1"}
    markers = list(tmp_path.rglob("fer-ignite-final.json"))
    assert json.loads(markers[0].read_text())["exit_code"] == (143 if how == "stopped" else 3), (
        errors
    )


@slow
def test_a_signal_to_the_agent_stops_both_ranks_at_the_same_step(tmp_path):
    process = torchrun("step_until_signal", tmp_path, tag=(tag := uuid.uuid4().hex))
    assert wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2, 60)
    time.sleep(0.2)
    started_s = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=40)
    assert time.monotonic() - started_s < 25
    assert process.returncode == 1
    assert len({(tmp_path / f"{rank}.stopped").read_text() for rank in (0, 1)}) == 1
    assert tagged(tag) == []


@slow
def test_no_process_survives_a_killed_agent(tmp_path):
    process = torchrun("step_until_signal", tmp_path, tag=(tag := uuid.uuid4().hex))
    assert wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2, 60)
    process.kill()
    process.communicate()
    assert wait_until(lambda: tagged(tag) == [], 10)
