import csv
import json
import shlex
import shutil

import click
import numpy as np
import pytest

from fer_ignite.apps.audit import pipeline
from fer_ignite.apps.audit.out_of_fold import NO_FOLD
from fer_ignite.apps.audit.pipeline import (
    AuditRequest,
    _LabelScores,
    _learnable,
    _score_with_checkpoint,
    _skill,
    audit,
    changed_data_settings,
)
from fer_ignite.apps.audit.summary import summarise
from fer_ignite.checkpoint.format import load_checkpoint, write_checkpoint
from fer_ignite.cli import train
from fer_ignite.cli.options import given_settings
from fer_ignite.config import DATA_SETTINGS, check
from fer_ignite.data.open import find_cache, open_dataset
from fer_ignite.errors import CheckpointError, ConfigError, DataError

_REPORT = {
    "n": 4,
    "balance": {"train": {"angry": 2, "happy": 2}},
    "copies": {
        "exact_images": 0,
        "near_images": 0,
        "groups": 0,
        "contradicting_groups": 0,
        "across_splits_groups": 0,
        "same_person_groups": 0,
        "train_images_also_in_val_or_test": {"exact": 0, "exact_or_near": 0},
    },
    "blank": 0,
    "labels": {"scored_by": "nobody"},
    "voters": None,
    "drop": 1,
}


def iter_rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture
def folder(tmp_path, blob):
    from PIL import Image

    images = {
        "train/happy/a": blob(0),
        "train/sad/b": blob(0),
        "train/sad/c": blob(1),
        "test/sad/d": blob(1),
        "train/happy/e": np.zeros((48, 48), np.uint8),
        "val/happy/f": blob(3),
        "val/sad/g": blob(4),
        "test/happy/h": blob(5),
        "train/happy/i": blob(6),
        "train/sad/j": blob(7),
    }
    for name, pixels in images.items():
        path = tmp_path / "faces" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (tmp_path / "faces" / "train" / "sad" / "broken.png").write_bytes(b"")
    return tmp_path / "faces"


def test_the_command_writes_csv_page_and_report_and_train_takes_the_csv(cli, folder, tiny_flags):
    ended = cli("audit", folder, "--no-labels", "--quiet")
    assert ended.code == 0, ended.err
    assert (
        "1 images are blank, 1 files can't be read" in ended.out and "audit/audit.csv" in ended.out
    )
    rows = iter_rows(ended.folder / "audit" / "audit.csv")
    dropped = sorted(row["id"].rsplit("/", 1)[1] for row in rows if row["drop"] == "yes")
    # two that contradict each other, a leak, a blank
    assert dropped == ["a.png", "b.png", "c.png", "e.png"]
    report = json.loads((ended.folder / "audit" / "audit.json").read_text())
    assert report["drop"] == 4 and report["copies"]["train_images_also_in_val_or_test"] == {
        "exact": 1,
        "exact_or_near": 1,
    }
    assert "<!doctype html>" in (ended.folder / "audit" / "audit.html").read_text()
    (said,) = (line for line in ended.out.splitlines() if "advised to be left out: " in line)
    program, command, *words = shlex.split(said.partition("left out: ")[2])
    assert [program, command, *words[:2]] == ["fer-ignite", "train", "--data", str(folder)]
    trained = cli("train", *words, *tiny_flags[2:])
    assert trained.code == 0, trained.err
    assert "4 of 6 train images left out" in trained.err


def test_the_printed_command_reads_the_data_as_the_audit_did(tmp_path):
    report = {**_REPORT, "broken": 0}
    values = {
        "data": "my faces",
        "group_by": "S[0-9]+",
        "crop_faces": True,
        "split": "0.7,0.1,0.2",
        "split_seed": 3,
        "classes": "angry,happy",
        "layout": "folders",
    }
    config = check(values)
    settings = changed_data_settings(config)
    said = summarise(report, settings, out=tmp_path)[-1]
    words = shlex.split(said.partition("left out: ")[2])
    with click.Context(train.command) as context:
        train.command.parse_args(context, words[2:])
        given = {name: value for name, value in context.params.items() if value is not None}
    assert given.pop("exclude") == str(tmp_path / "audit.csv") and "bad_images" not in given
    again = given_settings({name: given.get(name) for name in (*DATA_SETTINGS, "data")})
    assert check(again) == config
    assert (
        summarise({**report, "broken": 2}, settings, out=tmp_path)[-1].count("--bad-images skip")
        == 1
    )


