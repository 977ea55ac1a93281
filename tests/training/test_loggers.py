import contextlib
import io
import logging
import re
import threading
from itertools import pairwise

import numpy as np
import pytest
from ignite.engine import Engine, Events
from ignite.handlers import BasicTimeProfiler, HandlersTimeProfiler
from PIL import Image
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from fer_ignite import build_session
from fer_ignite.checkpoint.run_dir import RunDir, _records
from fer_ignite.training.events import RunEvents
from fer_ignite.training.loggers import (
    LiveProgressBar,
    attach_epoch_clock,
    attach_history,
    attach_plots,
    attach_profiler,
    run_logger,
)


@pytest.fixture
def ran(tiny):
    """(**settings) -> a session after its run; its folder's lock is given back."""

    def make(handlers=(), **settings):
        session = build_session(tiny(**settings), handlers=handlers)
        session.run()
        session.close()
        return session

    return make


@pytest.fixture
def reporter():
    """A trainer that reports once per epoch."""
    trainer = Engine(lambda engine, batch: None)
    trainer.register_events(*RunEvents, event_to_attr=dict.fromkeys(RunEvents, "epoch"))
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: engine.fire_event(RunEvents.REPORT)
    )
    return trainer


def scalars(folder):
    found = {}
    for file in folder.tensorboard.glob("events.*"):
        for record in _records(file.read_bytes()):
            event = Event.FromString(record)
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_the_bars_show_training_validation_and_what_users_log(ran, monkeypatch):
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("COLUMNS", "100")

    def watch(session):
        session.trainer.add_event_handler(
            Events.ITERATION_COMPLETED,
            lambda engine: session.log("user_value", engine.state.iteration, bar=True),
        )
        # a slow machine, for the bar: each iteration is due
        monkeypatch.setattr(LiveProgressBar, "_is_due", lambda *_: True)

    ran([watch], quiet=False, log_every=1, data="demo:700", batch_size=16, epochs=2)
    shown = screen.getvalue()
    assert re.search(r"epoch \[2/2\]: +\d+% \|.*\| \d+/35, .* left, loss=\d\.\d+, acc=\d+%", shown)
    assert "user_value" in shown and re.search(r"validation +\d+% \|", shown)
    assert max(len(line) for line in re.split(r"[\r\n]", shown)) <= 100


@pytest.mark.parametrize("error", [None, ValueError("mine")])
def test_no_bar_is_left_when_a_run_ends_within_an_epoch(tiny, monkeypatch, error):
    """By a request to stop, or by an error of a user's handler."""
    monkeypatch.setattr("sys.stderr", Screen())

    def end(session):
        def stop(engine):
            assert session.progress_bar.pbar is not None
            if error is not None:
                raise error
            session.stop()

        session.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), stop)

    session = build_session(tiny(quiet=False), handlers=[end])
    with contextlib.suppress(ValueError), session:
        session.run()
    assert session.progress_bar.pbar is None
    assert not [thread for thread in threading.enumerate() if "_keep_fresh" in thread.name]


def test_a_bar_is_refreshed_by_time_not_by_iterations(monkeypatch):
    bar, clock = LiveProgressBar("epoch"), [0.0]
    bar.tqdm_kwargs["disable"] = False
    monkeypatch.setattr("fer_ignite.training.loggers.time.monotonic", lambda: clock[0])
    due = []
    for clock[0] in (0.0, 0.1, 0.2, 0.3, 0.4, 5.0, 5.1):
        due.append(bar._is_due(None, 0))
    assert due == [True, False, False, True, False, True, False]


def test_output_to_a_file_has_no_bars(ran, capfd):
    ran(quiet=False)
    assert "\r" not in (shown := capfd.readouterr().err) and "%|" not in shown


def test_quiet_shows_no_bar_and_no_lines(ran, capfd):
    session = ran()
    assert session.progress_bar is None
    assert " 1/2 " not in capfd.readouterr().err
    assert re.search(
        r"^\S+ \S+   1/2  ", session.folder.log.read_text(), re.M
    )  # the file is not quiet


def test_an_epoch_s_line_stands_in_history_table_and_log(ran):
    session = ran()
    lines = list(session.folder.read_history())
    assert [line["epoch"] for line in lines] == [1, 2]
    expected = {
        "epoch",
        "iteration",
        "optimizer_steps",
        "lr",
        "train_loss",
        "train_accuracy",
        "val_loss",
        "val_accuracy",
        "val_uar",
        "val_macro_f1",
        "val_weighted_f1",
        "skipped_steps",
        "is_best",
        "epoch_seconds",
        "elapsed_seconds",
        "images_per_second",
    }
    assert set(lines[0]) == expected
    assert len(session.folder.results.read_text().splitlines()) == 3
    rows = session.folder.log.read_text().splitlines()
    assert [row.split()[2] for row in rows[-3:]] == ["epoch", "1/2", "2/2"]
    shown = rows[-1].split()[3:]
    for text, value in zip(
        shown[:4:2], (lines[1]["train_loss"], lines[1]["val_loss"]), strict=True
    ):
        assert text == f"{value:.4f}"
    assert shown[3] == f"{100 * lines[1]['val_accuracy']:.2f}%"
    assert all(a["elapsed_seconds"] < b["elapsed_seconds"] for a, b in pairwise(lines))


