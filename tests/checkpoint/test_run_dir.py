import csv
import json
import shutil

import pytest
import yaml
from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event

from fer_ignite.checkpoint.run_dir import RunDir, _records
from fer_ignite.errors import StorageError


def line(epoch, **more):
    return {"epoch": epoch, "iteration": 10 * epoch, "val_loss": 1 / epoch, **more}


@pytest.fixture
def folder(tmp_path):
    made = RunDir(tmp_path / "run")
    made.create()
    return made


def scalars(folder):
    found = []
    for file in sorted(folder.tensorboard.glob("events.*")):
        for record in _records(file.read_bytes()):
            event = Event.FromString(record)
            found += [
                (event.step, value.tag, round(value.simple_value, 4))
                for value in event.summary.value
            ]
    return found


def write_scalars(folder, steps):
    writer = SummaryWriter(str(folder.tensorboard))
    for step in steps:
        writer.add_scalar("train/loss", step / 10, step)
    writer.close()


def test_a_new_folder_holds_no_run(folder):
    assert not folder.holds_a_run
    folder.write_config({"lr": 0.1}, schema={})
    assert folder.holds_a_run
    assert yaml.safe_load(folder.config.read_text()) == {"lr": 0.1}
    assert "$schema=config.schema.json" in folder.config.read_text().splitlines()[0]


def test_a_checkpoint_alone_is_a_run(folder):
    (folder.checkpoints / "step-3.pt").write_bytes(b"x")
    assert folder.holds_a_run


def test_a_folder_that_can_t_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/run"):
        RunDir(tmp_path / "file" / "run").create()


def test_history_and_table_hold_the_same_lines(folder):
    for epoch in (1, 2, 3):
        folder.append_history(line(epoch, **({"extra": 5} if epoch == 3 else {})))
    assert [entry["epoch"] for entry in folder.read_history()] == [1, 2, 3]
    with folder.results.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["extra"] for row in rows] == ["", "", "5"]
    assert float(rows[1]["val_loss"]) == 0.5


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_last_line_that_a_crash_cut_short_is_passed_over_and_does_not_spoil_the_next(folder, cut):
    folder.append_history(line(1))
    folder.append_history(line(2))
    folder.history.write_text(folder.history.read_text()[:-cut])
    whole = [entry["epoch"] for entry in folder.read_history()]
    assert whole == ([1, 2] if cut == 1 else [1])
    folder.truncate_after(10)
    folder.append_history(line(2))
    assert [entry["epoch"] for entry in folder.read_history()] == [1, 2]


def test_cutting_back_drops_what_came_after_the_resume_point(folder):
    for epoch in (1, 2, 3):
        folder.append_history(line(epoch))
    write_scalars(folder, range(31))
    folder.truncate_after(20)
    assert [entry["iteration"] for entry in folder.read_history()] == [10, 20]
    assert len(folder.results.read_text().splitlines()) == 3
    assert scalars(folder) == [(step, "train/loss", step / 10) for step in range(21)]


def test_tensorboard_s_own_reader_accepts_a_cut_file(folder):
    """Every record's checksums are right: masked CRC-32C of length and content, as the writer computes them."""
    write_scalars(folder, range(5))
    (file,) = folder.tensorboard.glob("events.*")
    before = file.read_bytes()
    folder.truncate_after(10**9)
    assert file.read_bytes() == before


def test_a_tensorboard_file_that_a_crash_cut_short_is_mended(folder):
    write_scalars(folder, range(5))
    (file,) = folder.tensorboard.glob("events.*")
    file.write_bytes(file.read_bytes()[:-7])
    folder.truncate_after(100)
    assert [step for step, _, _ in scalars(folder)] == [0, 1, 2, 3]


def test_cutting_back_a_folder_without_history_leaves_an_empty_one(folder):
    folder.truncate_after(0)
    assert list(folder.read_history()) == []


def test_clearing_removes_the_run_and_nothing_else(folder):
    folder.append_history(line(1))
    folder.write_config({}, schema={})
    folder.write_summary({"status": "completed"})
    folder.log_test_access({"n": 1})
    write_scalars(folder, [1])
    (folder.checkpoints / "step-1.pt").write_bytes(b"x")
    folder.predictions("val").write_text("id\n")
    folder.predictions("test").write_text("id\n")
    (folder.path / "predictions_mine.csv").write_text("mine")
    (folder.path / "notes.txt").write_text("mine")
    (folder.plots / "mine.svg").write_text("mine")
    folder.clear()
    left = sorted(path.name for path in folder.path.rglob("*") if path.is_file())
    assert left == [
        "config.schema.json",
        "config.yaml",
        "mine.svg",
        "notes.txt",
        "predictions_mine.csv",
    ]


