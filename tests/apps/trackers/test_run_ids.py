import json

import pytest

from fer_ignite.apps.trackers.run_ids import RunIds, without_password


def test_an_entry_outlives_the_process_and_keeps_its_other_facts(tmp_path):
    path = tmp_path / "trackers.json"
    RunIds(path).begin("mlflow", id="a", place="here")
    RunIds(path).note("mlflow", reached={"val/loss": 4})
    RunIds(path).begin("wandb", id="b")
    assert RunIds(path).entry("mlflow") == {"id": "a", "place": "here", "reached": {"val/loss": 4}}
    assert set(json.loads(path.read_text())) == {"mlflow", "wandb"}


def test_a_new_record_forgets_what_the_earlier_one_had(tmp_path):
    register = RunIds(tmp_path / "trackers.json")
    register.begin("mlflow", id="a", reached={"x": 1})
    register.begin("mlflow", id="b")
    assert register.entry("mlflow") == {"id": "b"}


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"mlflow": 3}'])
def test_a_damaged_file_counts_as_empty(tmp_path, text):
    path = tmp_path / "trackers.json"
    path.write_text(text)
    assert RunIds(path).entry("mlflow") == {}


@pytest.mark.parametrize(
    ("uri", "plain"),
    [
        ("http://user:word@host:5000/a?key=1", "http://host:5000/a"),
        ("http://host:5000", "http://host:5000"),
        ("postgresql://user:word@db/x", "postgresql://db/x"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
    ],
)
def test_an_address_is_kept_without_its_password(uri, plain):
    assert without_password(uri) == plain