def test_history_writes_whatever_line_it_is_given(reporter, tmp_path, caplog):
    folder, logger = RunDir(tmp_path), logging.getLogger("a test's own")
    line = {
        "epoch": 1,
        "iteration": 2,
        "lr": 0.1,
        "epoch_seconds": 1.0,
        "images_per_second": 10.0,
        "mine": 5,
    }
    handle = attach_history(reporter, folder, line=lambda: line, logger=logger)
    with caplog.at_level("INFO", logger=logger.name):
        reporter.run([0], max_epochs=2)
    assert list(folder.read_history()) == [line, line]
    assert [message.split()[0] for message in caplog.messages[1:]] == ["epoch", "1/2", "1/2"]
    handle.remove()


def test_tensorboard_has_every_scalar_at_the_trainer_s_iteration(ran):
    def watch(session):
        session.trainer.add_event_handler(
            Events.ITERATION_COMPLETED,
            lambda engine: session.log("twice", 2.0 * engine.state.iteration),
        )

    session = ran([watch], tensorboard=True, log_every=3)  # 4 iterations per epoch
    found = scalars(session.folder)
    history = list(session.folder.read_history())
    assert [step for step, _ in found["val/loss"]] == [4, 8]
    for tag, name in (
        ("val/loss", "val_loss"),
        ("val/accuracy", "val_accuracy"),
        ("val/macro_f1", "val_macro_f1"),
    ):
        assert [value for _, value in found[tag]] == pytest.approx(
            [line[name] for line in history], abs=1e-6
        )
    assert [value for _, value in found["train/loss"]] == pytest.approx(
        [line["train_loss"] for line in history], abs=1e-6
    )
    names = [group["name"] for group in session.optimizer.param_groups]
    for name in names:  # every third iteration, and at each epoch's end
        assert [step for step, _ in found[f"lr/{name}"]] == [3, 4, 6, 8]
    confusion = session.evaluator.state.metrics["confusion_matrix"]
    recall = (confusion.diagonal() / confusion.sum(1)).tolist()
    for name, value in zip(session.dataset.classes, recall, strict=True):
        assert found[f"recall/{name}"][-1] == (8, pytest.approx(value, abs=1e-6))
    assert found["step/twice"] == [(step, 2.0 * step) for step in range(1, 9)]
    assert found["train/twice"] == [(4, 5.0), (8, 13.0)]  # the epochs' means
    assert [step for step, _ in found["step/step_loss"]] == [3, 6]


def test_a_rate_at_the_end_of_an_epoch_is_written_once(ran):
    session = ran(tensorboard=True, log_every=2)
    name = session.optimizer.param_groups[0]["name"]
    assert [step for step, _ in scalars(session.folder)[f"lr/{name}"]] == [2, 4, 6, 8]


def events(folder):
    return [
        Event.FromString(record)
        for file in sorted(folder.tensorboard.glob("events.*"))
        for record in _records(file.read_bytes())
    ]


def test_tensorboard_has_settings_hparams_the_first_batch_and_confusion_matrices(ran):
    session = ran(tensorboard=True, plots=True)
    values = {value.tag: value for event in events(session.folder) for value in event.summary.value}
    (text,) = values["configuration/text_summary"].tensor.string_val
    assert f"lr: {session.config.lr}" in text.decode()
    start = HParamsPluginData.FromString(
        values["_hparams_/session_start_info"].metadata.plugin_data.content
    ).session_start_info
    assert start.hparams["lr"].number_value == session.config.lr
    assert start.hparams["opt"].string_value == session.config.opt
    assert "log_every" not in start.hparams  # it changes no result
    assert dict(start.hparams).keys() >= {"batch_size", "model", "model_args", "seed"}
    assert "custom_scalars__config__" in values
    for tag in ("first_batch", "val/confusion_matrix"):
        with Image.open(io.BytesIO(values[tag].image.encoded_image_string)) as image:
            assert min(image.size) > 48 and np.asarray(image.convert("L")).std() > 5
    steps = [
        event.step
        for event in events(session.folder)
        for value in event.summary.value
        if value.tag == "val/confusion_matrix"
    ]
    assert steps == [4, 8]


