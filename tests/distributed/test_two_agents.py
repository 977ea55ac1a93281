"""Two real torchrun agents on loopback, as on two machines: they meet, and one that is killed is replaced."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESTARTS = 3
NARROW = json.dumps({"widths": [8, 8], "blocks": [0, 0]})
# 112 faces in batches of 16: seven iterations an epoch, 21 in all, a resume point at every fifth.
SETTINGS = [
    *(
        "--data",
        "demo:140",
        "--epochs",
        "3",
        "--batch-size",
        "16",
        "--model-args",
        NARROW,
        "--norm",
        "group",
        "--precision",
        "fp32",
    ),
    *(
        "--device",
        "cpu",
        "--threads",
        "1",
        "--save-iterations",
        "5",
        "--dist-timeout",
        "30s",
        "--tta",
        "none",
        "--no-plots",
    ),
    *("--no-tensorboard", "--quiet", "--resume", "auto", "--name", "run"),
]
KILLER = """
import os, signal
from pathlib import Path
from ignite.engine import Events


def kill_once(session):
    whom, mark = os.environ.get("TEST_KILLS"), Path(session.folder.path).parent / "killed"

    @session.trainer.on(Events.ITERATION_COMPLETED)
    def kill(engine):
        # Of two agents that may kill, one does; the ranks follow the agents' process ids, so a single one may have either.
        one = whom == "agent" or whom and session.rank == 1
        if one and engine.state.iteration == 12 and not mark.exists():
            mark.write_text(os.environ["TEST_AGENT"])
            os.kill(os.getppid() if whom == "agent" else os.getpid(), signal.SIGKILL)
"""

pytestmark = pytest.mark.slow


class Machines:
    """A folder that two "machines" share, and their agents."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.agents = folder, free_port(), []
        (folder / "killer.py").write_text(KILLER)

    def start(self, name: str, *, kills: str = "") -> subprocess.Popen:
        paths = {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.folder), "GLOO_SOCKET_IFNAME": "lo"}
        # With the store that agents share by default, torchrun finds no way back once an agent was replaced.
        environment = {
            **os.environ,
            **paths,
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            "TEST_KILLS": kills,
            "TEST_AGENT": name,
        }
        meet = [
            "--nnodes",
            "2",
            "--nproc-per-node",
            "1",
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            f"127.0.0.1:{self.port}",
        ]
        agent = [
            *meet,
            "--rdzv-id",
            "two",
            "--local-addr",
            "127.0.0.1",
            "--max-restarts",
            str(RESTARTS),
        ]
        handler = ["--handlers", f"{self.folder / 'killer.py'}:kill_once"]
        command = [
            *agent,
            "-m",
            "fer_ignite",
            "train",
            *SETTINGS,
            *handler,
            "--out",
            str(self.folder),
        ]
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", *command],
                env=environment,
                stdout=log,
                stderr=log,
            )
        self.agents.append(process)
        return process

    def end(self, *agents: subprocess.Popen, limit_s: float = 240) -> list[int]:
        """Exit codes; a test that waits longer shows what was said."""
        try:
            until = time.monotonic() + limit_s
            return [agent.wait(until - time.monotonic()) for agent in agents]
        except subprocess.TimeoutExpired:
            pytest.fail(
                "\n".join(
                    path.read_text(errors="replace")[-3000:] for path in self.folder.glob("*.log")
                )
            )

    @property
    def summary(self) -> dict:
        return json.loads((self.folder / "run" / "summary.json").read_text())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def machines(tmp_path):
    made = Machines(tmp_path)
    yield made
    for agent in made.agents:
        agent.kill()
        agent.wait()


@pytest.fixture(scope="module")
def preserve_global_state(tmp_path_factory):
    """The summary of a run of two agents that nothing happened to."""
    made = Machines(tmp_path_factory.mktemp("undisturbed"))
    assert made.end(made.start("one"), made.start("two")) == [0, 0]
    return made.summary


def test_two_agents_make_one_run_with_the_weights_of_one_group_of_two(
    preserve_global_state, tmp_path
):
    assert (
        preserve_global_state["world_size"],
        preserve_global_state["iterations"],
        preserve_global_state["status"],
    ) == (2, 21, "completed")
    settings = [*SETTINGS, "--nproc", "2", "--out", str(tmp_path)]
    subprocess.run(
        [sys.executable, "-m", "fer_ignite", "train", *settings],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    alone = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert alone["weights_sha256"] == preserve_global_state["weights_sha256"]


def test_an_agent_that_is_killed_and_started_again_ends_with_the_same_weights(
    machines, preserve_global_state
):
    first = machines.start("first")
    time.sleep(4)  # who comes first keeps the meeting point, and must not be the one that dies
    second = machines.start("second", kills="agent")
    assert machines.end(second) == [-signal.SIGKILL]
    again = machines.start("again")
    assert machines.end(first, again) == [0, 0]
    assert machines.summary["weights_sha256"] == preserve_global_state["weights_sha256"]


def test_a_killed_process_is_restarted_on_both_machines_and_ends_with_the_same_weights(
    machines, preserve_global_state
):
    agents = [machines.start(name, kills="process") for name in ("one", "two")]
    assert machines.end(*agents) == [0, 0]
    assert (machines.folder / "killed").read_text() in ("one", "two")
    assert machines.summary["weights_sha256"] == preserve_global_state["weights_sha256"]
