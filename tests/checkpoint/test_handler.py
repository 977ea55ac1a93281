import errno
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint

import fer_ignite
from fer_ignite import train
from fer_ignite.checkpoint.format import load_checkpoint
from fer_ignite.checkpoint.handler import (
    AtomicSaver,
    BestCheckpoint,
    PlainState,
    ResumeCheckpoint,
    attach_best,
    attach_resume_points,
)
from fer_ignite.errors import CheckpointError, ConfigError, StorageError

CHILD = Path(__file__).with_name("saving_child.py")


def entries(trainer: Engine, **more: Any) -> dict[str, Any]:
    plain = {"kind": "step", "config": {}, "classes": ["a", "b"], "preprocessing": {}}
    states = {name: PlainState(value) for name, value in plain.items()}
    counters = PlainState(lambda: {"iteration": trainer.state.iteration})
    return states | {"model": torch.nn.Linear(2, 2), "trainer": counters} | more


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def trainer_with_points(folder: Path, **arguments: Any) -> tuple[Engine, ResumeCheckpoint]:
    trainer = Engine(lambda engine, batch: None)
    saver = AtomicSaver(folder, **arguments)
    points = attach_resume_points(
        trainer, entries(trainer), saver=saver, event=Events.ITERATION_COMPLETED(every=5)
    )
    return trainer, points


def scored(folder: Path, scores: list[float]) -> tuple[BestCheckpoint, list[int]]:
    """Evaluates once per score; returns the handler and the iterations at which best.pt was written."""
    trainer, evaluator, written = (
        Engine(lambda engine, batch: None),
        Engine(lambda engine, batch: None),
        [],
    )
    to_save = entries(trainer)
    best = attach_best(
        evaluator,
        to_save,
        saver=AtomicSaver(folder),
        score=lambda engine: engine.state.score,
        trainer=trainer,
    )
    evaluator.register_events(*Checkpoint.SAVED_CHECKPOINT.__class__)
    evaluator.add_event_handler(
        Checkpoint.SAVED_CHECKPOINT, lambda: written.append(trainer.state.iteration)
    )

    @trainer.on(Events.ITERATION_COMPLETED)
    def evaluate(engine: Engine) -> None:
        evaluator.state.score = scores[engine.state.iteration - 1]
        evaluator.run([0])

    trainer.run(range(len(scores)), max_epochs=1)
    return best, written


def test_the_newest_two_resume_points_stay_and_last_is_the_newest(tmp_path: Path):
    trainer, points = trainer_with_points(tmp_path)
    trainer.run(range(10), max_epochs=2)
    assert names(tmp_path) == ["last.pt", "step-15.pt", "step-20.pt"]
    assert load_checkpoint(tmp_path / "last.pt")["trainer"]["iteration"] == 20
    assert (tmp_path / "last.pt").samefile(tmp_path / "step-20.pt")
    assert points.last_checkpoint == tmp_path / "step-20.pt"


def test_saving_twice_at_one_iteration_keeps_the_file_just_written(tmp_path: Path):
    trainer, points = trainer_with_points(tmp_path)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, points)
    trainer.run(range(10), max_epochs=1)
    assert names(tmp_path) == ["last.pt", "step-10.pt", "step-5.pt"]


def test_another_checkpoint_handler_on_the_same_event_does_not_change_the_names(tmp_path: Path):
    trainer, _ = trainer_with_points(tmp_path)
    other = attach_resume_points(
        trainer,
        entries(trainer),
        saver=AtomicSaver(tmp_path),
        event=Events.ITERATION_COMPLETED(every=5),
    )
    trainer.run(range(5), max_epochs=1)
    assert names(tmp_path) == ["last.pt", "step-5.pt"]
    assert trainer.has_event_handler(other)


