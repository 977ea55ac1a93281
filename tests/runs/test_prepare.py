import json
import shutil
from pathlib import Path

import pytest

from fer_ignite import Config, train
from fer_ignite.checkpoint.format import load_checkpoint
from fer_ignite.checkpoint.run_dir import RunDir
from fer_ignite.data.open import build_cache_spec, find_cache
from fer_ignite.data.readers.find import is_drawn, is_user_dataset
from fer_ignite.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    FerError,
    FolderInUseError,
    StorageError,
)
from fer_ignite.runs import execute
from fer_ignite.runs.execute import launch_seeds
from fer_ignite.runs.prepare import RunSpec, prepare, undo
from fer_ignite.runs.resume import is_user_code
from fer_ignite.runs.run_folder import choose_folder, require_free_folders
from fer_ignite.runs.validate import check_names, check_sendable


def given(config):
    return config.model_dump(include=config.model_fields_set)


@pytest.fixture
def ready(tiny):
    locks = []

    def make(**settings):
        config = tiny(**settings)
        run_spec, lock = prepare(config, given(config))
        locks.append(lock)
        return run_spec

    yield make
    for lock in locks:
        lock.release()


def test_a_run_spec_names_folder_cache_and_the_whole_configuration(ready, tmp_path):
    run_spec = ready(lr=0.3)
    assert (
        run_spec.folder == str(tmp_path / "run")
        and run_spec.config["lr"] == 0.3
        and run_spec.config["momentum"] == 0.9
    )
    assert run_spec.cache_path is not None and run_spec.resume is None and run_spec.finished is None
    assert not (tmp_path / "run" / "config.yaml").exists()  # it is written when the session stands
    json.dumps({**vars(run_spec), "handlers": []})  # torchrun's processes get it as text


def test_a_run_that_is_refused_leaves_nothing_and_one_that_has_begun_stays(ready, tmp_path):
    run_spec = ready(out=str(tmp_path / "deep" / "er"))
    undo(run_spec)
    assert list(tmp_path.iterdir()) == []
    begun = ready(name="begun")
    (tmp_path / "begun" / "history.jsonl").write_text("{}\n")
    undo(begun)
    assert (tmp_path / "begun" / "history.jsonl").exists()


def test_a_run_without_a_name_gets_a_numbered_one(tiny, tmp_path):
    names = [choose_folder(tiny(name=None))[0].path.name for _ in range(3)]
    assert names == ["fer48-demo", "fer48-demo-2", "fer48-demo-3"]
    newest, existed = choose_folder(tiny(name=None, resume="auto"))
    assert newest.path.name == "fer48-demo-3" and existed


def test_a_copied_checkpoint_continues_in_a_new_folder(tiny, tmp_path):
    copied = tmp_path / "step-40.pt"
    copied.touch()
    (tmp_path / "fer48-demo" / "checkpoints").mkdir(parents=True)
    (tmp_path / "fer48-demo" / "checkpoints" / "last.pt").touch()
    (tmp_path / "fer48-demo" / "config.yaml").touch()
    fresh, existed = choose_folder(tiny(name=None, resume=str(copied)))
    assert fresh.path.name == "fer48-demo-2" and not existed
    own = tmp_path / "fer48-demo" / "checkpoints" / "last.pt"
    assert choose_folder(tiny(name=None, resume=str(own)))[0].path == own.parent.parent


def test_a_run_s_folder_as_a_resume_means_its_newest_resume_point(tiny, ready, tmp_path):
    train(tiny(epochs=2))
    run_spec = ready(name=None, epochs=3, resume=str(tmp_path / "run"))
    assert run_spec.resume == str(tmp_path / "run" / "checkpoints" / "step-8.pt")
    assert run_spec.folder == str(tmp_path / "run")


