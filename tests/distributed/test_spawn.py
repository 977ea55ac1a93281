"""Processes through ignite.distributed.Parallel: a fork server for most rows, real spawn where signals are at stake."""

import contextlib
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pytest

from fer_ignite.distributed import LaunchSpec, launch, spawn
from fer_ignite.errors import ConfigError

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the workers are imported by name in other processes
workers = importlib.import_module("workers")

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def two(timeout_s: float = 30, start_method: str = "forkserver") -> LaunchSpec:
    return LaunchSpec(
        2, device="cpu", threads=1, start_method=start_method, dist_timeout_s=timeout_s
    )


def command(function: str, *args: object, nproc: object = 2, timeout_s: float = 30) -> list[str]:
    return [
        sys.executable,
        str(HERE / "workers.py"),
        function,
        str(nproc),
        str(timeout_s),
        *map(str, args),
    ]


def environment(tag: str = "", **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(HERE.parents[1]),
        "OMP_NUM_THREADS": "1",
        "FER_RUN_TAG": tag,
        **more,
    }


def tagged(tag: str) -> list[int]:
    """Running processes whose environment carries the tag."""
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


def test_one_process_runs_without_a_group(tmp_path):
    outcome = launch(workers.tell_ranks, str(tmp_path), spec=LaunchSpec(device="cpu", threads=1))
    expected = {"rank": 0, "world": 1, "threads": 1, "local_rank": 0, "sum": 1.0, "backend": None}
    assert (outcome.exit_code, outcome.result) == (0, expected)
    assert (tmp_path / "0.txt").read_text() == f"{os.getpid()} {os.getppid()}"


def test_an_error_in_one_process_becomes_an_outcome(capsys):
    outcome = launch(workers.fail_alone, spec=LaunchSpec(device="cpu", threads=1))
    assert (outcome.exit_code, outcome.message) == (3, "The loss is nan.")
    outcome = launch(workers.fail, "error", 0, spec=LaunchSpec(device="cpu", threads=1))
    assert (outcome.exit_code, outcome.message) == (1, "ValueError: the face fell off")
    assert "_end(how)" in capsys.readouterr().err


def test_a_keyboard_interrupt_in_user_code_is_130():
    assert (
        launch(workers.fail, "interrupt", 0, spec=LaunchSpec(device="cpu", threads=1)).exit_code
        == 130
    )


def test_what_cannot_be_sent_to_processes_is_refused_in_one_sentence():
    with pytest.raises(ConfigError, match="top level of a module"):
        launch(lambda rank: None, spec=two())


@pytest.mark.slow
def test_two_processes_share_a_group_and_leave_nothing_behind(tmp_path, monkeypatch):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # would win over everything in Ignite
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    outcome = launch(workers.tell_ranks, str(tmp_path), spec=two(start_method="spawn"))
    assert outcome.result is not None
    assert (
        outcome.result | {"world": 2, "sum": 3.0, "backend": "gloo", "threads": 1} == outcome.result
    )
    assert os.environ["SLURM_JOB_ID"] == "1"
    assert not list(temporary.iterdir())
    assert {path.name for path in tmp_path.glob("*.txt")} == {"0.txt", "1.txt"}


@pytest.mark.slow
def test_all_processes_agree_on_the_first_text():
    outcome = launch(workers.agree, spec=two())
    assert outcome.result == {"first": "rank one, ä", "none": None, "empty": "", "group": True}


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ("error", 1, "ValueError: the face fell off"),
        ("memory", 1, "MemoryError: no room"),
        ("nonfinite", 3, "The loss is nan."),
        ("exit", 1, "exit code 3"),
        ("sys.exit", 1, "sys.exit(0)"),
        ("SIGKILL", 1, "SIGKILL"),
        ("SIGSEGV", 1, "SIGSEGV"),
    ],
)
def test_one_failed_process_ends_the_job_and_is_named(how, code, words, rank):
    started_s = time.monotonic()
    outcome = launch(workers.fail, how, rank, spec=two())
    assert time.monotonic() - started_s < 25
    assert outcome.exit_code == code
    assert str(outcome.message).startswith(f"Rank {rank} failed: ")
    assert words in str(outcome.message)