def test_looks_at_the_test_split_are_counted(folder):
    assert folder.test_evaluations() == 0
    for _ in range(3):
        folder.log_test_access({"by": "evaluate"})
    assert folder.test_evaluations() == 3
    assert json.loads(folder.test_access.read_text().splitlines()[0]) == {"by": "evaluate"}


LINE = b'{"epoch": 1, "iteration": 10, "val_loss": 1.0}\n'


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b"null\n",
        b"[]\n",
        b"3\n",
        b'{"epoch": 2}\n',
        b'{"iteration": "x", "epoch": 2}\n',
        b"\0" * 100,
        b"[" * 100_000,
        b'{"epoch": 2, "iter',
        b"\n\n",
    ],
)
def test_what_is_no_line_of_the_history_is_passed_over(folder, content):
    folder.history.write_bytes(content + b"\n" + LINE + content)
    assert [entry["epoch"] for entry in folder.read_history()] == [1]


def test_a_damaged_history_is_rebuilt_from_the_resume_point_s_lines_and_named(folder):
    for epoch in (1, 2, 3):
        folder.append_history(line(epoch, val_uar=float("nan")))
    text = folder.history_text()
    folder.history.write_bytes(LINE[:20] + b"\xff")
    other = RunDir(folder.path)
    other.truncate_after(20, text)
    assert [entry["epoch"] for entry in other.read_history()] == [1, 2]
    assert len(other.results.read_text().splitlines()) == 3
    (said,) = other.take_warnings()
    assert "history.jsonl" in said and "damaged" in said
    assert (folder.path / "damaged" / "1-history.jsonl").read_bytes() == LINE[:20] + b"\xff"


def test_a_whole_history_is_kept_without_a_word_and_a_missing_one_is_written_again(folder):
    for epoch in (1, 2, 3):
        folder.append_history(line(epoch, val_uar=float("nan")))
    text = folder.history_text()
    folder.truncate_after(20, text)
    assert folder.take_warnings() == [] and not (folder.path / "damaged").exists()
    folder.history.unlink()
    folder.truncate_after(20, text)
    assert [entry["epoch"] for entry in folder.read_history()] == [
        1,
        2,
    ] and folder.take_warnings() == []


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"null", b"\0\0", b"[" * 100_000])
def test_a_damaged_summary_counts_as_none_and_is_set_aside(folder, content):
    folder.summary.write_bytes(content)
    assert folder.read_summary() == {}
    folder.truncate_after(10)
    assert not folder.summary.exists() and "summary.json" in folder.take_warnings()[0]


def test_the_ledger_counts_damaged_lines_and_loses_none_that_comes_after_them(folder):
    assert folder.test_evaluations() == 0
    folder.test_access.write_bytes(b'\xff\n\n{"split": "te')
    folder.log_test_access({"split": "test"})
    assert folder.test_evaluations() == 3 and folder.read_test_accesses() == [{"split": "test"}]


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_flipped_byte_in_a_tensorboard_file_costs_what_can_t_be_read_and_is_named(folder, place):
    write_scalars(folder, range(31))
    (file,) = folder.tensorboard.glob("events.*")
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 0x10
    file.write_bytes(content)
    folder.truncate_after(20)
    found = scalars(folder)
    assert set(found) <= {(step, "train/loss", step / 10) for step in range(21)} and len(
        found
    ) >= min(20, int(30 * place) - 2)
    (said,) = folder.take_warnings()
    assert file.name in said
    (kept,) = (folder.path / "damaged").iterdir()
    assert kept.read_bytes() == content and "tfevents" not in kept.name


def test_zeros_behind_a_tensorboard_file_go(folder):
    write_scalars(folder, range(3))
    (file,) = folder.tensorboard.glob("events.*")
    whole = file.read_bytes()
    file.write_bytes(whole + bytes(500))
    folder.truncate_after(10)
    assert file.read_bytes() == whole and file.name in folder.take_warnings()[0]


