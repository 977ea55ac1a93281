"""Two machines without torchrun: a launcher on each, one of whose processes prepares the run for all."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NARROW = json.dumps({"widths": [8, 8], "blocks": [0, 0]})
SETTINGS = [
    *(
        "--data",
        "demo:140",
        "--epochs",
        "1",
        "--batch-size",
        "16",
        "--model-args",
        NARROW,
        "--precision",
        "fp32",
        "--device",
        "cpu",
    ),
    *(
        "--threads",
        "1",
        "--tta",
        "none",
        "--no-plots",
        "--no-tensorboard",
        "--quiet",
        "--dist-timeout",
        "60s",
    ),
]

pytestmark = pytest.mark.slow


def run_both(folder, *words):
    """Exit codes and what was said on each of two "machines" that share a folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        meet = [
            "--nnodes",
            "2",
            "--master-addr",
            "127.0.0.1",
            "--master-port",
            str(probe.getsockname()[1]),
        ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    command = [
        sys.executable,
        "-m",
        "fer_ignite",
        "train",
        *SETTINGS,
        *meet,
        "--out",
        str(folder),
        *words,
    ]
    machines = [
        subprocess.Popen(
            [*command, "--node-rank", str(rank)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        for rank in (0, 1)
    ]
    said = [machine.communicate(timeout=180)[1] for machine in machines]
    return [machine.returncode for machine in machines], said


def test_a_run_over_two_launchers_has_one_folder(tmp_path):
    codes, said = run_both(tmp_path)
    assert codes == [0, 0], said
    (run,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["world_size"]) == ("completed", 2)
    codes, said = run_both(tmp_path, "--name", run.name)
    # a run lies there: both report it
    assert codes == [5, 5] and all(run.name in text for text in said), said
