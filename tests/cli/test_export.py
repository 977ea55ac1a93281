"""export at work, and predict with what it wrote, without torch."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import fer_ignite
from fer_ignite.data.drawn_faces import DEMO_CLASSES, draw_faces

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def best(finished_run):
    return finished_run / "checkpoints" / "best.pt"


@pytest.fixture(scope="module")
def model(best, tmp_path_factory):
    from fer_ignite.apps.export.exporter import export_checkpoint

    target = tmp_path_factory.mktemp("model") / "m.onnx"
    return Path(export_checkpoint(best, out=str(target), quiet=True)["file"])


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    pixels, labels = draw_faces(7, seed=5, size=60)
    for image, label in zip(pixels, labels, strict=True):
        Image.fromarray(image.squeeze()).save(folder / f"{DEMO_CLASSES[label]}.png")
    return folder


def test_export_says_what_it_wrote_and_how_it_differs(cli, best):
    ended = cli("export", best, "--format", "safetensors", "--out", "m.safetensors")
    assert ended.code == 0, ended.err
    for said in (
        "m.safetensors: safetensors, fp32 weights",
        "m.safetensors.md",
        "70 validation faces of demo:700",
        "largest difference of a probability",
        "equal decisions 100.00 %",
        "difference +0.00 points",
    ):
        assert said in ended.out
    assert sorted(path.name for path in ended.folder.iterdir()) == [
        "m.safetensors",
        "m.safetensors.md",
    ]
    again = cli("export", best, "--format", "safetensors", "--out", "m.safetensors")
    assert again.code == 2 and "--exist-ok" in again.err and len(again.err.splitlines()) == 1


def test_the_json_of_export_has_the_names_that_scripts_rely_on(cli, best):
    found = json.loads(
        cli("export", best, "--format", "state-dict", "--out", "m.pt", "--half", "--json").out
    )
    assert {
        "file",
        "files",
        "card",
        "format",
        "weights",
        "bytes",
        "sha256",
        "classes",
        "temperature",
        "tta",
        "check",
        "notes",
    } == set(found)
    assert {
        "n",
        "source",
        "drawn",
        "largest_difference",
        "mean_difference",
        "equal_decisions",
        "accuracy",
        "recall",
    } == set(found["check"])
    assert {"checkpoint", "export", "difference", "difference_interval"} == set(
        found["check"]["accuracy"]
    )


@pytest.mark.parametrize("form", ["table", "csv", "jsonl"])
def test_predict_says_the_same_with_the_file_as_with_the_checkpoint(cli, best, model, faces, form):
    broken = faces / "broken.png"
    broken.write_bytes(b"no picture")
    both = [cli("predict", path, faces, "--format", form, "--topk", "2") for path in (best, model)]
    broken.unlink()
    assert [ended.code for ended in both] == [0, 0], both[1].err
    assert both[0].err == both[1].err
    if form == "jsonl":
        ours, theirs = ([json.loads(line) for line in ended.out.splitlines()] for ended in both)
        for one, other in zip(ours, theirs, strict=True):
            assert one.get("label") == other.get("label") and one.get("error") == other.get("error")
            assert one.get("probabilities", {}) == pytest.approx(
                other.get("probabilities", {}), abs=1e-2
            )
    else:
        names = [[row.split(" ")[0] for row in csv_or_text(ended.out)] for ended in both]
        assert names[0] == names[1] and len(names[0]) == 8 + (form == "csv")


def csv_or_text(text):
    return [row[0] + row[1] if len(row) > 1 else row[0] for row in csv.reader(io.StringIO(text))]


_BLOCKED = """
import sys
blocked = ("torch", "torchvision", "ignite", "pydantic", "yaml", "matplotlib", "tensorboardX", "onnx", "tqdm")
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)
sys.meta_path.insert(0, Blocker())
from fer_ignite.cli.main import main
try:
    main(sys.argv[1:])
finally:
    assert not {name.split(".")[0] for name in sys.modules} & set(blocked)