def test_an_audit_is_not_overwritten_unless_requested(cli, folder):
    assert cli("audit", folder, "--no-labels", "--quiet").code == 0
    again = cli("audit", folder, "--no-labels", "--quiet")
    assert again.code == 2 and "--exist-ok" in again.err
    assert cli("audit", folder, "--no-labels", "--quiet", "--exist-ok").code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent"], "absent"),
        (["demo:140", "--votes", "absent.csv"], "absent.csv"),
        (["my:Data"], "user's data set"),
        (["demo:140", "--checkpoint", "absent.pt"], "absent.pt"),
        (["demo:140", "--folds", "1"], "--folds"),
        (["demo:140", "--drop-above", "2"], "--drop-above"),
        ([], "DATA"),
    ],
)
def test_nonsense_is_refused_in_one_line_and_nothing_is_written(cli, arguments, said):
    ended = cli("audit", *arguments, *(["--quiet"] if arguments else []))
    assert ended.code == 2 and said in ended.err and len(ended.err.strip().splitlines()) == 1, (
        ended.err
    )
    assert list(ended.folder.iterdir()) == []


@pytest.mark.slow
def test_a_checkpoint_that_has_seen_train_is_said_so(finished_run, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "_CLEARLY", 0.0)  # this network has learned little
    best = str(finished_run / "checkpoints" / "best.pt")
    looks = (finished_run / "test_access.jsonl").read_text().count("\n")
    report = audit(
        tiny(data="demo:700"), AuditRequest(checkpoint=best, out=str(tmp_path / "a"), tta="none")
    )
    assert "may have fitted their wrong labels" in report["labels"]["warning"] and any(
        "Warning" in line for line in report["sentences"]
    )
    seen = {
        row["split"]: row["seen"] for row in iter_rows(tmp_path / "a" / "audit.csv") if row["seen"]
    }
    assert all(seen[split] == ("yes" if split == "train" else "no") for split in seen)
    assert (finished_run / "test_access.jsonl").read_text().count(
        "\n"
    ) == looks + 1  # test was scored
    other = audit(
        tiny(data="demo:140"), AuditRequest(checkpoint=best, out=str(tmp_path / "b"), tta="none")
    )
    assert "other data" in other["labels"]["warning"]
    assert (finished_run / "test_access.jsonl").read_text().count("\n") == looks + 1


@pytest.mark.slow
def test_without_a_checkpoint_networks_judge_what_they_have_not_seen(tiny, tmp_path):
    report = audit(tiny(data="demo:70"), AuditRequest(out=str(tmp_path / "a"), folds=2, epochs=1))
    assert report["labels"]["warning"] is None and "out of fold" in report["labels"]["scored_by"]
    assert 0 <= report["labels"]["agreement"] <= 1


def test_votes_of_other_data_stop_the_audit_before_anything_is_written(tiny, tmp_path):
    (tmp_path / "v.csv").write_text(
        "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
    )
    with pytest.raises(DataError, match="row by row"):
        audit(tiny(), AuditRequest(votes=str(tmp_path / "v.csv"), out=str(tmp_path / "a")))
    with pytest.raises(ConfigError, match="is a file"):
        audit(tiny(), AuditRequest(out=str(tmp_path / "v.csv")))
    assert not (tmp_path / "a").exists()


@pytest.mark.real
def test_on_fer2013_two_thousand_images_are_known_to_be_copies(tmp_path):
    """The data has 2,352 pairs of equal images, blank ones not counted; a third of the near groups crosses splits."""
    import os

    report = audit(
        check({"data": os.environ["FER2013_CSV"], "quiet": True}),
        AuditRequest(labels=False, out=str(tmp_path / "a")),
    )
    assert report["n"] == 35887 and report["blank"] > 5
    assert report["copies"]["exact_images"] > 1500 and report["copies"]["near_images"] > 1000
    assert report["copies"]["train_images_also_in_val_or_test"]["exact"] > 200


@pytest.mark.slow
def test_networks_at_chance_give_no_verdict_on_labels(tiny, tmp_path):
    report = audit(tiny(data="demo:70"), AuditRequest(out=str(tmp_path / "a"), folds=2, epochs=1))
    skill = report["labels"]["skill"]
    assert not skill["sufficient"] and skill["chance"] == pytest.approx(1 / 7) and skill["n"] == 70
    without = audit(tiny(data="demo:70"), AuditRequest(out=str(tmp_path / "b"), labels=False))
    assert (
        report["labels"]["listed"] == 0
        and report["kinds"] == without["kinds"]
        and report["drop"] == without["drop"]
    )
    (said,) = [line for line in report["sentences"] if "labels" in line and "No verdict" in line]
    assert (
        f"{100 * skill['agreement']:.1f} %" in said
        and "14.3 %" in said
        and f"{100 * skill['majority']:.1f} %" in said
    )
    assert "No verdict on labels" in (tmp_path / "a" / "audit.html").read_text()
    assert all(
        "label" not in row["kinds"].split(";") and not row["score"]
        for row in iter_rows(tmp_path / "a" / "audit.csv")
    )