def test_files_of_an_earlier_start_are_pruned_as_own_ones_and_a_lost_future_goes(tmp_path: Path):
    trainer, _ = trainer_with_points(tmp_path)
    trainer.run(range(10), max_epochs=3)
    assert names(tmp_path) == ["last.pt", "step-25.pt", "step-30.pt"]
    again, points = trainer_with_points(tmp_path)
    points.add_existing(up_to=25)
    again.state.iteration = 27
    assert names(tmp_path) == ["last.pt", "step-25.pt", "step-30.pt"], (
        "nothing goes before the new one is durable"
    )
    points(again)
    assert names(tmp_path) == ["last.pt", "step-25.pt", "step-27.pt"]
    again.state.iteration = 35
    points(again)
    assert names(tmp_path) == ["last.pt", "step-27.pt", "step-35.pt"]


def test_the_best_is_the_highest_score_and_equal_ones_keep_the_first(tmp_path: Path):
    best, written = scored(tmp_path, [0.3, 0.5, 0.5, 0.4, 0.6])
    assert written == [1, 2, 5]
    assert best.best == {"value": 0.6, "iteration": 5, "epoch": 1}
    assert load_checkpoint(tmp_path / "best.pt")["trainer"]["iteration"] == 5
    assert names(tmp_path) == ["best.pt"]


def test_scores_that_are_not_finite_never_count_wherever_they_come(tmp_path: Path):
    best, written = scored(tmp_path, [math.nan, math.inf, 0.2, math.nan, -math.inf, 0.1, 0.3])
    assert written == [3, 7]
    assert best.best["value"] == 0.3


def test_the_best_state_survives_and_a_worse_epoch_after_it_changes_nothing(tmp_path: Path):
    before, _ = scored(tmp_path, [0.7])
    state, content = before.state_dict(), (tmp_path / "best.pt").read_bytes()
    trainer, evaluator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
    after = attach_best(
        evaluator,
        entries(trainer),
        saver=AtomicSaver(tmp_path),
        score=lambda engine: engine.state.score,
        trainer=trainer,
    )
    after.load_state_dict(json.loads(json.dumps(state)))
    for score in (0.6, math.nan, 0.7):
        evaluator.state.score = score
        evaluator.run([0])
    assert (tmp_path / "best.pt").read_bytes() == content
    evaluator.state.score = 0.8
    evaluator.run([0])
    assert (tmp_path / "best.pt").read_bytes() != content
    assert after.state_dict()["value"] == 0.8


def test_the_best_file_knows_its_own_score(tmp_path: Path):
    trainer, evaluator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
    to_save = entries(trainer)
    best = attach_best(
        evaluator, to_save, saver=AtomicSaver(tmp_path), score=lambda engine: 0.5, trainer=trainer
    )
    to_save["best"] = best
    evaluator.run([0])
    assert load_checkpoint(tmp_path / "best.pt")["best"]["value"] == 0.5


def test_one_entry_and_one_kept_file_are_refused(tmp_path: Path):
    trainer = Engine(lambda engine, batch: None)
    with pytest.raises(ConfigError, match="at least two"):
        attach_resume_points(
            trainer,
            {"model": torch.nn.Linear(1, 1)},
            saver=AtomicSaver(tmp_path),
            event=Events.COMPLETED,
        )
    with pytest.raises(ConfigError, match="at least 2"):
        attach_resume_points(
            trainer, entries(trainer), saver=AtomicSaver(tmp_path), event=Events.COMPLETED, keep=1
        )


def test_a_folder_that_is_gone_is_a_storage_error_with_the_path(tmp_path: Path):
    trainer, points = trainer_with_points(tmp_path / "none")
    with pytest.raises(StorageError, match=r"none/step-5\.pt.*No such file or directory"):
        trainer.run(range(5), max_epochs=1)
    assert points.last_checkpoint is None


@pytest.mark.parametrize("kind", [StorageError, ConfigError, CheckpointError])
def test_an_error_on_one_process_is_raised_on_all_as_what_it_is(tmp_path: Path, kind):
    heard: list[str | None] = []

    def agree(text: str | None) -> str | None:
        heard.append(text)
        return f"{kind.exit_code} {kind.__name__} the disk of process 0 is full"

    trainer, points = trainer_with_points(tmp_path, agree=agree)
    with pytest.raises(kind, match=r"^the disk of process 0"):
        trainer.run(range(5), max_epochs=1)
    assert heard == [None] and points.last_checkpoint is None