"""


@pytest.mark.parametrize("form", ["table", "csv", "jsonl"])
def test_predict_with_an_onnx_file_writes_to_a_file_without_torch_and_without_the_configuration(
    model, faces, tmp_path, form
):
    out = tmp_path / "x.csv"
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            _BLOCKED,
            "predict",
            os.fspath(model),
            os.fspath(faces),
            "--format",
            form,
            "--out",
            os.fspath(out),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(fer_ignite.__file__).parents[1])},
    )
    assert ended.returncode == 0 and ended.stderr == "", ended.stderr
    assert len(out.read_text().splitlines()) == 7 + (form == "csv")


def test_a_run_s_folder_without_what_a_checkpoint_needs_is_reported_in_one_line(
    finished_run, faces, tmp_path
):
    ended = subprocess.run(
        [sys.executable, "-c", _BLOCKED, "predict", os.fspath(finished_run), os.fspath(faces)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(fer_ignite.__file__).parents[1])},
    )
    assert (
        ended.returncode == 2
        and "which is not installed" in ended.stderr
        and len(ended.stderr.splitlines()) == 1
    ), ended.stderr


def test_predict_with_an_onnx_file_needs_no_torch(model, faces, tmp_path):
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            _BLOCKED,
            "predict",
            os.fspath(model),
            os.fspath(faces),
            "--format",
            "jsonl",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(fer_ignite.__file__).parents[1])},
    )
    assert ended.returncode == 0, ended.stderr
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(found) == 7 and all(entry["label"] in DEMO_CLASSES for entry in found)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--tta", "flip"), "--tta: network and views are fixed inside"),
        (("--model", "a:B"), "--model: network and views"),
        (("--device", "mps"), "cpu or cuda"),
    ],
    ids=str,
)
def test_what_is_fixed_inside_the_file_is_refused_as_a_flag(cli, model, faces, arguments, said):
    ended = cli("predict", model, faces, *arguments)
    assert ended.code == 2 and said in ended.err and len(ended.err.splitlines()) == 1


def test_a_file_that_is_no_export_of_ours_is_refused_in_one_line(cli, model, faces):
    import onnx

    folder = cli("info").folder
    foreign = onnx.load(model)
    del foreign.metadata_props[:]
    onnx.save(foreign, folder / "foreign.onnx")
    renamed = onnx.load(model)
    renamed.graph.input[0].name = renamed.graph.node[0].input[0] = "images"
    onnx.save(renamed, folder / "renamed.onnx")
    (folder / "broken.onnx").write_bytes(b"\0" * 100)
    for name, said in {
        "foreign": "no record",
        "renamed": "takes",
        "broken": "onnxruntime",
        "absent": "no file",
    }.items():
        ended = cli("predict", f"{name}.onnx", faces)
        assert ended.code == 2 and said in ended.err and len(ended.err.splitlines()) == 1, ended.err


def test_export_refuses_nonsense_in_one_line(cli, best):
    for arguments in (
        ["absent.pt"],
        [best, "--format", "tflite"],
        [best, "--int8", "--half"],
        [best, "--limit", "0"],
        [],
    ):
        ended = cli("export", *arguments)
        assert ended.code == 2 and len(ended.err.strip().splitlines()) == 1
        assert list(ended.folder.iterdir()) == []


def test_the_help_of_export_says_what_the_check_holds_a_file_to(cli):
    from fer_ignite.apps.export.compare import TOLERANCE

    said = " ".join(cli("export", "--help").out.split())
    assert f"In fp32 it is kept only if no probability differs by more than {TOLERANCE:g}." in said
    assert "With --half or --int8 it is kept whatever the difference" in said


def test_the_help_of_export_needs_no_torch():
    code = (
        "import sys\nfrom fer_ignite.cli.main import main\n"
        "try: main(['export', '--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(fer_ignite.__file__).parents[1],
    )
    assert ended.stdout.strip().splitlines()[-1] == "False"
