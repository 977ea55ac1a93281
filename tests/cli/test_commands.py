"""train, evaluate, predict, pack and info at work on drawn faces."""

import csv
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fer_ignite
from fer_ignite import load_model
from fer_ignite.checkpoint.format import load_checkpoint
from fer_ignite.cli.info import _parameters
from fer_ignite.data.drawn_faces import DEMO_CLASSES, draw_faces
from fer_ignite.data.images import printable
from fer_ignite.models.summary import parameter_count

CELLS = ("precision", "recall", "f1", "support")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    pixels, labels = draw_faces(7, seed=5)
    for image, label in zip(pixels, labels, strict=True):
        Image.fromarray(image.squeeze()).save(folder / f"{DEMO_CLASSES[label]}.png")
    return folder


@pytest.fixture(scope="module")
def best(finished_run):
    return finished_run / "checkpoints" / "best.pt"


def test_train_writes_the_whole_folder_and_says_what_it_does(cli, tiny_flags):
    ended = cli("train", *tiny_flags)
    assert ended.code == 0, ended.err
    run = ended.folder / "runs" / "run"
    expected = {
        "config.yaml",
        "history.jsonl",
        "results.csv",
        "summary.json",
        "log.txt",
        "test_access.jsonl",
        "checkpoints",
    }
    assert expected <= {path.name for path in run.iterdir()}
    summary = json.loads((run / "summary.json").read_text())
    assert {
        "status",
        "epochs",
        "iterations",
        "optimizer_steps",
        "seconds",
        "images_per_second",
        "best",
        "val",
        "test",
        "weights_sha256",
        "seed",
        "world_size",
        "versions",
        "data",
    } <= set(summary)
    assert summary["status"] == "completed" and summary["iterations"] == 4
    assert {"n", "loss", "accuracy", "macro_f1", "uar", "tta"} <= set(summary["val"]) & set(
        summary["test"]
    )
    for said in (
        "data ",
        "7 classes",
        "model ",
        "parameters",
        "optimizer steps",
        "fp32",
        "runs/run",
        "test        accuracy",
    ):
        assert said in ended.err
    assert ended.out == ""


def test_a_finished_run_has_nothing_left_to_do(cli, tiny_flags):
    cli("train", *tiny_flags, "--quiet")
    ended = cli("train", *tiny_flags, "--quiet", "--resume", "auto")
    assert ended.code == 0 and "nothing left to do" in ended.err
    further = ("--resume", "auto", "--epochs", "2", "--sched", "constant", "--override", "sched")
    more = cli("train", *tiny_flags[:2], "--name", "run", "--quiet", *further)
    assert more.code == 0, more.err


def test_a_trial_run_takes_three_batches(cli, tiny_flags):
    ended = cli(
        "train",
        *tiny_flags[:2],
        *tiny_flags[4:],
        "--epochs",
        "5",
        "--eval-batch-size",
        "4",
        "--fast-dev-run",
        "--quiet",
    )
    assert ended.code == 0, ended.err
    summary = json.loads((ended.folder / "runs" / "run" / "summary.json").read_text())
    assert (summary["epochs"], summary["iterations"], summary["val"]["n"]) == (1, 3, 12)
    assert (
        "test" not in summary and not (ended.folder / "runs" / "run" / "test_access.jsonl").exists()
    )


def test_evaluate_needs_nothing_but_the_checkpoint(cli, best):
    ended = cli("evaluate", best)
    assert ended.code == 0, ended.err
    assert "on val of demo:700: 70 faces" in ended.out and "accuracy" in ended.out
    assert all(name in ended.out for name in DEMO_CLASSES)