def test_every_process_is_asked_also_where_the_content_is_at_fault(tmp_path: Path):
    heard: list[str | None] = []
    trainer = Engine(lambda engine, batch: None)
    saver = AtomicSaver(tmp_path, agree=lambda text: heard.append(text) or text)
    to_save = entries(trainer, handlers=PlainState({"mine": {1, 2}}))
    attach_resume_points(trainer, to_save, saver=saver, event=Events.ITERATION_COMPLETED)
    with pytest.raises(CheckpointError, match=r"handlers\.mine is a builtins\.set"):
        trainer.run(range(1), max_epochs=1)
    assert len(heard) == 1 and "handlers.mine" in str(heard[0])
    assert names(tmp_path) == []


def test_a_type_error_while_saving_is_not_answered_by_saving_again(tmp_path: Path):
    class Counting(AtomicSaver):
        calls = 0

        def _write(self, *arguments: Any, **options: Any) -> Exception:
            self.calls += 1
            return TypeError("unsupported operand")

    trainer, saver = Engine(lambda engine, batch: None), Counting(tmp_path)
    attach_resume_points(trainer, entries(trainer), saver=saver, event=Events.ITERATION_COMPLETED)
    with pytest.raises(RuntimeError, match="unsupported operand"):
        trainer.run(range(1), max_epochs=1)
    assert saver.calls == 1


def test_an_error_after_the_save_leaves_the_record_with_the_new_file(tmp_path: Path):
    trainer, points = trainer_with_points(tmp_path)
    trainer.register_events(*Checkpoint.SAVED_CHECKPOINT.__class__)

    @trainer.on(Checkpoint.SAVED_CHECKPOINT)
    def fail() -> None:
        raise RuntimeError("a user's handler")

    with pytest.raises(RuntimeError, match="a user's handler"):
        trainer.run(range(5), max_epochs=1)
    assert points.last_checkpoint == tmp_path / "step-5.pt"


def test_a_file_that_cannot_be_removed_is_tried_again_later(tmp_path: Path):
    saver = AtomicSaver(tmp_path)
    (tmp_path / "stuck").mkdir()
    saver.remove("stuck")
    saver.remove("never was there")
    content = {
        name: entry.state_dict()
        for name, entry in entries(Engine(lambda engine, batch: None)).items()
    }
    saver(content, "step-1.pt")
    assert saver.pending == ["stuck"] and saver.written == 1


def child(*arguments: str, prefix: tuple[str, ...] = ()) -> str:
    root = str(Path(fer_ignite.__path__[0]).parent)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    command = [*prefix, sys.executable, str(CHILD), *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_a_full_disk_at_any_byte_leaves_the_old_files_and_the_next_save_works(tmp_path: Path):
    texts = json.loads(child("limit", str(tmp_path)))
    assert len(texts) == 20
    for trial, text in enumerate(texts):
        assert str(tmp_path / str(trial) / "step-3.pt") in text and "File too large" in text


@pytest.mark.slow
def test_a_full_file_system_leaves_the_old_files_and_the_next_save_works(tmp_path: Path):
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path}"
    probe = ("unshare", "-rm", "sh", "-c")
    if (
        shutil.which("unshare") is None
        or subprocess.run([*probe, mount], capture_output=True).returncode
    ):
        pytest.skip("this machine lets us mount no file system of our own")
    texts = json.loads(child("fill", str(tmp_path), prefix=(*probe, f'{mount} && exec "$@"', "sh")))
    assert len(texts) == 20
    for text in texts:
        assert str(tmp_path / "step-3.pt") in text and "No space left on device" in text


@pytest.mark.slow
def test_two_processes_write_once_fail_together_and_keep_the_same_record(tmp_path: Path):
    child("pair", str(tmp_path))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert "step-4.pt" in first["heard"] and "File too large" in first["heard"]
    assert first["record"] == ["step-3.pt", "step-4.pt"]
    assert first["files"] == ["last.pt", "step-3.pt", "step-4.pt"]