@pytest.mark.parametrize(
    "name", ["config", "summary", "history", "results", "log", "test_access", "trackers"]
)
def test_a_folder_in_a_file_s_place_is_set_aside(folder, name):
    path = getattr(folder, name)
    (path / "within").mkdir(parents=True)
    folder.create()
    assert not path.exists() and path.name in folder.take_warnings()[0]
    assert (folder.path / "damaged" / f"1-{path.name}" / "within").is_dir()


@pytest.mark.parametrize("name", ["plots", "tensorboard"])
def test_a_file_in_a_folder_s_place_is_set_aside(folder, name):
    path = getattr(folder, name)
    path.rmdir() if path.exists() else None
    path.write_text("")
    folder.create()
    assert not path.is_file() and path.name in folder.take_warnings()[0]


def put_folder(path):
    path.unlink(missing_ok=True)
    (path / "within").mkdir(parents=True)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x41
    path.write_bytes(content)


DAMAGES = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(200)),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": flip,
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x80"),
    "null": lambda path: path.write_bytes(b"null\n"),
    "a list": lambda path: path.write_bytes(b"[1, 2]\n"),
    "zeros at the end": lambda path: path.write_bytes(path.read_bytes() + bytes(64)),
    "a folder": put_folder,
}
SIDE_FILES = (
    "history.jsonl",
    "summary.json",
    "results.csv",
    "config.yaml",
    "log.txt",
    "test_access.jsonl",
    "tensorboard",
)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of two epochs, its folder and what a resume for a third epoch makes of it."""
    from fer_ignite import train
    from fer_ignite.config import check

    out = tmp_path_factory.mktemp("begun")
    settings = {
        "data": "demo:140",
        "epochs": 2,
        "batch_size": 32,
        "model_args": {"widths": [8, 8], "blocks": [0, 0]},
        "precision": "fp32",
        "threads": 1,
        "device": "cpu",
        "plots": False,
        "quiet": True,
        "name": "run",
        "out": str(out),
    }
    train(check(settings))
    shutil.copytree(out / "run", out / "kept")
    summary = train(check({**settings, "epochs": 3, "resume": "auto"}))
    return out / "kept", summary["weights_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", SIDE_FILES)
def test_no_damage_to_a_side_file_stops_a_resume_or_loses_an_epoch(
    begun, tiny, tmp_path, name, damage
):
    from fer_ignite import train

    kept, digest = begun
    folder = RunDir(shutil.copytree(kept, tmp_path / "run"))
    path = next(folder.tensorboard.iterdir()) if name == "tensorboard" else folder.path / name
    DAMAGES[damage](path)
    summary = train(tiny(epochs=3, resume="auto", tensorboard=True))
    assert summary["status"] == "completed" and summary["weights_sha256"] == digest
    assert [entry["epoch"] for entry in folder.read_history()] == [1, 2, 3]
    assert [row.split(",")[0] for row in folder.results.read_text().splitlines()] == [
        "epoch",
        "1",
        "2",
        "3",
    ]
    assert folder.read_summary()["epochs"] == 3 and folder.test_evaluations() >= 1


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["history.jsonl", "summary.json", "results.csv"])
def test_a_finished_run_with_a_damaged_side_file_has_its_summary_after_a_resume(
    begun, tiny, tmp_path, name, damage
):
    from fer_ignite import train

    kept, _ = begun
    folder = RunDir(shutil.copytree(kept, tmp_path / "run"))
    before = folder.read_summary()
    DAMAGES[damage](folder.path / name)
    summary = train(tiny(resume="auto"))
    assert (
        summary["weights_sha256"] == before["weights_sha256"]
        and summary["test"]["accuracy"] == before["test"]["accuracy"]
    )
    assert folder.read_summary()["status"] == "completed"


def test_lines_of_another_copy_of_the_test_access_log_are_added_once(tmp_path):
    folder = RunDir(tmp_path)
    folder.test_access.write_bytes(b'{"n": 1}\n{"n": 2')  # cut short
    folder.merge_test_accesses(b'{"n": 1}\n{"n": 3}\n{"n": 3}\n')
    folder.merge_test_accesses(b'{"n": 3}\n{"n": 3}\n')
    assert folder.test_access.read_bytes() == b'{"n": 1}\n{"n": 2\n{"n": 3}\n{"n": 3}\n'
