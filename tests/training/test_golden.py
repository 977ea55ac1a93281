"""Checkpoints of released versions still load, continue and evaluate; how they were made is in tests/golden/golden.py."""

import importlib
import json
import sys
from pathlib import Path

import pytest

import fer_ignite
from fer_ignite.checkpoint.format import load_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
golden = importlib.import_module("golden")

VERSIONS = sorted(path.parent.name for path in GOLDEN.glob("*/expected.json"))
EPOCH = 6  # iterations: 45 faces in batches of 8


def expected(version):
    return json.loads((GOLDEN / version / "expected.json").read_text())


def checkpoint(version):
    return GOLDEN / version / f"step-{golden.SAVED_AT}.pt"


def test_this_version_has_a_checkpoint_among_them():
    assert fer_ignite.__version__ in VERSIONS, (
        "release: run python tests/golden/golden.py, and keep what it writes"
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_checkpoint_says_where_it_stands(version):
    content = load_checkpoint(checkpoint(version))
    assert (content["trainer"]["iteration"], content["trainer"]["epoch_length"]) == (
        golden.SAVED_AT,
        EPOCH,
    )
    assert golden.SAVED_AT % EPOCH  # in mid-epoch
    assert content["data"]["counts"] == {"train": 45, "val": 21, "test": 0}
    assert checkpoint(version).stat().st_size < 100_000


@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_continues_from_an_old_checkpoint_as_it_did_then(version, tmp_path):
    faces = golden.write_faces(tmp_path / "faces.csv")
    seen, then = golden.resumed(checkpoint(version), faces, tmp_path), expected(version)["next"]
    assert min(seen) == golden.SAVED_AT + 1
    assert {int(number) for number in then} == set(
        range(golden.SAVED_AT + 1, golden.SAVED_AT + golden.NEXT + 1)
    )
    for number, line in then.items():
        assert seen[int(number)]["faces"] == line["faces"]
        assert abs(seen[int(number)]["loss"] - line["loss"]) <= 1e-4


@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_checkpoint_scores_as_it_did_then(version, tmp_path):
    found, then = (
        golden.scores(checkpoint(version), golden.write_faces(tmp_path / "faces.csv")),
        expected(version)["scores"],
    )
    assert found["class_names"] == then["class_names"]
    assert found["n"] == then["n"] == sum(map(sum, found["confusion_matrix"])) == 21
    assert abs(found["loss"] - then["loss"]) <= 1e-4
    # Rounding may turn a face that stands on the border of two expressions; no more than one here.
    assert abs(found["accuracy"] - then["accuracy"]) <= 1 / 21 + 1e-9
