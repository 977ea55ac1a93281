"""Searches in a real sqlite study, over real runs."""

import csv
import json

import pytest

from fer_ignite.config import check, merged, read_yaml
from fer_ignite.errors import ConfigError, StorageError

optuna = pytest.importorskip("optuna")

from fer_ignite.apps.tune.results import write_results  # noqa: E402
from fer_ignite.apps.tune.search import TuneRequest, tune  # noqa: E402
from fer_ignite.apps.tune.study import NAME  # noqa: E402
from fer_ignite.checkpoint.run_lock import hold_folder  # noqa: E402

SPACE = "lr: {log: [0.001, 0.1]}\nopt: [adamw, sgd]\n"


@pytest.fixture
def search(tiny, tmp_path):
    """(trials, text of the space, **settings) -> outcome of a search in tmp_path/search, and the lines it printed."""

    def run(trials, text=SPACE, **settings):
        (tmp_path / "space.yaml").write_text(text)
        config = tiny(**{"name": "search", "epochs": 1, **settings})
        given = {name: getattr(config, name) for name in config.model_fields_set}
        lines = []
        request = TuneRequest(space=str(tmp_path / "space.yaml"), trials=trials)
        return tune(config, request, given=given, echo=lines.append), lines

    return run


@pytest.fixture
def study_in():
    """(folder, name) -> the study of a search there; its database is closed at the end."""
    storages = []

    def load(folder, name="search"):
        storages.append(optuna.storages.RDBStorage(f"sqlite:///{folder / name / 'study.db'}"))
        return optuna.load_study(study_name=NAME, storage=storages[-1])

    yield load
    for storage in storages:
        storage.remove_session()
        storage.engine.dispose()


@pytest.mark.slow
def test_a_search_leaves_a_study_a_run_per_trial_and_the_best_settings(search, tmp_path, study_in):
    outcome, lines = search(4)
    folder, result = tmp_path / "search", outcome.result
    assert outcome.exit_code == 0 and len(lines) == 4
    assert result["trials"] == {"complete": 4, "pruned": 0, "failed": 0, "running": 0, "waiting": 0}
    summaries = [
        json.loads((folder / f"trial-{number:04d}" / "summary.json").read_text())
        for number in range(4)
    ]
    assert result["best"]["value"] == max(summary["best"]["value"] for summary in summaries)
    assert not any("test" in summary for summary in summaries) and not list(
        folder.glob("*/test_access.jsonl")
    )
    best = check(merged(read_yaml(folder / "best.yaml")))
    assert {name: getattr(best, name) for name in ("lr", "opt")} == result["best"]["settings"]
    assert (best.data, best.epochs, best.out, best.score_test) == ("demo:140", 1, "runs", True)
    rows = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    assert [row["state"] for row in rows] == ["complete"] * 4 and float(rows[0]["lr"]) != float(
        rows[1]["lr"]
    )
    assert not (folder / "workers").exists()

    # The same command once more has nothing to do, with more trials it continues; as if it had been one search.
    assert search(4)[1] == [] and len(search(5)[1]) == 1
    drawn = [trial.params for trial in study_in(tmp_path).trials]
    with pytest.raises(ConfigError, match="holds another search, which differs in smoothing"):
        search(6, smoothing=0.2)
    _, lines = search(5, name="afresh")
    fresh = study_in(tmp_path, "afresh")
    assert [trial.params for trial in fresh.trials] == drawn


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"exist_ok": True}, "--exist-ok"),
        ({"resume": "x/last.pt"}, "--resume x/last.pt"),
        ({"override": ("lr",)}, "--override lr"),
    ],
    ids=str,
)
def test_how_a_single_run_starts_is_refused_before_anything_is_made(
    search, tmp_path, settings, said
):
    with pytest.raises(
        ConfigError, match=f"^{said} is about a single run; .* continues in its folder"
    ):
        search(1, **settings)
    assert not (tmp_path / "search").exists()


def test_resume_auto_is_what_a_search_does(search):
    assert (
        search(1, resume="auto")[0].result["trials"]["complete"] == 1
        and search(1, resume="auto")[1] == []
    )