def test_faces_under_val_alone_and_in_a_manifest_of_val_are_all_scored(cli, best, tmp_path):
    """As docs/intended-use.md says of a group's faces; of a plain folder of classes a tenth is."""
    pixels, labels = draw_faces(28, seed=9)
    rows = [("path", "label", "split")]
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        for top in ("plain", "group/val"):
            folder = tmp_path / top / DEMO_CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.squeeze()).save(folder / f"{number}.png")
        rows.append((f"plain/{DEMO_CLASSES[label]}/{number}.png", DEMO_CLASSES[label], "val"))
    (tmp_path / "group.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    for name, count in {"plain": 3, "group": 28, "group.csv": 28}.items():
        ended = cli(
            "evaluate",
            best,
            "--data",
            tmp_path / name,
            "--split",
            "val",
            "--tta",
            "none",
            "--quiet",
            "--json",
            "-",
        )
        assert json.loads(ended.out)["n"] == count, name


def test_the_json_of_evaluate_has_the_names_that_scripts_rely_on(cli, best):
    ended = cli(
        "evaluate", best, "--json", "out.json", "--plot", "m.png", "--quiet", "--tta", "none"
    )
    assert ended.code == 0 and ended.out == "", ended.err
    found = json.loads((ended.folder / "out.json").read_text())
    assert {
        "n",
        "loss",
        "accuracy",
        "uar",
        "macro_f1",
        "per_class",
        "class_names",
        "confusion_matrix",
    } <= set(found)
    matrix = np.array(found["confusion_matrix"])
    assert matrix.shape == (7, 7) and matrix.sum() == found["n"] == 70
    assert found["accuracy"] == pytest.approx(matrix.trace() / 70)
    assert found["class_names"] == list(DEMO_CLASSES) == list(found["per_class"])
    for k, name in enumerate(DEMO_CLASSES):
        row = found["per_class"][name]
        assert set(row) == set(CELLS) and row["support"] == matrix[k].sum() == 10
        assert row["recall"] == pytest.approx(matrix[k, k] / 10)
    assert (ended.folder / "m.png").read_bytes()[:4] == b"\x89PNG"
    assert (
        json.loads(cli("evaluate", best, "--json", "-", "--tta", "none").out)["confusion_matrix"]
        == found["confusion_matrix"]
    )


def test_every_look_at_the_test_split_is_counted(cli, finished_run, tmp_path):
    run = tmp_path / "copy"
    shutil.copytree(finished_run, run)
    looks = len((run / "test_access.jsonl").read_text().splitlines())
    ended = cli("evaluate", run / "checkpoints" / "best.pt", "--split", "test")
    assert ended.code == 0 and f"scored {looks + 1} time(s)" in ended.out
    line = json.loads((run / "test_access.jsonl").read_text().splitlines()[-1])
    assert line["by"] == "evaluate" and line["split"] == "test" and line["n"] == 70
    cli("evaluate", run / "checkpoints" / "best.pt")
    assert len((run / "test_access.jsonl").read_text().splitlines()) == looks + 1


def test_a_result_that_can_t_be_written_is_refused_before_the_work(cli, best):
    predict, dataset_cache = ["predict", best, best, "--out"], ["pack", "demo:7", "--preview"]
    for arguments in (
        ["evaluate", best, "--json"],
        ["evaluate", best, "--plot"],
        predict,
        dataset_cache,
    ):
        for target in ("absent/out", "."):
            ended = cli(*arguments, target)
            assert (
                ended.code == 2 and arguments[-1] in ended.err and len(ended.err.splitlines()) == 1
            )


def test_pictures_of_runs_in_a_folder_are_no_faces(cli, best, faces, tmp_path):
    annotated_output = tmp_path / "album"
    (annotated_output / "runs" / "one" / "checkpoints").mkdir(parents=True)
    (annotated_output / "runs" / "one" / "config.yaml").touch()
    for place in (annotated_output / "face.png", annotated_output / "runs" / "one" / "curves.png"):
        shutil.copy(faces / "happy.png", place)
    ended = cli("predict", best, annotated_output)
    assert ended.code == 0 and "face.png" in ended.out and "curves.png" not in ended.out


def test_predict_names_the_expressions_as_a_table(cli, best, faces):
    ended = cli("predict", best, faces, "--topk", "2")
    lines = ended.out.splitlines()
    assert ended.code == 0 and len(lines) == 7
    assert all(line.count("%") == 2 for line in lines)
    assert lines[0].startswith(str(faces / "angry.png"))


def test_a_run_s_folder_means_its_best_checkpoint(cli, finished_run, best, faces):
    ended = cli("predict", finished_run, faces)
    assert ended.code == 0 and ended.err == "" and ended.out == cli("predict", best, faces).out
    alone = cli("predict", finished_run)
    assert alone.code == 2 and "alone is nothing to look at" in alone.err


def test_a_run_without_a_checkpoint_is_reported(cli, faces, tmp_path):
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    (tmp_path / "begun" / "config.yaml").touch()
    ended = cli("predict", tmp_path / "begun", faces)
    assert (
        ended.code == 2
        and "holds a run without a checkpoint" in ended.err
        and len(ended.err.splitlines()) == 1
    )


def test_a_checkpoint_whose_path_looks_like_a_glob_is_a_checkpoint(cli, best, faces, tmp_path):
    for name in ("lr[3].pt", "lr[3].weights"):
        copied = shutil.copy(best, tmp_path / name)
        ended = cli("predict", copied, faces)
        assert ended.code == 0 and ended.err == "" and ended.out == cli("predict", best, faces).out


@pytest.mark.parametrize("first", ["a checkpoint", "none"])
@pytest.mark.parametrize("what", ["run", "checkpoint", "absent.ONNX"])
def test_a_network_among_the_sources_is_refused(cli, finished_run, best, faces, first, what):
    word = {"run": finished_run, "checkpoint": best}.get(what, what)
    ended = cli("predict", *([best] if first != "none" else []), faces / "sad.png", word)
    assert (
        ended.code == 2
        and "goes first" in ended.err
        and len(ended.err.splitlines()) == 1
        and ended.out == ""
    )
    assert str(word) in ended.err


def test_predict_gives_json_lines_with_probabilities_that_add_up(cli, best, faces):
    ended = cli("predict", best, faces, "--format", "jsonl", "--topk", "7")
    found = [json.loads(line) for line in ended.out.splitlines()]
    assert [os.path.basename(entry["file"]) for entry in found] == sorted(
        f"{name}.png" for name in DEMO_CLASSES
    )
    for entry in found:
        assert sum(entry["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert entry["label"] == max(entry["probabilities"], key=entry["probabilities"].get)


def test_predict_gives_csv_for_files_folders_and_globs(cli, best, faces):
    ended = cli(
        "predict", best, faces / "sad.png", faces / "*y.png", "--format", "csv", "--batch-size", "2"
    )
    rows = list(csv.reader(io.StringIO(ended.out)))
    labels = ["label_1", "p_1", "label_2", "p_2", "label_3", "p_3"]
    assert rows[0] == ["file", *labels, "error", "face", "left", "top", "width", "height"]
    assert [os.path.basename(row[0]) for row in rows[1:]] == [
        "sad.png",
        "angry.png",
        "happy.png",
    ] or len(rows) == 3
    assert all(
        row[1] in DEMO_CLASSES and 0 < float(row[2]) <= 1 and row[7] == "" for row in rows[1:]
    )


@pytest.mark.parametrize("form", ["table", "csv", "jsonl"])
def test_a_file_that_can_t_be_read_is_named_and_does_not_stop_the_rest(
    cli, best, faces, tmp_path, form
):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    ended = cli("predict", best, broken, faces / "sad.png", "--format", form)
    assert ended.code == 0
    assert "broken.png" in ended.out + ended.err and "sad.png" in ended.out
    alone = cli("predict", best, broken, "--format", form)
    assert alone.code == 2 and "Traceback" not in alone.err


def test_predict_writes_to_a_file(cli, best, faces):
    ended = cli("predict", best, faces, "--out", "p.csv", "--format", "csv")
    assert ended.out == "" and len((ended.folder / "p.csv").read_text().splitlines()) == 8


ODD = [
    b"with space",
    b"new\nline",
    b"tab\there",
    "caf\u00e9".encode(),
    "cafe\u0301".encode(),
    "\U0001f600".encode(),
    "\u202ertl".encode(),
    b"x" * 251,
    b"-leading",
    b"100%s%d",
    b"bytes\xff\xfe",
    b"=formula",
]


@pytest.mark.parametrize("form", ["table", "csv", "jsonl"])
def test_odd_file_names_go_through_every_format_on_one_row_each(cli, best, faces, tmp_path, form):
    """Row E9."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in ODD:
        shutil.copy(faces / "sad.png", os.path.join(os.fsencode(folder), name + b".png"))
    ended = cli("predict", best, folder, "--format", form, "--out", "p.txt")
    assert ended.code == 0, ended.err
    text = (ended.folder / "p.txt").read_bytes().decode("utf-8")
    assert len(text.splitlines()) == len(ODD) + (form == "csv")
    if form == "jsonl":
        names = {
            os.fsencode(os.path.basename(json.loads(line)["file"])) for line in text.splitlines()
        }
        assert names == {name + b".png" for name in ODD}
    if form == "csv":
        rows = list(csv.reader(io.StringIO(text)))
        assert all(
            len(row) == 13 and not row[0].startswith(("=", "+", "-", "@")) for row in rows[1:]
        )
    shown = cli("predict", best, folder, "--format", form)
    assert shown.code == 0 and len(shown.out.splitlines()) == len(ODD) + (form == "csv")


def test_a_file_s_name_is_shown_as_errors_show_it(cli, best, faces, tmp_path):
    """What can be printed stays, the rest is escaped: in a row and in the complaint about the same file."""
    odd = tmp_path / "caf\u00e9\\\n.png"
    odd.write_bytes(b"no picture")
    ended = cli("predict", best, odd)
    assert (
        ended.out == f"{printable(odd)}  -\n"
        and printable(odd) in ended.err
        and "caf\u00e9" in ended.out
    )


def test_pack_reads_once_and_says_where_and_what(cli):
    ended = cli("pack", "demo:70")
    assert ended.code == 0, ended.err
    path = ended.out.splitlines()[-1]
    assert os.path.isdir(path) and "70" in ended.out
    facts = json.loads(cli("pack", "demo:70", "--json", "--quiet").out)
    assert facts["path"] == path and facts["count"] == 70 and facts["classes"] == list(DEMO_CLASSES)


def test_a_dataset_cache_s_path_is_data_too(cli, tiny_flags):
    path = cli("pack", "demo:140").out.splitlines()[-1]
    ended = cli("train", "--data", path, *tiny_flags[2:], "--quiet")
    assert ended.code == 0, ended.err


def test_a_preview_shows_augmented_faces(cli):
    ended = cli("pack", "demo:140", "--preview", "sheet.png", "--quiet")
    assert ended.code == 0 and "64 augmented faces" in ended.out
    with Image.open(ended.folder / "sheet.png") as sheet:
        assert sheet.size[0] >= 8 * 48 and np.asarray(sheet.convert("L")).std() > 10


def test_info_tells_versions_and_devices(cli):
    values = json.loads(cli("info", "--json").out)
    assert set(values) == {"versions", "machine", "recipes"} and "quick" in values["recipes"]
    assert values["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    full = json.loads(cli("info", "--full", "--json").out)
    assert {*values, "gpus", "networks"} <= set(full) and "fer48" in full["networks"]
    assert "\n  quick\n" in cli("info").out  # one name a line


def test_info_prints_what_a_checkpoint_a_run_and_a_dataset_cache_hold(cli, finished_run, best):
    checkpoint = json.loads(cli("info", best, "--json").out)
    assert checkpoint["network"] == "fer48" and checkpoint["classes"] == list(DEMO_CLASSES)
    count = parameter_count(load_model(best).model)
    assert checkpoint["parameters"] == count
    # A buffer of floats, such as swin_v2_t has, is no parameter.
    content = load_checkpoint(best)
    table = {**content["model"], "coordinates_table": torch.zeros(9)}
    assert _parameters(best, {**content, "model": table}) == count
    run = json.loads(cli("info", finished_run, "--json").out)
    assert (
        run["epochs written"] == 8
        and "best.pt" in run["checkpoints"]
        and run["summary"]["status"] == "completed"
    )
    path = cli("pack", "demo:70", "--quiet").out.splitlines()[-1]
    assert json.loads(cli("info", path, "--json").out)["count"] == 70
    for place in (best, finished_run, path):
        assert cli("info", place).code == 0


def test_pack_verifies_a_dataset_cache_in_full(cli):
    assert "has its checksum" in cli("pack", "demo:140", "--verify").out


def test_predict_also_writes_every_probability_on_request(cli, best, faces):
    ended = cli("predict", best, faces / "sad.png", "--topk", "1", "--predictions", "all.csv")
    (row,) = csv.DictReader(io.StringIO((ended.folder / "all.csv").read_text(encoding="utf-8")))
    assert ended.code == 0 and ended.out.count("%") == 1
    shares = {name: float(row[f"p_{name}"]) for name in DEMO_CLASSES}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-4)
    assert row["predicted"] == max(shares, key=shares.__getitem__) and row["face"] == "0"


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (["predict", "BEST", "FACE", "--predictions", "old"], "old"),
        (["predict", "BEST", "FACE", "--out", "/dev/full"], "/dev/full"),
        (["train", "--data", "demo:700", "--plot-lr", "old.png"], "old.png"),
        (["average", "BEST", "BEST", "--out", "old.pt", "--exist-ok"], "old.pt"),
        (["export", "BEST", "--format", "safetensors", "--out", "a.safetensors"], "a.safetensors"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_a_full_disk_is_one_line_that_names_no_flag_of_another_command(
    cli, best, faces, tmp_path, monkeypatch, arguments, file
):
    old = tmp_path / "work" / ("none" if file[0] in "/a" else file)
    old.write_text("kept")
    places = {"BEST": best, "FACE": faces / "sad.png"}
    words = [places.get(word, word) for word in arguments]

    def fail(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    ended = cli(*words)
    assert ended.code == 4 and old.read_text() == "kept" and len(ended.err.splitlines()) == 1
    assert f"{file} can't be written: No space left on device" in ended.err
    assert "--resume" not in ended.err and "#storage" in ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "BEST", "FACE", "--predictions", "LINK"],
        ["train", "--data", "demo:140", "--plot-lr", "LINK"],
        ["evaluate", "BEST", "--quiet", "--json", "LINK"],
        *(
            pytest.param(["evaluate", "BEST", "--quiet", flag, "LINK"], marks=pytest.mark.slow)
            for flag in ("--predictions", "--plot")
        ),
    ],
    ids=" ".join,
)
def test_a_named_output_follows_links_to_files_and_to_descriptors(
    cli, best, faces, tmp_path, arguments
):
    for name, target in (("a", "real"), ("b", "descriptor"), ("c", "nowhere/x")):
        (tmp_path / name).symlink_to(target)
    with (tmp_path / "log").open("wb") as log:
        (tmp_path / "descriptor").symlink_to(f"/dev/fd/{log.fileno()}")
        for name, code in (("a", 0), ("b", 0), ("c", 2)):
            places = {"BEST": best, "FACE": faces / "sad.png", "LINK": tmp_path / name}
            ended = cli(*[places.get(word, word) for word in arguments])
            assert ended.code == code and (tmp_path / name).is_symlink(), ended.err
    assert f"there is no folder {tmp_path / 'nowhere'}" in ended.err
    assert (tmp_path / "descriptor").is_symlink()
    assert (tmp_path / "real").read_bytes()[:4] == (tmp_path / "log").read_bytes()[:4] != b""


def test_a_full_disk_below_standard_output_is_one_line():
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "fer_ignite", "completion", "bash"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(fer_ignite.__file__).parents[1])},
        )
    assert ended.returncode == 4 and len(ended.stderr.splitlines()) == 1, ended.stderr
    assert "standard output or a temporary file can't be written: No space left" in ended.stderr