def test_tensorboard_has_each_class_s_precision_recall_curve_of_each_validation(ran):
    session = ran(tensorboard=True)
    found = {}
    for event in events(session.folder):
        for value in event.summary.value:
            if value.tag.startswith("pr_curve/"):
                found.setdefault(value.tag.removeprefix("pr_curve/"), []).append(
                    (event.step, np.array(value.tensor.float_val).reshape(6, -1))
                )
                assert value.metadata.plugin_data.plugin_name == "pr_curves"
    assert list(found) == list(session.dataset.classes)
    confusion_KK = session.evaluator.state.metrics["confusion_matrix"]
    for k, curves in enumerate(found.values()):
        assert [step for step, _ in curves] == [4, 8]
        hits_T, false_T, rejected_T, missed_T, precision_T, recall_T = curves[-1][1]
        own, total = float(confusion_KK[k].sum()), float(confusion_KK.sum())
        assert (hits_T[0], false_T[0]) == (own, total - own)
        assert set(hits_T + missed_T) == {own} and set(false_T + rejected_T) == {total - own}
        assert recall_T[0] == 1 and precision_T[0] == pytest.approx(own / total)
        assert (np.diff(recall_T) <= 0).all()


def test_the_metric_of_a_user_s_is_in_tensorboard_and_in_history(ran):
    from ignite.metrics import TopKCategoricalAccuracy

    def watch(session):
        TopKCategoricalAccuracy(3, output_transform=lambda out: (out["y_pred"], out["y"])).attach(
            session.evaluator, "top3"
        )

    session = ran([watch], tensorboard=True)
    values = [line["val_top3"] for line in session.folder.read_history()]
    assert [value for _, value in scalars(session.folder)["val/top3"]] == pytest.approx(
        values, abs=1e-6
    )


@pytest.mark.slow
def test_pictures_are_drawn_as_the_run_goes(ran):
    drawn = []

    def watch(session):
        plots = session.folder.plots
        session.trainer.add_event_handler(
            Events.EPOCH_COMPLETED, lambda: drawn.append(sorted(p.name for p in plots.iterdir()))
        )

    session = ran([watch], plots=True)
    # ours comes behind the user's handler
    assert drawn == [[], ["confusion_matrix.png", "curves.png"]]
    assert (session.folder.plots / "curves.png").stat().st_size > 1000


def test_a_picture_that_fails_is_no_reason_to_end_a_run(reporter, tmp_path, caplog):
    folder = RunDir(tmp_path / "absent")
    attach_plots(reporter, folder, classes=("a", "b"), metrics=dict)
    logger = logging.getLogger("fer_ignite")
    logger.propagate = True
    with caplog.at_level("WARNING", logger="fer_ignite"):
        assert reporter.run([0], max_epochs=2).epoch == 2
    assert "pictures of epoch 1 could not be drawn" in caplog.text


def test_the_clock_measures_training_and_not_validation(steps, batches):
    import time

    made = steps()
    clock = attach_epoch_clock(made.trainer)
    made.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: time.sleep(0.2))
    began = time.monotonic()
    made.trainer.run([batches(4)] * 3, max_epochs=1, epoch_length=3)
    assert 0 < clock.seconds <= time.monotonic() - began - 0.2
    assert clock.rate == pytest.approx(12 / clock.seconds)


def test_the_rate_counts_the_faces_of_all_processes(steps, batches):
    made, part = steps(), batches(4, window=8)  # another process has the other half
    clock = attach_epoch_clock(made.trainer)
    made.trainer.run([part] * 3, max_epochs=1, epoch_length=3)
    assert clock.rate == pytest.approx(24 / clock.seconds)


def test_the_basic_profiler_prints_times_of_events_and_data(steps, batches, capsys):
    made = steps()
    profiler = attach_profiler(made.trainer, BasicTimeProfiler())
    made.trainer.run([batches(4)] * 3, max_epochs=2, epoch_length=3)
    printed = capsys.readouterr().out
    assert "Time profiling stats" in printed and "ITERATION_COMPLETED" in printed
    assert profiler.get_results()["processing_stats"]["total"] > 0


def test_the_handlers_profiler_prints_a_line_per_handler(steps, batches, capsys):
    made = steps()

    @made.trainer.on(Events.ITERATION_COMPLETED)
    def my_own_handler(engine):
        pass

    attach_profiler(made.trainer, HandlersTimeProfiler())
    made.trainer.run([batches(4)] * 3, max_epochs=2, epoch_length=3)
    printed = capsys.readouterr().out
    assert "my_own_handler" in printed and "ITERATION_COMPLETED" in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "said"), [("basic", "Time profiling stats"), ("handlers", "Total")]
)
def test_profilers_are_reached_by_a_flag(ran, capsys, profile, said):
    session = ran(profile=profile)
    assert said in capsys.readouterr().out
    assert session.profiler is not None


def test_the_log_belongs_to_the_main_process_and_is_truncated_for_each_run(tmp_path, capsys):
    folders = [RunDir(tmp_path / name) for name in "ab"]
    for folder in folders:
        folder.create()
    run_logger(folders[0], rank=0, quiet=False).info("first")
    run_logger(folders[1], rank=0, quiet=False).info("second")
    assert "first" in folders[0].log.read_text() and "second" not in folders[0].log.read_text()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d .* second\n", folders[1].log.read_text())
    assert capsys.readouterr().err == "first\nsecond\n"
    run_logger(folders[0], rank=1, quiet=False).info("from another process")
    assert "another" not in capsys.readouterr().err + folders[0].log.read_text()