@pytest.mark.slow
def test_a_kill_at_any_point_of_a_save_leaves_a_whole_checkpoint(tmp_path: Path):
    found = json.loads(child("kill", str(tmp_path)))
    assert len(found) == 15
    for point, result in found.items():
        assert result["killed"] and result["skipped"] == 0, (point, result)
        # Resume points are saved at every iteration, bests at 2 and 4, before the resume point.
        renamed = point in ("after-rename", "after-dirsync", "before-prune", "mid-prune")
        assert result["newest"] == (3 if renamed or point.startswith("best-") else 2), (
            point,
            result,
        )
        unfinished = point.removeprefix("best-") in ("mid-write", "after-write", "after-fsync")
        assert result["temporary"] == int(unfinished), (point, result)


@pytest.mark.slow
def test_the_old_file_goes_only_after_the_new_one_and_its_name_are_synced(tmp_path: Path):
    trace = tmp_path / "trace"
    watched = "trace=openat,fsync,rename,renameat,renameat2,unlink,unlinkat,link,linkat"
    prefix = ("strace", "-f", "--seccomp-bpf", "-e", watched, "-o", str(trace))
    if (
        shutil.which("strace") is None
        or subprocess.run([*prefix, "true"], capture_output=True).returncode
    ):
        pytest.skip("strace is not installed, or may not trace here")
    (tmp_path / "run").mkdir()
    child("save", str(tmp_path / "run"), prefix=prefix)
    assert events_of_save(trace.read_text(), str(tmp_path / "run"), "step-3.pt") == [
        "sync file",
        "rename step-3.pt",
        "sync folder",
        "rename last.pt",
        "sync folder",
        "remove step-1.pt",
    ]


def events_of_save(trace: str, folder: str, name: str) -> list[str]:
    """The successful calls on the folder from the creation of the file's temporary to the end."""
    opened: dict[str, str] = {}
    events: list[str] = []
    for line in trace.splitlines():
        if match := re.search(r'openat\(\w+, "([^"]+)".*\) = (\d+)$', line):
            if ".fer-" in match[1]:
                opened[match[2]], events = "file", events if name in str(events) else []
            else:
                opened[match[2]] = "folder" if match[1] == folder else ""
        elif (match := re.search(r"fsync\((\d+)\)\s+= 0$", line)) and opened.get(match[1]):
            events.append(f"sync {opened[match[1]]}")
        elif match := re.search(r'rename\w*\(.*"[^"]*/([^"/]+)"\)\s+= 0$', line):
            events.append(f"rename {match[1]}")
        elif match := re.search(r'unlink\w*\(.*"[^"]*/([^"/]+\.pt)"\)\s+= 0$', line):
            events.append(f"remove {match[1]}")
    return events


@pytest.mark.slow
@pytest.mark.parametrize("call", [2, 3, 4, 5, 9, 17, 30, 34, 36, 40])
def test_a_disk_that_fails_for_good_ends_the_run_with_a_storage_error(tiny, monkeypatch, call):
    """From the n-th fsync on, whoever calls it: our own files or TensorBoard's."""
    fsync, calls = os.fsync, []

    def fail(handle):
        calls.append(handle)
        if len(calls) >= call:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return fsync(handle)

    run = tiny(plots=True, tensorboard=True, save_iterations=2)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(
        StorageError, match=r"Input/output error.*Then continue with --resume auto\.$"
    ) as ended:
        train(run)
    assert ended.value.exit_code == 4


def test_a_user_s_handler_that_finds_the_disk_full_is_a_storage_error(tiny):
    def setup(session):
        @session.trainer.on(Events.ITERATION_COMPLETED(once=2))
        def write(engine):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/notes.txt")

    with pytest.raises(
        StorageError, match=r"/full/notes\.txt can't be written: No space left.*--resume auto"
    ):
        train(tiny(), handlers=[setup])
