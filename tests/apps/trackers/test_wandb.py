import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ignite.engine import Events

from fer_ignite import train
from fer_ignite.apps.trackers.wandb_tracker import _online, _server
from fer_ignite.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

wandb = pytest.importorskip("wandb")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")


def _leveldb_log(content):
    """Records of a LevelDB log behind W&B's 7 bytes: blocks of 32 KiB; checksum, length, kind (1 whole, 2 first, 3, 4 last)."""
    place, parts = 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        size, kind = struct.unpack_from("<HB", content, place + 4)
        parts += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):
            yield parts
            parts = b""


def rows(path):
    """What an offline run's file holds: history rows, settings, names of artifacts, the exit code."""
    from wandb.proto import wandb_internal_pb2

    history, settings, artifacts, exit_code = [], {}, [], None
    for data in _leveldb_log(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            history.append(
                {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
            )
        elif kind == "run":
            settings |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "exit":
            exit_code = record.exit.exit_code
        elif kind == "request" and record.request.HasField("log_artifact"):
            artifacts.append(record.request.log_artifact.artifact.name)
        elif kind == "artifact":
            artifacts.append(record.artifact.name)
    return history, settings, artifacts, exit_code


def finished_rows(path):
    """:func:`rows`, as soon as they end with the exit code: W&B's own process may still write them on a busy machine."""
    end = time.monotonic() + 30
    while (found := rows(path))[-1] is None and time.monotonic() < end:
        time.sleep(0.1)
    return found


def offline_files(folder):
    return sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))


def column(history, name):
    return [(row["_step"], row[name]) for row in history if name in row]


def test_an_offline_run_lies_in_the_run_s_folder_with_settings_figures_and_checkpoint(tiny):
    summary = train(tiny(track="wandb", log_every=2, plots=True))
    folder = Path(summary["folder"])
    (file,) = offline_files(folder)
    history, settings, artifacts, exit_code = finished_rows(file)
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert column(history, "val/accuracy") == [
        (line["iteration"], line["val_accuracy"]) for line in lines
    ]
    assert column(history, "train/loss") == [
        (line["iteration"], line["train_loss"]) for line in lines
    ]
    assert [step for step, _ in column(history, "lr/group_0")] == [2, 4, 6, 8]
    assert [step for step, _ in column(history, "step/step_loss")] == [2, 4, 6, 8]
    assert column(history, "final/test_accuracy") == [(8, summary["test"]["accuracy"])]
    assert (
        settings["batch_size"] == 32
        and settings["run.data_fingerprint"] == summary["data"]["fingerprint"]
    )
    assert [name for name in artifacts if "best" in name] and exit_code == 0
    assert {
        path.name for path in (file.parent / "files" / "media" / "images" / "plots").glob("*.png")
    }
    entry = json.loads((folder / "trackers.json").read_text())["wandb"]
    assert entry["id"] in file.name and entry["places"] == [str(file.parent)]
    assert wandb.run is None


def test_a_killed_run_continues_under_the_same_id_and_sends_nothing_twice(tiny_flags, tmp_path):
    (tmp_path / "kill.py").write_text(
        "import os, time\nfrom ignite.engine import Events\n"
        "def watch(session):\n"
        "    @session.trainer.on(Events.ITERATION_COMPLETED(once=6))\n"
        "    def kill(engine):\n"
        "        time.sleep(5)  # W&B writes once a second\n"
        "        os.kill(os.getpid(), 9)\n"
    )
    arguments = [
        sys.executable,
        "-m",
        "fer_ignite",
        "train",
        *tiny_flags[:2],
        *tiny_flags[4:],
        "--epochs",
        "2",
        "--track",
        "wandb",
        "--log-every",
        "1",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.run(
        [*arguments, "--handlers", "./kill.py:watch"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
    )
    assert first.returncode == -signal.SIGKILL
    second = subprocess.run(
        [*arguments, "--resume", "auto"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert second.returncode == 0, second.stderr
    folder = tmp_path / "runs" / "run"
    files = offline_files(folder)
    entry = json.loads((folder / "trackers.json").read_text())["wandb"]
    assert len(files) == 2 and {file.name for file in files} == {f"run-{entry['id']}.wandb"}
    assert entry["places"] == [str(file.parent) for file in files]
    steps = [[step for step, _ in column(rows(file)[0], "lr/group_0")] for file in files]
    assert steps[0] == list(range(1, len(steps[0]) + 1)) and steps[0] and steps[1][-1] == 8
    # W&B writes a row when the next begins, so that the last one may be missing
    assert not set(steps[0]) & set(steps[1])
    assert len(set(range(1, 9)) - {*steps[0], *steps[1]}) <= 1
    assert [step for file in files for step, _ in column(rows(file)[0], "val/accuracy")] == [4, 8]


def test_tracking_offline_leaves_weights_and_signals_alone_and_ends_with_the_run(tiny):
    drawn = []

    def draw(session):
        import random

        session.trainer.add_event_handler(Events.COMPLETED, lambda: drawn.append(random.random()))

    import random

    random.seed(7)
    plain = train(tiny(name="plain"), handlers=[draw])
    random.seed(7)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    tracked = train(tiny(name="tracked", track="wandb", log_every=1), handlers=[draw])
    assert tracked["weights_sha256"] == plain["weights_sha256"] and drawn[0] == drawn[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_no_key_reaches_the_run_s_folder(tiny, monkeypatch):
    key = "0123456789abcdef" * 2 + "01234567"
    monkeypatch.setenv("WANDB_API_KEY", key)
    folder = Path(train(tiny(track="wandb", epochs=1))["folder"])
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 5
    assert [file for file in files if key.encode() in file.read_bytes()] == []


def test_the_mode_and_the_server_in_w_and_b_s_own_files_count(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    assert _online() and _server() == "https://api.wandb.ai"
    subprocess.run([sys.executable, "-m", "wandb", "offline"], check=True, capture_output=True)
    assert not _online()
    monkeypatch.setenv("WANDB_MODE", "online")
    assert _online()
    (tmp_path / "config").mkdir(exist_ok=True)
    # as `wandb login --host` writes it
    (tmp_path / "config" / "settings").write_text("[default]\nbase_url = https://own.example/\n")
    assert _server() == "https://own.example"
    (tmp_path / "config" / "settings").write_bytes(b"\xff[")
    assert _server() == "https://api.wandb.ai"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "there is no API key; run 'wandb login' once, or set WANDB_MODE=offline"),
        (
            {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"},
            "http://127.0.0.1:9: ",
        ),
    ],
)
def test_online_without_a_key_or_a_server_is_one_sentence_before_the_start(
    tmp_path, monkeypatch, capsys, tiny_flags, settings, said
):
    monkeypatch.delenv("WANDB_MODE")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["train", *tiny_flags, "--track", "wandb"])
    assert ended.value.code == 2 and said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