def test_a_run_is_not_replaced_by_one_that_continues_from_a_file_elsewhere(tiny, ready, tmp_path):
    train(tiny(epochs=1))
    copied = shutil.copy(tmp_path / "run" / "checkpoints" / "last.pt", tmp_path / "mine.pt")
    before = (tmp_path / "run" / "history.jsonl").read_bytes()
    with pytest.raises(FolderInUseError, match="holds a run"):
        ready(epochs=2, resume=str(copied))
    assert (tmp_path / "run" / "history.jsonl").read_bytes() == before
    # Replaced, as without --resume: the two runs' files are not mixed.
    assert ready(epochs=2, resume=str(copied), exist_ok=True).resume == str(copied)
    assert not any((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("TORCHELASTIC_RESTART_COUNT", "run"),
        ("TORCHELASTIC_RESTART_COUNT", None),
        ("SLURM_RESTART_COUNT", "run"),
    ],
)
def test_a_restart_continues_where_the_attempt_before_was_that_began_with_a_file(
    tiny, ready, tmp_path, monkeypatch, variable, name
):
    first = Path(train(tiny(epochs=1, name="first"))["folder"])
    copied = shutil.copy(first / "checkpoints" / "last.pt", tmp_path / "mine.pt")
    folder = Path(train(tiny(epochs=2, name=name, resume=str(copied)))["folder"])
    monkeypatch.setenv(variable, "1")
    run_spec = ready(epochs=3, name=name, resume=str(copied))
    assert run_spec.resume == str(folder / "checkpoints" / "step-8.pt")


@pytest.mark.parametrize("name", ["run", None])
def test_a_requeued_job_leaves_runs_that_did_not_begin_with_its_file(
    tiny, ready, tmp_path, monkeypatch, name
):
    folder = Path(train(tiny(epochs=1, name=name))["folder"])
    copied = shutil.copy(folder / "checkpoints" / "last.pt", tmp_path / "mine.pt")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    if name is None:
        run_spec = ready(epochs=2, name=None, resume=str(copied))
        assert (run_spec.folder, run_spec.resume) == (f"{folder}-2", str(copied))
    else:
        with pytest.raises(FolderInUseError, match="holds a run"):
            ready(epochs=2, name=name, resume=str(copied))
    with pytest.raises(CheckpointError, match="can't be read"):
        ready(epochs=2, name=name, resume=str(tmp_path / "typo.pt"))


def test_a_requeued_job_continues_only_what_its_command_says(tiny, ready, monkeypatch):
    train(tiny(epochs=1))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with pytest.raises(FolderInUseError, match="--resume auto"):
        ready(epochs=1)


def test_a_restart_continues_though_the_checkpoint_that_it_began_with_was_removed_since(
    tiny, ready, tmp_path, monkeypatch
):
    train(tiny(epochs=3))  # keeps step-8.pt and step-12.pt
    checkpoints = tmp_path / "run" / "checkpoints"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    gone = ready(name=None, epochs=5, resume=str(checkpoints / "step-4.pt"))
    assert gone.resume == str(checkpoints / "step-12.pt")


def test_a_restart_goes_back_again_to_an_older_resume_point(tiny, ready, tmp_path, monkeypatch):
    train(tiny(epochs=3))
    # step-12.pt may be that of the run which was to be changed from step 8 on.
    older = str(tmp_path / "run" / "checkpoints" / "step-8.pt")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert ready(name=None, epochs=5, resume=older).resume == older