@pytest.mark.slow
def test_a_hanging_process_ends_the_job_within_the_timeout_and_fifteen_seconds():
    started_s = time.monotonic()
    outcome = launch(workers.fail, "SIGSTOP", 1, spec=two(3))
    assert time.monotonic() - started_s < 60
    assert (outcome.exit_code, str(outcome.message)[:38]) == (
        1,
        "Rank 1 failed: it stopped answering, t",
    )


@linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "target"),
    [
        (signal.SIGTERM, "launcher"),
        (signal.SIGINT, "launcher"),
        (signal.SIGINT, "group"),
        (signal.SIGTERM, "rank 1"),
    ],
)
def test_a_signal_stops_all_ranks_at_the_same_step(tmp_path, signum, target):
    tag = uuid.uuid4().hex
    process = subprocess.Popen(
        command("step_until_signal", tmp_path),
        env=environment(tag),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2, 60)
    time.sleep(0.2)
    started_s = time.monotonic()
    if target == "group":
        os.killpg(process.pid, signum)
    else:
        os.kill(
            process.pid if target == "launcher" else int((tmp_path / "1.pid").read_text()), signum
        )
    _, errors = process.communicate(timeout=20)
    assert time.monotonic() - started_s < 25
    assert (process.returncode, errors) == (128 + signum, "error: Interrupted.\n")
    assert len({(tmp_path / f"{rank}.stopped").read_text() for rank in (0, 1)}) == 1
    assert tagged(tag) == []


@linux
@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.5, 2.0, 3.5])
def test_a_signal_during_the_start_ends_everything(tmp_path, delay_s):
    tag = uuid.uuid4().hex
    process = subprocess.Popen(
        command("step_until_signal", tmp_path), env=environment(tag), stderr=subprocess.DEVNULL
    )
    time.sleep(delay_s)
    process.terminate()
    assert process.wait(timeout=60) in (
        143,
        -15,
    )  # before torch is imported no handler is installed yet
    # a child that was just starting notices its parent's death a moment later
    until_s = time.monotonic() + 10
    while tagged(tag) and time.monotonic() < until_s:
        time.sleep(0.1)
    assert tagged(tag) == []


