import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from ignite.engine import Events
from PIL import Image

from fer_ignite import load_model, train
from fer_ignite.apps.trackers import mlflow_model
from fer_ignite.apps.trackers.mlflow_model import _pinned_requirements
from fer_ignite.apps.trackers.mlflow_tracker import _PATIENCE
from fer_ignite.cli.main import main
from fer_ignite.errors import ConfigError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

mlflow = pytest.importorskip("mlflow")
pd = pytest.importorskip("pandas")


def records(server, project):
    client = mlflow.MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(project)
    return [] if experiment is None else client.search_runs([experiment.experiment_id])


def points(server, run, name):
    history = mlflow.MlflowClient(server.uri).get_metric_history(run.info.run_id, name)
    return [(point.step, point.value) for point in sorted(history, key=lambda point: point.step)]


def table(folder):
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def host_names(server, run, folder=""):
    return sorted(
        entry.path
        for entry in mlflow.MlflowClient(server.uri).list_artifacts(run.info.run_id, folder)
    )


def expect_the_table(server, run, folder):
    """Every figure of results.csv stands in the record once, at its iteration; and nothing else does under these names."""
    rows = table(folder)
    for column in rows[0]:
        side, _, rest = column.partition("_")
        name = f"{side}/{rest}" if side in ("train", "val") else f"epoch/{column}"
        numbers = {"True": 1.0, "False": 0.0}
        expected = [
            (
                int(row["iteration"]),
                numbers.get(row[column]) if row[column] in numbers else float(row[column]),
            )
            for row in rows
        ]
        found = points(server, run, name)
        assert [step for step, _ in found] == [step for step, _ in expected], name
        # a resumed run's clock is another
        if column not in ("epoch_seconds", "elapsed_seconds", "images_per_second"):
            assert [value for _, value in found] == pytest.approx(
                [value for _, value in expected]
            ), name


def test_a_run_s_settings_figures_pictures_and_checkpoint_stand_in_one_record(tiny, server):
    summary = train(tiny(track="mlflow", project="whole", log_every=2, plots=True))
    folder = Path(summary["folder"])
    (run,) = records(server, "whole")
    assert run.info.status == "FINISHED" and run.info.run_name == "run"
    assert run.data.params["batch_size"] == "32" and run.data.params["track"] == "['mlflow']"
    assert run.data.params["run.data_fingerprint"] == summary["data"]["fingerprint"]
    assert run.data.params["versions.torch"] == summary["versions"]["torch"]
    expect_the_table(server, run, folder)
    assert [step for step, _ in points(server, run, "lr/group_0")] == [2, 4, 6, 8]
    assert [step for step, _ in points(server, run, "step/step_loss")] == [2, 4, 6, 8]
    assert points(server, run, "final/test_accuracy") == [
        (8, pytest.approx(summary["test"]["accuracy"]))
    ]
    assert host_names(server, run) == [
        "checkpoints",
        "config.yaml",
        "model",
        "plots",
        "results.csv",
        "summary.json",
    ]
    assert host_names(server, run, "plots") == [
        f"plots/{path.name}" for path in sorted((folder / "plots").iterdir())
    ]
    copy = mlflow.MlflowClient(server.uri).download_artifacts(
        run.info.run_id, "checkpoints/best.pt", str(folder.parent)
    )
    assert Path(copy).read_bytes() == (folder / "checkpoints" / "best.pt").read_bytes()
    entry = json.loads((folder / "trackers.json").read_text())["mlflow"]
    assert entry["id"] == run.info.run_id and entry["place"] == server.uri


def test_the_recorded_model_predicts_as_the_checkpoint_does(tiny, server):
    summary = train(tiny(track="mlflow", project="model", epochs=1))
    (run,) = records(server, "model")
    loaded = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
    rng = np.random.default_rng(3)
    faces = [Image.fromarray(rng.integers(0, 255, (48, 48), dtype=np.uint8)) for _ in range(5)]
    files = [io.BytesIO() for _ in faces]
    for face, file in zip(faces, files, strict=True):
        face.save(file, "png")
    answers = loaded.predict(pd.DataFrame({"image": [file.getvalue() for file in files]}))
    expected = load_model(Path(summary["folder"]) / "checkpoints" / "best.pt").predict(
        faces, faces="never"
    )
    assert answers["expression"].tolist() == [found.label for found in expected]
    for name in expected[0].probabilities:
        assert answers[name].tolist() == [found.probabilities[name] for found in expected]
    with pytest.raises(mlflow.exceptions.MlflowException, match="image"):
        loaded.predict(pd.DataFrame({"picture": [b""]}))
    requirements = Path(
        mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/model/requirements.txt")
    ).read_text()
    assert f"pydantic=={version('pydantic')}" in requirements.splitlines()