@pytest.mark.parametrize("variable", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_restart_continues_from_what_was_saved_since_the_run_went_back(
    tiny, ready, tmp_path, monkeypatch, variable
):
    train(tiny(epochs=3))
    older = tmp_path / "run" / "checkpoints" / "step-8.pt"
    train(tiny(name=None, epochs=4, keep_checkpoints=9, resume=str(older)))
    assert older.exists()
    monkeypatch.setenv(variable, "1")
    assert ready(name=None, epochs=5, resume=str(older)).resume == str(
        older.with_name("step-16.pt")
    )


def test_a_copy_in_a_folder_called_checkpoints_continues_in_a_new_folder(tiny, ready, tmp_path):
    folder = Path(train(tiny(epochs=1))["folder"])
    (tmp_path / "backup" / "checkpoints").mkdir(parents=True)
    copied = shutil.copy(folder / "checkpoints" / "last.pt", tmp_path / "backup" / "checkpoints")
    run_spec = ready(epochs=2, name=None, resume=str(copied))
    assert run_spec.resume == str(copied) and "backup" not in run_spec.folder


def test_best_networks_without_a_resume_point_are_not_replaced(tiny, ready, tmp_path):
    folder = Path(train(tiny(epochs=1))["folder"])
    copied = shutil.copy(folder / "checkpoints" / "last.pt", tmp_path / "mine.pt")
    for path in [*(folder / "checkpoints").glob("step-*.pt"), folder / "checkpoints" / "last.pt"]:
        path.unlink(missing_ok=True)
    (folder / "summary.json").unlink()
    with pytest.raises(FolderInUseError, match="holds a run"):
        ready(epochs=2, resume=str(copied))
    assert (folder / "checkpoints" / "best.pt").exists()


def test_a_run_that_was_killed_before_its_first_resume_point_begins_again_with_its_file(
    tiny, ready, tmp_path
):
    train(tiny(epochs=1))
    copied = shutil.copy(tmp_path / "run" / "checkpoints" / "last.pt", tmp_path / "mine.pt")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").touch()
    config = tiny(name="begun", epochs=2, resume=str(copied))
    require_free_folders([config])
    assert ready(name="begun", epochs=2, resume=str(copied)).resume == str(copied)


@pytest.mark.parametrize("name", [None, "run"])
def test_a_resume_of_an_absent_file_leaves_nothing(tiny, ready, tmp_path, name):
    with pytest.raises(CheckpointError, match=r"--resume: .*last.pt can't be read"):
        ready(name=name, resume=str(tmp_path / "typo" / "checkpoints" / "last.pt"))
    assert list(tmp_path.iterdir()) == []


def test_an_out_that_a_resume_would_ignore_is_refused(tiny, tmp_path):
    own = tmp_path / "run" / "checkpoints" / "last.pt"
    own.parent.mkdir(parents=True)
    own.touch()
    (tmp_path / "run" / "config.yaml").touch()
    config = tiny(name=None, resume=str(own), out=str(tmp_path / "other"))
    with pytest.raises(ConfigError, match=r"continues in its own run's folder, .*run; leave --out"):
        prepare(config, given(config))
    assert not (tmp_path / "other").exists()


def test_a_run_s_folder_that_can_t_be_written_is_named(tiny, tmp_path, monkeypatch):
    def refused(folder):
        raise StorageError(f"{folder.path} can't be written: Read-only file system")

    own = tmp_path / "run" / "checkpoints" / "last.pt"
    own.parent.mkdir(parents=True)
    own.touch()
    (tmp_path / "run" / "config.yaml").touch()
    monkeypatch.setattr(RunDir, "create", refused)
    with pytest.raises(ConfigError, match=r"can't write to .*/run: .*; add --name"):
        prepare(tiny(name=None, resume=str(own), out=str(tmp_path / "other")), {})


def test_all_seeds_are_checked_before_the_first_trains(tiny, tmp_path):
    for seeds, error in (([0, 99999999999], ConfigError), ([0, 2], FolderInUseError)):
        (tmp_path / "run-seed2").mkdir(exist_ok=True)
        (tmp_path / "run-seed2" / "config.yaml").touch()
        with pytest.raises(error):
            launch_seeds(tiny(), given=given(tiny()), seeds=seeds)
        assert not (tmp_path / "run-seed0").exists()


def test_a_machine_without_the_folder_of_a_complete_run_has_the_main_process_s_summary(
    tmp_path, monkeypatch
):
    summaries = [{"status": "completed", "epochs": 2}, {}]  # of rank 0, and of this one
    monkeypatch.setattr(execute, "gather_json", lambda own, group: summaries)
    outcome = execute._finished_outcome(
        RunSpec({}, str(tmp_path / "absent"), None, finished="the run is complete")
    )
    assert outcome.status == "completed" and outcome.result["epochs"] == 2


def test_a_removed_folder_of_a_run_without_a_name_leaves_its_number_free(tiny, tmp_path):
    for name in ("fer48-demo-2", "fer48-demo-10", "fer48-demo-10-seed1", "fer48-demo-x"):
        (tmp_path / name).mkdir()
    newest, existed = choose_folder(tiny(name=None, resume="auto"))
    assert newest.path.name == "fer48-demo-10" and existed
    fresh, existed = choose_folder(tiny(name=None))
    assert fresh.path.name == "fer48-demo-11" and not existed


def test_a_system_without_locks_is_warned_of(ready, monkeypatch):
    monkeypatch.setattr("fer_ignite.checkpoint.run_lock.fcntl", None)
    assert "no file locks" in ready().warnings[0]


def test_an_out_that_is_no_folder_is_refused(tiny, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "not mounted")
    (tmp_path / "file").write_text("")
    for name in ("link", "file"):
        with pytest.raises(ConfigError, match=f"{name}: it is there and is no folder"):
            choose_folder(tiny(name=None, out=str(tmp_path / name)))


def test_two_runs_can_t_share_a_folder(ready):
    ready()
    with pytest.raises(FolderInUseError):
        ready(exist_ok=True)


@pytest.mark.parametrize(
    "refused", [{"model": "resnet19"}, {"data": "nowhere.csv"}, {"exclude": "nowhere.csv"}]
)
def test_a_refused_start_with_exist_ok_keeps_the_earlier_run(tiny, ready, tmp_path, refused):
    train(tiny(epochs=1))
    before = {
        path: path.read_bytes()
        for path in (tmp_path / "run").rglob("*")
        if path.is_file() and path.name != "run.lock"
    }
    with pytest.raises(FerError):
        ready(exist_ok=True, **refused)
    kept = {
        path: path.read_bytes()
        for path in (tmp_path / "run").rglob("*")
        if path.is_file() and path.name != "run.lock"
    }
    assert kept == before
    assert not any(RunDir(ready(exist_ok=True).folder).checkpoints.iterdir())


def test_a_resumed_run_s_own_settings_come_before_defaults_and_given_ones_win(tiny, tmp_path):
    train(tiny(lr=0.3, epochs=2, sched="constant"))
    config = tiny(epochs=3, resume="auto")
    chosen = {
        name: value
        for name, value in given(config).items()
        if name in ("epochs", "resume", "out", "name", "batch_size")
    }
    run_spec, lock = prepare(config, chosen)
    lock.release()
    assert (
        run_spec.config["lr"] == 0.3
        and run_spec.config["sched"] == "constant"
        and run_spec.config["epochs"] == 3
    )
    assert run_spec.resume == str(tmp_path / "run" / "checkpoints" / "step-8.pt")
    assert any("epochs 2 -> 3" in note for note in run_spec.notes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 16}, "batch_size"),
        ({"seed": 5}, "seed"),
        ({"model": "emotionnet"}, "model"),
        ({"hflip": 0.1}, "hflip"),
        ({"data": "demo:280"}, "data|fingerprint"),
        ({"classes": ",".join(f"{n}={n}" for n in ["angry", "happy"])}, "classes"),
    ],
)
def test_structural_changes_are_refused_by_name_unless_overridden(tiny, change, said):
    """Row D10."""
    train(tiny(epochs=1))
    with pytest.raises(FerError, match=said) as caught:
        train(tiny(epochs=2, resume="auto", **change))
    assert "--override" in str(caught.value)


