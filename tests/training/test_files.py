import csv
import json

import pytest
from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event

from fer_ignite.errors import StorageError
from fer_ignite.training.files import RunFolder, _records


def line(epoch, **more):
    return {"epoch": epoch, "iteration": 10 * epoch, "val_loss": 1 / epoch, **more}


@pytest.fixture
def folder(tmp_path):
    made = RunFolder(tmp_path / "run")
    made.create()
    return made


def scalars(folder):
    found = []
    for file in sorted(folder.tensorboard.glob("events.*")):
        for record in _records(file.read_bytes()):
            event = Event.FromString(record)
            found += [(event.step, value.tag, round(value.simple_value, 4)) for value in event.summary.value]
    return found


def write_scalars(folder, steps):
    writer = SummaryWriter(str(folder.tensorboard))
    for step in steps:
        writer.add_scalar("train/loss", step / 10, step)
    writer.close()


def test_a_new_folder_holds_no_run(folder):
    assert not folder.holds_a_run
    folder.write_config({"lr": 0.1})
    assert folder.holds_a_run
    assert folder.config.read_text() == "lr: 0.1\n"


def test_a_checkpoint_alone_is_a_run(folder):
    (folder.checkpoints / "step-3.pt").write_bytes(b"x")
    assert folder.holds_a_run


def test_a_folder_that_can_t_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/run"):
        RunFolder(tmp_path / "file" / "run").create()


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
    folder.cut_back(10)
    folder.append_history(line(2))
    assert [entry["epoch"] for entry in folder.read_history()] == [1, 2]


def test_cutting_back_drops_what_came_after_the_resume_point(folder):
    for epoch in (1, 2, 3):
        folder.append_history(line(epoch))
    write_scalars(folder, range(31))
    folder.cut_back(20)
    assert [entry["iteration"] for entry in folder.read_history()] == [10, 20]
    assert len(folder.results.read_text().splitlines()) == 3
    assert scalars(folder) == [(step, "train/loss", step / 10) for step in range(21)]


def test_tensorboard_s_own_reader_accepts_a_cut_file(folder):
    """Every record's checksums are right: masked CRC-32C of length and content, as the writer computes them."""
    write_scalars(folder, range(5))
    (file,) = folder.tensorboard.glob("events.*")
    before = file.read_bytes()
    folder.cut_back(10**9)
    assert file.read_bytes() == before


def test_a_tensorboard_file_that_a_crash_cut_short_is_mended(folder):
    write_scalars(folder, range(5))
    (file,) = folder.tensorboard.glob("events.*")
    file.write_bytes(file.read_bytes()[:-7])
    folder.cut_back(100)
    assert [step for step, _, _ in scalars(folder)] == [0, 1, 2, 3]


def test_cutting_back_a_folder_without_history_leaves_an_empty_one(folder):
    folder.cut_back(0)
    assert list(folder.read_history()) == []


def test_clearing_removes_the_run_and_nothing_else(folder):
    folder.append_history(line(1))
    folder.write_config({})
    folder.write_summary({"status": "completed"})
    folder.note_test({"n": 1})
    write_scalars(folder, [1])
    (folder.checkpoints / "step-1.pt").write_bytes(b"x")
    (folder.path / "notes.txt").write_text("mine")
    (folder.plots / "mine.svg").write_text("mine")
    folder.clear()
    left = sorted(path.name for path in folder.path.rglob("*") if path.is_file())
    assert left == ["config.yaml", "mine.svg", "notes.txt"]


def test_looks_at_the_test_split_are_counted(folder):
    assert folder.looks_at_test() == 0
    for _ in range(3):
        folder.note_test({"by": "evaluate"})
    assert folder.looks_at_test() == 3
    assert json.loads(folder.ledger.read_text().splitlines()[0]) == {"by": "evaluate"}
