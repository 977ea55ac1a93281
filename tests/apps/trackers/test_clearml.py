import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fer_ignite.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

pytest.importorskip("clearml")


def figures(session_folder, title, series):
    """What an offline session's metrics file has of one curve: batches of events, a line each."""
    found = []
    for line in (Path(session_folder) / "metrics.jsonl").read_text().splitlines():
        events = json.loads(line)
        for event in events if isinstance(events, list) else [events]:
            if event.get("metric") == title and event.get("variant") == series:
                found.append((event["iter"], event["value"]))
    return sorted(found)


def trained(tiny_flags, folder, *more):
    # In a process of its own: ClearML takes over sys.exit, the excepthook and more, for the life of the process.
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "fer_ignite",
            "train",
            *tiny_flags[:2],
            *tiny_flags[4:],
            "--track",
            "clearml",
            "--log-every",
            "2",
            *more,
        ],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CLEARML_OFFLINE_MODE": "1"},
        capture_output=True,
        text=True,
    )
    return ended


def test_an_offline_session_has_settings_and_figures_and_a_resume_adds_a_second_one(
    tiny_flags, tmp_path
):
    first = trained(tiny_flags, tmp_path, "--epochs", "1")
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "runs" / "run"
    entry = json.loads((folder / "trackers.json").read_text())["clearml"]
    (session,) = entry["places"]
    assert (
        Path(session + ".zip").exists()
        and entry["id"].startswith("offline-")
        and entry["id"] in session
    )
    task = json.loads((Path(session) / "task.json").read_text())
    assert task["name"] == "run"
    assert task["hyperparams"]["General"]["batch_size"]["value"] == "32"
    (line,) = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert figures(session, "val", "accuracy") == [(4, pytest.approx(line["val_accuracy"]))]
    assert [step for step, _ in figures(session, "lr", "group_0")] == [2, 4]
    second = trained(tiny_flags, tmp_path, "--epochs", "2", "--resume", "auto")
    assert second.returncode == 0, second.stderr
    entry = json.loads((folder / "trackers.json").read_text())["clearml"]
    assert len(entry["places"]) == 2 and entry["places"][0] == session
    assert [step for step, _ in figures(entry["places"][1], "lr", "group_0")] == [6, 8]
    assert [step for step, _ in figures(entry["places"][1], "val", "accuracy")] == [8]


def test_an_interrupt_is_still_the_run_s_own(tiny_flags, tmp_path):
    (tmp_path / "cut.py").write_text(
        "import os, signal\nfrom ignite.engine import Events\n"
        "def watch(session):\n"
        "    session.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda: os.kill(os.getpid(), signal.SIGINT))\n"
    )
    ended = trained(tiny_flags, tmp_path, "--epochs", "2", "--handlers", "./cut.py:watch")
    assert ended.returncode == 128 + signal.SIGINT, ended.stderr
    assert (
        json.loads((tmp_path / "runs" / "run" / "summary.json").read_text())["status"]
        == "interrupted"
    )


def test_without_a_configuration_it_is_one_sentence_before_the_start(
    tmp_path, monkeypatch, capsys, tiny_flags
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["train", *tiny_flags, "--track", "clearml"])
    assert ended.value.code == 2 and "ClearML isn't set up" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