@pytest.mark.parametrize("change", [{"lr": 0.01}, {"log_every": 3}, {"patience": 4}])
def test_other_changes_are_taken_up_and_reported(tiny, change, ready):
    train(tiny(epochs=1))
    run_spec = ready(epochs=2, resume="auto", **change)
    assert any(next(iter(change)) in note for note in run_spec.notes)


def test_an_override_allows_what_it_names(tiny):
    train(tiny(epochs=1))
    assert train(tiny(epochs=2, resume="auto", hflip=0.1, override="hflip"))["epochs"] == 2


def test_resume_of_nothing_is_refused_and_auto_starts(tiny, ready):
    with pytest.raises(CheckpointError, match="no resume point"):
        ready(resume="last")
    assert ready(resume="auto").resume is None


@pytest.mark.parametrize("by", ["auto", "folder"])
def test_a_damaged_resume_point_is_passed_over_and_said_so(tiny, ready, tmp_path, by):
    train(tiny(epochs=2))
    resumed = (
        {"resume": "auto"} if by == "auto" else {"resume": str(tmp_path / "run"), "name": None}
    )
    newest = tmp_path / "run" / "checkpoints" / "step-8.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)  # last.pt is the same file
    run_spec = ready(epochs=3, **resumed)
    assert run_spec.resume.endswith("step-4.pt") and any(
        "step-8.pt is damaged" in line for line in run_spec.warnings
    )