def test_a_trial_whose_worker_was_killed_is_run_again_in_its_folder(search, tmp_path, study_in):
    search(1)
    study = study_in(tmp_path)
    for worker in ("1-dead", "2-alive"):
        trial = study.ask()
        (
            trial.suggest_float("lr", 0.001, 0.1, log=True),
            trial.suggest_categorical("opt", ["adamw", "sgd"]),
        )
        trial.set_user_attr("worker", worker)
        trial.set_user_attr("folder", f"trial-{trial.number:04d}")
        (tmp_path / "search" / "workers" / worker).mkdir(parents=True)
    with hold_folder(tmp_path / "search" / "workers" / "2-alive"):
        outcome, lines = search(3)
    # Of three trials one was complete, one is being run by another worker, and the dead one's settings were tried again.
    assert len(lines) == 1 and outcome.result["trials"] == {
        "complete": 2,
        "pruned": 0,
        "failed": 0,
        "running": 1,
        "waiting": 0,
    }
    states = [trial.state.name for trial in study_in(tmp_path).trials]
    assert states == ["COMPLETE", "FAIL", "RUNNING", "COMPLETE"]
    again, dead = study_in(tmp_path).trials[3], study_in(tmp_path).trials[1]
    assert (
        again.params == dead.params
        and again.user_attrs["folder"] == dead.user_attrs["folder"] == "trial-0001"
    )


def test_settings_that_don_t_fit_together_cost_a_trial_and_three_in_a_row_end_the_search(
    search, tmp_path
):
    with pytest.raises(
        ConfigError, match=r"the last 3 trials could not be run, the last one because .*nesterov"
    ):
        search(5, "momentum: [0.0, 0]\n", opt="sgd")
    rows = list(csv.DictReader((tmp_path / "search" / "trials.csv").read_text().splitlines()))
    assert [row["state"] for row in rows] == ["fail"] * 3


def test_an_error_that_ends_the_search_leaves_its_trial_in_the_table(search, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise StorageError("the disk is full.")

    monkeypatch.setattr("fer_ignite.apps.tune.trials.launch_training", fail)
    with pytest.raises(StorageError, match="the disk is full"):
        search(5)
    rows = list(csv.DictReader((tmp_path / "search" / "trials.csv").read_text().splitlines()))
    assert [row["state"] for row in rows] == ["fail"]


def test_the_head_of_best_yaml_counts_judged_trials_and_prints_a_command_that_works(tmp_path):
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    states, study = ["COMPLETE", "PRUNED", "FAIL", "WAITING"], optuna.create_study()
    for state in states:
        frozen = optuna.trial.create_trial(
            state=getattr(optuna.trial.TrialState, state),
            value=0.5 if state == "COMPLETE" else None,
            user_attrs={"settings": {"lr": 0.1}},
        )
        study.add_trial(frozen)
    folder = tmp_path / "my search"
    folder.mkdir()
    write_results(study, folder, given={"max_train_samples": 64})
    head = (folder / "best.yaml").read_text()
    assert head.startswith("# Best of 2 trials: 0.5000")
    assert f"--config '{folder / 'best.yaml'}'\n" in head
    assert "remove that line to train on all" in head


@pytest.mark.slow
def test_a_trial_below_the_median_is_stopped_early(search, tmp_path, study_in):
    search(1, epochs=4)
    study = study_in(tmp_path)
    for lr in (0.01, 0.02, 0.03, 0.001):
        study.enqueue_trial({"lr": lr, "opt": "adamw"})
    before = study.trials[0]
    assert len(before.intermediate_values) == 4
    # A trial that ends at once with figures above all others makes the median hard to reach.
    for _ in range(5):
        good = optuna.trial.create_trial(
            params=before.params,
            distributions=before.distributions,
            value=1.0,
            state=optuna.trial.TrialState.COMPLETE,
            intermediate_values=dict.fromkeys(range(1, 5), 1.0),
            user_attrs={"settings": before.params, "folder": "trial-0000"},
        )
        study.add_trial(good)
    outcome, lines = search(10, epochs=4)
    assert outcome.result["trials"]["pruned"] == 4 and all(
        "stopped at epoch 2" in line for line in lines
    )
    summary = json.loads((tmp_path / "search" / "trial-0001" / "summary.json").read_text())
    assert summary["status"] == "early_stopped" and summary["epochs"] == 2


def test_a_request_to_score_test_is_refused(search, tmp_path):
    with pytest.raises(ConfigError, match=r"^--score-test: a search never scores test"):
        search(1, score_test=True)
    assert not (tmp_path / "search").exists()