def test_the_commit_and_the_machine_s_load_are_recorded(tiny, server, monkeypatch, tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    git("init")
    git("commit", "--allow-empty", "-m", "first")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    def wait_for_a_sample(session):
        session.trainer.add_event_handler(Events.COMPLETED, lambda: time.sleep(2))

    mlflow.set_system_metrics_sampling_interval(0.2)
    mlflow.set_system_metrics_samples_before_logging(1)
    try:
        train(tiny(track="mlflow", project="machine", epochs=1), handlers=[wait_for_a_sample])
    finally:
        mlflow.set_system_metrics_sampling_interval(None)
        mlflow.set_system_metrics_samples_before_logging(None)
    (run,) = records(server, "machine")
    assert run.data.tags["mlflow.source.git.commit"] == git("rev-parse", "HEAD")
    assert run.data.metrics["system/cpu_utilization_percentage"] >= 0


def test_a_file_store_that_mlflow_refuses_is_refused_before_training_with_its_whole_reason(
    tmp_path, monkeypatch, capsys, tiny_flags
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["train", *tiny_flags, "--track", "mlflow"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and not (tmp_path / "runs").exists()
    assert "MLFLOW_TRACKING_URI is ./mlruns" in said
    assert "sqlite:///mlflow.db" in said and "MLFLOW_ALLOW_FILE_STORE=true" in said


def test_checkpoints_stay_at_home_where_they_are_excluded(tiny, server):
    train(tiny(track="mlflow", project="without", epochs=1, track_checkpoints=False))
    (run,) = records(server, "without")
    assert host_names(server, run) == ["config.yaml", "results.csv", "summary.json"]


def test_tracking_changes_neither_the_weights_nor_the_random_states_that_users_draw_from(
    tiny, server
):
    drawn = []

    def draw(session):
        session.trainer.add_event_handler(Events.COMPLETED, lambda: drawn.append(random.random()))

    random.seed(5)
    plain = train(tiny(name="plain"), handlers=[draw])
    random.seed(5)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    tracked = train(
        tiny(name="tracked", track="mlflow", project="same", log_every=1), handlers=[draw]
    )
    assert tracked["weights_sha256"] == plain["weights_sha256"]
    assert drawn[0] == drawn[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_user_s_handler_and_session_log_reach_the_same_record(tiny, server):
    def watch(session):
        @session.trainer.on(Events.ITERATION_COMPLETED)
        def note(engine):
            session.log("twice", 2.0 * engine.state.iteration)

        session.trainer.add_event_handler(
            Events.COMPLETED, lambda: mlflow.set_tag("by", "the user")
        )

    train(tiny(track="mlflow", project="users", epochs=1), handlers=[watch])
    (run,) = records(server, "users")
    assert points(server, run, "step/twice") == [(step, 2.0 * step) for step in range(1, 5)]
    assert points(server, run, "epoch/twice") == [(4, 5.0)]
    assert run.data.tags["by"] == "the user"


def test_a_finished_run_that_is_resumed_continues_its_record(tiny, server):
    train(tiny(track="mlflow", project="more", epochs=1))
    summary = train(tiny(track="mlflow", project="more", epochs=2, resume="auto"))
    (run,) = records(server, "more")
    expect_the_table(server, run, Path(summary["folder"]))
    assert run.data.params["epochs"] == "1" and run.data.tags["resumed.epochs"] == "2"
    train(tiny(track="mlflow", project="more", epochs=2, resume="auto"))  # nothing left to do
    assert len(records(server, "more")) == 1


@pytest.mark.parametrize("empty", [False, True], ids=["unset", "empty"])
def test_a_resume_remembers_that_the_run_is_tracked_and_where(tiny, server, monkeypatch, empty):
    project = f"remembered{empty}"
    train(tiny(track="mlflow", project=project, epochs=1))
    if empty:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    else:
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
    before = dict(os.environ)
    train(tiny(epochs=2, resume="auto"))  # neither --track nor the variable
    (run,) = records(server, project)
    assert [step for step, _ in points(server, run, "val/loss")] == [4, 8]
    # A later run of the process is not sent there.
    assert not mlflow.is_tracking_uri_set()
    assert dict(os.environ) == before and not {*_PATIENCE} & set(before)


def test_the_recorded_model_asks_for_versions_that_an_index_has(monkeypatch):
    needed = [
        "torch>=2.4",
        'tomli>=2; python_version < "3.0"',
        'mlflow>=3; extra == "track"',
        'numpy>=1; python_version >= "3.0"',
    ]
    monkeypatch.setattr(mlflow_model, "requires", lambda name: needed)
    monkeypatch.setattr(mlflow_model, "version", {"torch": "2.10.0+cu128", "numpy": "2.1.0"}.get)
    assert list(_pinned_requirements()) == ["torch==2.10.0", "numpy==2.1.0"]


@pytest.mark.parametrize("killed_at", [2, 6])
def test_a_killed_run_continues_its_record_without_gap_or_double(
    tiny_flags, tmp_path, server, killed_at
):
    """Iteration 2 lies before the first resume point, 6 between the second epoch's steps: 4 iterations make an epoch."""
    project = f"killed{killed_at}"
    arguments = [
        sys.executable,
        "-m",
        "fer_ignite",
        "train",
        *tiny_flags[:2],
        *tiny_flags[4:],
        "--epochs",
        "3",
        "--track",
        "mlflow",
        "--project",
        project,
        "--log-every",
        "1",
        "--quiet",
    ]
    (tmp_path / "kill.py").write_text(
        "import os, time\nfrom ignite.engine import Events\n"
        "def watch(session):\n"
        f"    @session.trainer.on(Events.ITERATION_COMPLETED(once={killed_at}))\n"
        "    def kill(engine):\n"
        "        time.sleep(1)  # what was logged by now is on its way\n"
        "        os.kill(os.getpid(), 9)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.run(
        [*arguments, "--handlers", "./kill.py:watch"], cwd=tmp_path, env=environment
    )
    assert first.returncode == -signal.SIGKILL
    (run,) = records(server, project)
    assert run.info.status == "RUNNING"
    before = [step for step, _ in points(server, run, "lr/group_0")]
    again = subprocess.run(
        [*arguments, "--resume", "auto"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr
    (run,) = records(server, project)
    assert run.info.status == "FINISHED"
    assert before == list(range(1, len(before) + 1)) and len(before) >= killed_at - 1
    for name in ("lr/group_0", "step/step_loss", "step/grad_norm"):
        assert [step for step, _ in points(server, run, name)] == list(range(1, 13)), name
    expect_the_table(server, run, tmp_path / "runs" / "run")


def test_a_server_that_dies_costs_one_warning_and_no_training(tiny, own_server, caplog):
    def watch(session):
        session.trainer.add_event_handler(
            Events.ITERATION_COMPLETED(once=5), lambda: own_server.kill()
        )

    plain = train(tiny(name="plain", epochs=3))
    begun = time.monotonic()
    summary = train(tiny(track="mlflow", epochs=3, log_every=1), handlers=[watch])
    assert summary["status"] == "completed" and summary["weights_sha256"] == plain["weights_sha256"]
    assert time.monotonic() - begun < 90
    log = (Path(summary["folder"]) / "log.txt").read_text()
    assert log.count("MLflow does not answer any more") == 1
    assert log.count("MLflow did not get all of this run") == 1
    own_server.start()  # for the fixture to kill, and for the resume that sends the rest
    summary = train(tiny(track="mlflow", epochs=4, log_every=1, resume="auto"))
    (run,) = records(own_server, "fer_ignite")
    assert [step for step, _ in points(own_server, run, "lr/group_0")][-4:] == [13, 14, 15, 16]
    expect_the_table(own_server, run, Path(summary["folder"]))  # epochs 2 and 3 too


def test_a_server_that_comes_back_gets_what_it_missed(tiny, own_server):
    def watch(session):
        session.trainer.add_event_handler(
            Events.ITERATION_COMPLETED(once=3), lambda: own_server.kill()
        )
        session.trainer.add_event_handler(
            Events.ITERATION_COMPLETED(once=9), lambda: own_server.start()
        )

    summary = train(tiny(track="mlflow", epochs=3, log_every=1), handlers=[watch])
    (run,) = records(own_server, "fer_ignite")
    assert run.info.status == "FINISHED"
    expect_the_table(own_server, run, Path(summary["folder"]))
    assert [step for step, _ in points(own_server, run, "lr/group_0")] == list(range(1, 13))


def test_a_server_that_is_down_is_one_sentence_before_the_start(
    tmp_path, monkeypatch, capsys, tiny_flags
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:secret@127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    begun = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        main(["train", *tiny_flags, "--track", "mlflow"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and time.monotonic() - begun < 60
    assert (
        "--track mlflow: http://127.0.0.1:9/health:" in said
        and "refused" in said
        and "secret" not in said
    )
    assert not (tmp_path / "runs").exists()


def test_without_a_server_the_record_lies_in_a_database_beside_the_run(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    summary = train(tiny(track="mlflow", epochs=1))
    entry = json.loads((Path(summary["folder"]) / "trackers.json").read_text())["mlflow"]
    assert (tmp_path / "mlflow.db").exists()
    assert mlflow.MlflowClient(entry["place"]).get_run(entry["id"]).info.status == "FINISHED"


def test_only_the_main_process_tracks(tiny, server):
    summary = train(tiny(track="mlflow", project="two", epochs=1), nproc=2)
    (run,) = records(server, "two")
    expect_the_table(server, run, Path(summary["folder"]))
    assert run.data.params["run.processes"] == "2"


def test_an_interrupted_run_s_record_says_so_and_continues(tiny, server):
    train(tiny(track="mlflow", project="cut", epochs=50, max_time=0.2))
    (run,) = records(server, "cut")
    assert run.info.status == "KILLED"


def test_a_user_s_error_leaves_a_failed_record(tiny, server):
    def break_it(session):
        @session.trainer.on(Events.ITERATION_COMPLETED(once=2))
        def fail(engine):
            raise ZeroDivisionError("on purpose")

    with pytest.raises(Exception, match="on purpose"):
        train(tiny(track="mlflow", project="failed"), handlers=[break_it])
    (run,) = records(server, "failed")
    assert run.info.status == "FAILED"


def test_the_password_of_an_address_is_kept_out_of_the_run_s_folder(tiny, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri.replace("//", "//somebody:hush-hush@"))
    summary = train(tiny(track="mlflow", project="hush", epochs=1))
    assert len(records(server, "hush")) == 1
    for file in Path(summary["folder"]).rglob("*"):
        assert not file.is_file() or b"hush-hush" not in file.read_bytes(), file


def test_a_tracker_that_does_not_exist_is_refused(tiny):
    with pytest.raises(ConfigError, match="--track"):
        tiny(track="mlfow")


@pytest.mark.parametrize("times", [1, 3])
def test_a_batch_that_arrived_although_its_request_failed_is_not_sent_twice(
    tiny, server, monkeypatch, times
):
    log_batch, lost = mlflow.MlflowClient.log_batch, []

    def lose_the_answer(client, run_id, metrics=(), **others):
        answer = log_batch(client, run_id, metrics=metrics, **others)
        if metrics and len(lost) < times:
            lost.append(len(metrics))
            raise mlflow.exceptions.MlflowException("the answer was lost")
        return answer

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", lose_the_answer)
    summary = train(tiny(track="mlflow", project=f"lost{times}", epochs=2, log_every=1))
    (run,) = records(server, f"lost{times}")
    assert len(lost) == times
    expect_the_table(server, run, Path(summary["folder"]))
    assert [step for step, _ in points(server, run, "lr/group_0")] == list(range(1, 9))


def test_a_batch_that_failed_before_it_arrived_is_sent_again(tiny, server, monkeypatch):
    log_batch, lost = mlflow.MlflowClient.log_batch, []

    def fail(client, run_id, metrics=(), **others):
        if metrics and len(lost) < 3:
            lost.append(len(metrics))
            raise mlflow.exceptions.MlflowException("time limit")
        return log_batch(client, run_id, metrics=metrics, **others)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", fail)
    train(tiny(track="mlflow", project="late", epochs=2, log_every=1))
    (run,) = records(server, "late")
    assert [step for step, _ in points(server, run, "lr/group_0")] == list(range(1, 9))