@pytest.mark.parametrize(
    "data", ["demo", "demo:100", "kaggle:a/b", "shards:faces", "folder", "x.csv"]
)
def test_what_names_no_class_is_no_user_dataset(data):
    assert not is_user_dataset(data)
    assert not is_user_code("data", data)  # nor is it asked for again on a resume
    assert is_user_dataset("my.module:Data")


def test_demo_faces_are_told_from_files_of_a_like_name():
    assert is_drawn("demo") and is_drawn("demo:140") and is_drawn("demo:70,demo")
    assert not is_drawn("demographics.csv") and not is_drawn("demo,fer2013.csv")


def test_the_cache_is_built_as_the_settings_say(tiny):
    spec = build_cache_spec(tiny(image_size=32, resize=40, channels="gray", split="0.8,0.1,0.1"))
    assert (spec.side_px, spec.channels, spec.split) == (40, "gray", (0.8, 0.1, 0.1))
    assert find_cache(tiny())[1] == find_cache(tiny())[1]


def at_top_level(session):
    pass


def test_handlers_that_can_t_be_sent_are_refused_before_the_start(tiny):
    check_sendable([at_top_level])

    def inside(session):
        pass

    for handler in (inside, lambda session: None):
        with pytest.raises(ConfigError, match="top level of a module"):
            check_sendable([handler])


def test_data_is_read_after_all_that_is_quick_to_check(tiny):
    for change in (
        {"model": "no_net"},
        {"loss": "no_loss"},
        {"init_from": "absent.pt"},
        {"collate_fn": "nothing"},
    ):
        with pytest.raises((ConfigError, CheckpointError)) as caught:
            train(tiny(data="absent_folder", **change))
        assert next(iter(change)).replace("_", "-") in str(caught.value)
    with pytest.raises(DataError, match="absent_folder"):
        train(tiny(data="absent_folder"))


def test_a_temporary_folder_that_loaders_can_t_talk_through_is_refused_before_they_wait_for_ever(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 80)))
    with pytest.raises(
        ConfigError,
        match=r"--workers 2: the folder of temporary files, .*; set TMPDIR to a shorter one",
    ):
        check_names(Config(workers=2))
    check_names(Config(workers=0))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path)[:60].ljust(60, "x"))
    check_names(Config(workers=2, start_method="fork"))  # one process has no launch folder
    with pytest.raises(ConfigError, match="--workers 2"):
        check_names(Config(workers=2, start_method="fork", nproc=2))


def test_another_optimizer_on_resume_does_not_inherit_rate_and_weight_decay(tiny):
    train(tiny(epochs=1, sched="constant"))
    summary = train(tiny(epochs=2, sched="constant", resume="auto", opt="sgd", override="opt"))
    config = load_checkpoint(summary["folder"] + "/checkpoints/last.pt")["config"]
    assert (config["opt"], config["lr"], config["weight_decay"]) == ("sgd", 0.1, 0.0005)
