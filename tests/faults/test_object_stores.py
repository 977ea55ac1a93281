"""Runs whose folder is in an object store: machines and servers that are killed, against moto's server on loopback."""

import importlib
import os
import signal
import time

import pytest

processes = importlib.import_module("processes")
support = importlib.import_module("support")
from fer_ignite.stores.download import url_label  # noqa: E402
from fer_ignite.stores.store import Store  # noqa: E402
from tests.store_fixtures import require_equal, wait_for  # noqa: E402

pytestmark = pytest.mark.slow
OUT = "s3://faces/runs"
URL = f"{OUT}/run"
LIMIT_S = 150


@pytest.fixture
def machine(server, faces, own_server, tmp_path):
    """(name, **settings) -> a command started on a machine: a cache of its own is all that makes it another one."""
    commands = []

    def start(name, *, nproc=1, lease_s=1, **changed):
        settings = support.settings(faces, OUT, save_iterations=5, tensorboard=True, **changed)
        if nproc > 1:
            settings |= {"nproc": nproc, "start_method": "fork", "dist_timeout": "30s"}
        environment = {
            **own_server.environment,
            "FER_IGNITE_CACHE": str(tmp_path / name),
            "FER_TEST_FOLDER": str(tmp_path),
            "FER_IGNITE_LEASE_S": str(lease_s),
        }
        command = server.start(settings, tmp_path / f"{name}.log", **environment)
        commands.append(command)
        return command

    yield start
    for command in commands:
        for pid in processes.session_of(command.pid):
            os.kill(pid, signal.SIGKILL)


def copy_on(tmp_path, name):
    """The run's folder on a machine."""
    return tmp_path / name / "runs" / url_label(OUT) / "run"


def wait_for_training(tmp_path):
    """Until machine one has trained past the first resume points, whatever the store does."""
    until = time.monotonic() + LIMIT_S
    while not (copy_on(tmp_path, "one") / "checkpoints" / "step-15.pt").exists():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("nproc", [1, 2])
def test_a_killed_machine_s_run_ends_on_another_one_with_the_same_bits(
    machine, uncut, tmp_path, nproc
):
    command = machine("one", nproc=nproc, handlers="handlers:wait_to_be_released")
    wait_for(Store(URL), "checkpoints/step-5.pt")
    os.killpg(command.pid, signal.SIGKILL)
    assert command.wait(LIMIT_S) != 0
    other = machine("two", nproc=nproc, resume="auto")
    assert other.wait(LIMIT_S) == 0, other.said
    assert "waiting 1 s for a sign of life" in other.said  # the killed one's lease
    assert support.final(copy_on(tmp_path, "two")) == uncut(nproc)
    require_equal(Store(URL), copy_on(tmp_path, "two"))
    again = machine("three", nproc=nproc, resume="auto")
    assert again.wait(LIMIT_S) == 0
    assert support.final(copy_on(tmp_path, "three")) == uncut(nproc)  # downloaded, no step taken


def test_a_server_killed_in_the_middle_and_started_again_empty_gets_the_whole_run(
    machine, own_server, uncut, tmp_path
):
    command = machine("one", handlers="handlers:wait_to_be_released")
    wait_for(Store(URL), "checkpoints/step-5.pt")
    own_server.kill()
    (tmp_path / "go").touch()
    wait_for_training(tmp_path)
    own_server.start()
    own_server.make_bucket()
    assert command.wait(LIMIT_S) == 0, command.said
    assert support.final(copy_on(tmp_path, "one")) == uncut(1)
    require_equal(Store(URL), copy_on(tmp_path, "one"))


def test_a_server_that_hangs_for_a_while_costs_nothing(machine, own_server, uncut, tmp_path):
    command = machine("one", handlers="handlers:wait_to_be_released")
    wait_for(Store(URL), "checkpoints/step-5.pt")
    own_server.process.send_signal(signal.SIGSTOP)  # it takes connections, and answers none
    (tmp_path / "go").touch()
    wait_for_training(tmp_path)
    own_server.process.send_signal(signal.SIGCONT)
    assert command.wait(LIMIT_S) == 0, command.said
    assert support.final(copy_on(tmp_path, "one")) == uncut(1)
    require_equal(Store(URL), copy_on(tmp_path, "one"))


def test_a_server_that_stays_away_costs_the_exit_code_and_nothing_else(
    machine, own_server, uncut, tmp_path
):
    command = machine("one", handlers="handlers:wait_to_be_released", store_wait=1)
    wait_for(Store(URL), "checkpoints/step-5.pt")
    own_server.kill()
    (tmp_path / "go").touch()
    assert command.wait(LIMIT_S) == 4, command.said
    folder = copy_on(tmp_path, "one")
    assert "the training continues, and what is missing is uploaded when" in command.said
    (said,) = [line for line in command.said.splitlines() if "has not got all" in line]
    assert said.startswith(f"fer-ignite: {URL} has not got all of this run ({URL}")
    assert f"the files are in {folder}" in said
    assert f"fer-ignite train --out {OUT} --name run --resume auto" in said
    assert support.final(folder) == uncut(1)
    own_server.start()
    own_server.make_bucket()
    later = machine("one", resume="auto")
    assert later.wait(LIMIT_S) == 0, later.said
    assert support.final(folder) == uncut(1)
    require_equal(Store(URL), folder)


def test_two_machines_never_write_the_same_run_at_once(machine, uncut, tmp_path):
    first = machine("one", lease_s=9, handlers="handlers:wait_to_be_released")
    wait_for(Store(URL), "checkpoints/step-5.pt")
    second = machine("two", lease_s=9, resume="auto")
    assert second.wait(LIMIT_S) == 5, second.said
    assert f"{URL} is in use by process {first.pid} on" in second.said
    (tmp_path / "go").touch()
    assert first.wait(LIMIT_S) == 0, first.said
    assert support.final(copy_on(tmp_path, "one")) == uncut(1)


@pytest.mark.parametrize("nproc", [1, 2])
def test_a_stopped_run_uploads_its_last_resume_point_before_it_leaves(
    machine, uncut, tmp_path, nproc
):
    """As a preempted machine is stopped: SIGTERM, and the next one continues where it saved."""
    command = machine("one", nproc=nproc, handlers="handlers:wait_to_be_released")
    wait_for(Store(URL), "checkpoints/step-5.pt")
    os.kill(command.pid, signal.SIGTERM)
    (tmp_path / "go").touch()
    assert command.wait(LIMIT_S) == 143, command.said
    saved = support.newest(copy_on(tmp_path, "one")).name
    assert Store(URL).read(f"checkpoints/{saved}") is not None
    assert Store(URL).read("run.lease") is None  # the next machine need not wait
    other = machine("two", nproc=nproc, resume="auto")
    assert other.wait(LIMIT_S) == 0, other.said
    assert f"{saved} at iteration" in (copy_on(tmp_path, "two") / "log.txt").read_text()
    assert support.final(copy_on(tmp_path, "two")) == uncut(nproc)


def test_torchrun_s_first_process_uploads_the_run(faces, own_server, uncut, tmp_path, monkeypatch):
    monkeypatch.setenv("FER_IGNITE_CACHE", str(tmp_path / "one"))
    settings = support.settings(faces, OUT, save_iterations=5, tensorboard=True)
    log = tmp_path / "log"
    code = processes.torchrun(settings, log, limit_s=LIMIT_S, **own_server.environment)
    assert code == 0, log.read_text()
    assert support.final(copy_on(tmp_path, "one")) == uncut(2)
    require_equal(Store(URL), copy_on(tmp_path, "one"))
    assert Store(URL).read("run.lease") is None
