"""What a resumed run may change is said; what would make it another run is refused by name."""

import importlib
from typing import Any

import pytest

from fer_ignite.api import train
from fer_ignite.errors import ConfigError, DataError

support = importlib.import_module("support")  # conftest.py has put this folder on the path

STRUCTURAL: dict[str, Any] = {
    "batch_size": 16,
    "seed": 6,
    "model_args": {"widths": [8, 16], "blocks": [0, 0]},
    "classes": "happy,sad,angry,fear,disgust,surprise,neutral",
    "rotate": 25.0,
    "sampler": "balanced",
    "opt": "sgd",
    "loss": "focal",
}


@pytest.fixture
def stopped(faces, tmp_path):
    train(support.config_of(faces, tmp_path, epochs=1))
    return tmp_path


@pytest.mark.parametrize("name", STRUCTURAL)
def test_a_structural_setting_is_refused_by_name(faces, stopped, name):
    before = (stopped / "run" / "config.yaml").read_bytes()
    with pytest.raises((ConfigError, DataError), match=name):
        train(
            support.config_of(
                faces, stopped, resume="auto", **{"epochs": 2, name: STRUCTURAL[name]}
            )
        )
    assert (stopped / "run" / "config.yaml").read_bytes() == before


def test_other_data_is_refused(faces, stopped, tmp_path):
    other = support.write_faces(tmp_path / "other.csv", train=support.TRAIN - 1)
    with pytest.raises((ConfigError, DataError), match="data"):
        train(support.config_of(other, stopped, resume="auto", epochs=2))


def test_the_same_data_may_have_moved(faces, stopped, tmp_path):
    moved = tmp_path / "moved.csv"
    moved.write_bytes(faces.read_bytes())
    assert train(support.config_of(moved, stopped, resume="auto", epochs=2))["epochs"] == 2


def test_an_override_allows_what_it_names_and_only_that(faces, stopped):
    changed = {"epochs": 2, "rotate": 25.0, "seed": 6}
    with pytest.raises(ConfigError, match="seed"):
        train(support.config_of(faces, stopped, resume="auto", override=("rotate",), **changed))
    assert (
        train(
            support.config_of(faces, stopped, resume="auto", override=("rotate", "seed"), **changed)
        )["epochs"]
        == 2
    )


def test_learning_rate_and_epochs_may_change_and_are_said(faces, stopped, capsys):
    summary = train(support.config_of(faces, stopped, resume="auto", epochs=2, lr=0.005))
    assert summary["epochs"] == 2
    log = (stopped / "run" / "log.txt").read_text()
    assert "changed on resume: epochs 1 -> 2" in log
    assert "changed on resume: lr 0.01 -> 0.005" in log


@pytest.mark.slow
def test_the_number_of_processes_may_change_and_is_said(server, faces, stopped):
    settings = support.settings(
        faces, stopped, epochs=2, resume="auto", nproc=2, start_method="fork"
    )
    assert server.run(settings, stopped / "log") == 0, (stopped / "log").read_text()
    assert "changed on resume: processes 1 -> 2" in (stopped / "run" / "log.txt").read_text()