@linux
@pytest.mark.slow
def test_two_nodes_meet_at_the_masters_port(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    nodes = [
        {"nnodes": 2, "node_rank": rank, "master_addr": "127.0.0.1", "master_port": port}
        for rank in (0, 1)
    ]
    processes = [
        subprocess.Popen(
            command("tell_ranks", tmp_path, nproc=1),
            env=environment(FER_TEST_NODES=json.dumps(node)),
            stdout=subprocess.PIPE,
            text=True,
        )
        for node in nodes
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    for rank, output in enumerate(outputs):
        assert output.startswith(f"{{'rank': {rank}, 'world': 2,")


@linux
@pytest.mark.slow
def test_a_second_signal_ends_the_job_at_once(tmp_path):
    process = subprocess.Popen(
        command("step_until_signal", tmp_path, 1),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2, 60)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    started_s = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert time.monotonic() - started_s < 25
    assert (process.returncode, errors) == (143, "error: Stopped at once by a second signal.\n")


@linux
@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_no_process_survives_a_killed_launcher_and_its_folder_goes_at_the_next_start(
    tmp_path, start_method, request
):
    tag = uuid.uuid4().hex
    # Short: a socket's path has at most 107 bytes, and pytest's folders are deep.
    temporary = Path(tempfile.mkdtemp())
    request.addfinalizer(lambda: shutil.rmtree(temporary, ignore_errors=True))
    settings = environment(
        tag, TMPDIR=str(temporary), FER_TEST_NODES=json.dumps({"start_method": start_method})
    )
    process = subprocess.Popen(command("step_until_signal", tmp_path), env=settings)
    assert wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2, 60)
    process.kill()
    process.wait()
    assert wait_until(lambda: tagged(tag) == [], 10)
    assert list(temporary.iterdir())
    subprocess.run(
        command("tell_ranks", tmp_path), env=settings, check=True, stdout=subprocess.DEVNULL
    )
    left = [path.name for path in temporary.iterdir()]
    assert all(name.startswith("pymp-") for name in left)  # multiprocessing's, of its fork server
    assert not left or start_method == "forkserver"


@linux
def test_only_folders_of_launchers_that_can_be_looked_up_here_are_removed(tmp_path, monkeypatch):
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    (tmp_path / "boot_id").write_text("another machine")
    here = spawn._pid_space()
    monkeypatch.setattr(spawn, "_BOOT_ID", tmp_path / "boot_id")
    elsewhere = spawn._pid_space()
    monkeypatch.undo()
    assert len({here, elsewhere, ""}) == 3
    names = [f"{os.getpid()}-{here}", f"{ended.pid}-{here}", f"{ended.pid}-{elsewhere}", "1"]
    folders = [tmp_path / f"fer-ignite-launch-{name}-abcdefgh" for name in names]
    for folder in folders:
        folder.mkdir()
    spawn._remove_leftovers(tmp_path)
    assert [folder.exists() for folder in folders] == [True, False, True, True]
    monkeypatch.setattr(spawn, "_PID_NAMESPACE", tmp_path / "absent")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with spawn._private_folder() as made:  # where nothing can be looked up, nothing is removed
        assert made.is_dir() and folders[0].exists()


@linux
@pytest.mark.slow
def test_a_run_listens_on_loopback_only_and_needs_no_port(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        tag = uuid.uuid4().hex
        settings = environment(
            tag, MASTER_PORT=str(taken.getsockname()[1]), MASTER_ADDR="127.0.0.1"
        )
        process = subprocess.Popen(
            command("step_until_signal", tmp_path), env=settings, stderr=subprocess.DEVNULL
        )
        assert wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2, 60)
        addresses = {address for pid in tagged(tag) for address in listening(pid)}
        process.terminate()
        assert process.wait(timeout=20) == 143
    assert addresses <= {"0100007F"}, addresses  # 127.0.0.1 as the kernel writes it


def listening(pid: int) -> list[str]:
    """Addresses, in hexadecimal, on which a process listens."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(link).removeprefix("socket:[").rstrip("]"))
    rows = [
        line.split()
        for kind in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()
    ]
    return [row[1].rpartition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes]


UNGUARDED = "from fer_ignite import Config, train\ntrain(Config(data='demo:140', epochs=1, out={out!r}), nproc=2)\n"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["script", "if True", "function", "standard input"])
def test_a_program_without_a_main_guard_is_refused_before_anything_starts(tmp_path, form):
    text = UNGUARDED.format(out=str(tmp_path / "runs"))
    if form == "if True":
        text = text.replace("train(Config", "if True:\n    train(Config")
    if form == "function":
        text = text.replace("train(Config", "def main():\n    train(Config") + "\nmain()\n"
    (tmp_path / "mine.py").write_text(text)
    piped = {"input": text} if form == "standard input" else {}
    command = [sys.executable, "-" if piped else str(tmp_path / "mine.py")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, **piped)
    said = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 1 and "ConfigError" in said, ended.stderr
    assert ("comes from" if piped else 'if __name__ == "__main__":') in said
    assert not list((tmp_path / "runs").rglob("*.pt"))


def test_a_temporary_folder_too_deep_for_the_fork_server_s_socket_is_refused(monkeypatch):
    def refuse():
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr("multiprocessing.forkserver.ensure_running", refuse)
    with pytest.raises(ConfigError, match=r"--start-method forkserver: .*too long.*set TMPDIR"):
        launch(workers.tell_ranks, "x", spec=two())
