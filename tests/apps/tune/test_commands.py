"""find-lr, tune and train --folds as a user types them, each in a process of its own."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("optuna")

TINY = (
    "--data",
    "demo:140",
    "--batch-size",
    "32",
    "--precision",
    "fp32",
    "--threads",
    "1",
    "--device",
    "cpu",
    "--model-args",
    "{widths: [8, 8], blocks: [0, 0]}",
)


def start(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "fer_ignite", *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ended(process):
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def test_the_help_of_the_new_commands_needs_no_torch():
    code = (
        "import sys\nfrom fer_ignite.cli.main import main\n"
        "for name in ('tune', 'find-lr'):\n"
        "    try: main([name, '--help'])\n"
        "    except SystemExit as e: assert e.code == 0\n"
        "assert not {'torch', 'ignite', 'optuna', 'matplotlib'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_tune_offers_no_flag_that_it_refuses(cli, tmp_path):
    shown = cli("tune", "--help").out
    assert [
        flag for flag in ("--exist-ok", "--resume", "--override") if flag in shown
    ] == [] and "--name" in shown
    (tmp_path / "space.yaml").write_text("lr: {log: [0.001, 0.1]}\n")
    ended = cli("tune", tmp_path / "space.yaml", "--exist-ok", *TINY)
    assert (
        ended.code == 2
        and "--exist-ok is about a single run" in ended.err
        and len(ended.err.splitlines()) == 1
    )
    assert list(ended.folder.iterdir()) == []


@pytest.mark.slow
def test_two_workers_share_a_search(tmp_path):
    (tmp_path / "space.yaml").write_text("lr: {log: [0.001, 0.1]}\nsmoothing: {float: [0, 0.2]}\n")
    command = (
        "tune",
        "space.yaml",
        "--trials",
        "6",
        "--epochs",
        "1",
        "--monitor",
        "loss",
        "--json",
        *TINY,
    )
    both = [ended(process) for process in [start(tmp_path, *command), start(tmp_path, *command)]]
    assert [code for code, _, _ in both] == [0, 0], [err for _, _, err in both]
    folder = tmp_path / "runs" / "tune-space"
    rows = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    # One may begin while the other ends: at most a trial more.
    assert 6 <= len(rows) <= 7 and {row["state"] for row in rows} == {"complete"}
    assert len({row["lr"] for row in rows}) == len(rows) == len(list(folder.glob("trial-*")))
    results = [json.loads(out) for _, out, _ in both]
    assert min(result["best"]["value"] for result in results) == min(
        float(row["value"]) for row in rows
    )
    assert all(set(result["importance"]) == {"lr", "smoothing"} for result in results)
    assert (folder / "importance.png").read_bytes().startswith(b"\x89PNG") and not (
        folder / "workers"
    ).exists()


@pytest.mark.slow
def test_an_interrupted_trial_waits_in_its_folder_for_the_next_start(tmp_path):
    (tmp_path / "space.yaml").write_text("lr: {log: [0.001, 0.1]}\n")
    command = ("tune", "space.yaml", "--trials", "1", "--epochs", "30", "--no-prune", *TINY)
    process = start(tmp_path, *command)
    history = tmp_path / "runs" / "tune-space" / "trial-0000" / "history.jsonl"
    deadline = time.monotonic() + 120
    while not (history.exists() and history.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    code, out, err = ended(process)
    assert code == 130 and "1 waiting" in out, err
    code, out, err = ended(start(tmp_path, *command))
    assert code == 0 and "1 complete" in out, err
    epochs = [json.loads(line)["epoch"] for line in history.read_text().splitlines()]
    assert epochs == list(range(1, 31)) and not (history.parent.parent / "trial-0001").exists()