def test_a_network_that_always_says_the_majority_class_gives_no_verdict():
    labels_N = np.array([0] * 90 + [1] * 10)
    probabilities_NK = np.tile(np.array([[0.9, 0.1]], np.float32), (100, 1))
    everyone = np.ones(100, dtype=bool)
    scored = _LabelScores(probabilities_NK, everyone, ~everyone, "a network")
    assert not _skill(scored, labels_N, num_classes=2)["sufficient"]
    perfect = _LabelScores(np.eye(2, dtype=np.float32)[labels_N], everyone, ~everyone, "a network")
    assert _skill(perfect, labels_N, num_classes=2)["sufficient"]
    weak_N2 = np.eye(2, dtype=np.float32)[np.where(np.arange(100) % 3 == 0, labels_N, 0)]
    weak = _LabelScores(weak_N2, everyone, ~everyone, "a network")
    assert not _skill(weak, labels_N, num_classes=2)["sufficient"]
    assert (
        _skill(
            _LabelScores(probabilities_NK, everyone, everyone, "a network"), labels_N, num_classes=2
        )
        is None
    )


def test_what_any_member_of_an_ensemble_was_trained_on_counts_as_seen(finished_run, tmp_path):
    """Two folds: each member holds out what the other has learned; both runs' logs record the use of test."""
    config = check({"data": "demo:700", "quiet": True})
    dataset = open_dataset(config, find_cache(config)[0])
    runs = [tmp_path / f"fold{fold}" for fold in range(2)]
    for fold, run in enumerate(runs):
        shutil.copytree(finished_run, run)
        best = run / "checkpoints" / "best.pt"
        content = load_checkpoint(best)
        with best.open("wb") as file:
            settings = {**content["config"], "folds": 2, "fold": fold}
            write_checkpoint({**content, "config": settings}, file)
    log = "test_access.jsonl"
    before = [(run / log).read_text().count("\n") for run in runs]
    name = ",".join(str(run / "checkpoints" / "best.pt") for run in runs)
    scored = _score_with_checkpoint(dataset, AuditRequest(tta="none"), checkpoint=name)
    test_N = np.isin(np.arange(700), dataset.indices["test"])
    assert (scored.seen_N == ~test_N).all() and "may have fitted" in scored.warning
    assert [(run / log).read_text().count("\n") for run in runs] == [n + 1 for n in before]


def test_only_runs_of_the_audited_data_log_a_use_of_their_test_split(finished_run, tmp_path):
    config = check({"data": "demo:140", "quiet": True})
    dataset = open_dataset(config, find_cache(config)[0])
    runs = [tmp_path / name for name in ("other", "own")]
    for run in runs:
        shutil.copytree(finished_run, run)
    best = runs[1] / "checkpoints" / "best.pt"
    content = load_checkpoint(best)
    with best.open("wb") as file:
        settings = {**content["config"], "data": "demo:140", "split_seed": 5}
        write_checkpoint({**content, "config": settings}, file)
    log = "test_access.jsonl"
    before = [(run / log).read_text().count("\n") for run in runs]
    name = ",".join(str(run / "checkpoints" / "best.pt") for run in runs)
    _score_with_checkpoint(dataset, AuditRequest(tta="none"), checkpoint=name)
    after = [(run / log).read_text().count("\n") for run in runs]
    assert after == [before[0], before[1] + 1]


def test_networks_learn_from_groups_that_val_and_test_share_only_where_nothing_else_is_left():
    fold_N = np.array([0, 0, 1, 1, NO_FOLD, NO_FOLD])
    copies_N = np.array([0, 1, 2, 3, 0, 5])  # the first train image has a copy in val
    apart, warning = _learnable(fold_N, np.array([0, 1, 2, 3, 0, 5]), copies_N=copies_N, source="d")
    assert apart.tolist() == [False, True, True, True, False, False] and warning is None
    shared_N = np.array([0, 1, 0, 1, 0, 1])  # two persons, both in val and test too
    apart, warning = _learnable(fold_N, shared_N, copies_N=copies_N, source="d")
    assert apart.tolist() == [False, True, True, True, False, False] and "--group-by" in warning
    with pytest.raises(DataError, match="--no-labels"):
        _learnable(fold_N, shared_N, copies_N=shared_N, source="d")


def test_train_images_of_one_group_are_refused_with_the_remedy(folder, tmp_path):
    config = check({"data": str(folder), "group_by": "png", "quiet": True})
    with pytest.raises(DataError, match=r"one group.*--no-labels"):
        audit(config, AuditRequest(out=str(tmp_path / "a")))
    assert audit(config, AuditRequest(out=str(tmp_path / "a"), labels=False))["n"] == 10


def test_an_exported_file_is_refused_before_the_data_is_read(tmp_path):
    config = check({"data": str(tmp_path / "none"), "quiet": True})
    with pytest.raises(CheckpointError, match=r"m\.onnx is an exported file"):
        audit(config, AuditRequest(checkpoint="m.onnx", out=str(tmp_path / "a")))
