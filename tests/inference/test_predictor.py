"""The Python functions refuse what they can't use, in a sentence, before anything is read."""

import numpy as np
import pytest
import torch
from PIL import Image

from fer_ignite import build_session, compare, evaluate, load_model, predict, train
from fer_ignite.apps.report.page import write_report
from fer_ignite.config import Config
from fer_ignite.data.images import require_faces
from fer_ignite.errors import CheckpointError, ConfigError, DataError
from fer_ignite.inference.predictor import open_predictor
from fer_ignite.weights import shipped_checkpoint


@pytest.fixture
def face(tmp_path):
    Image.new("L", (48, 48), 90).save(tmp_path / "face.png")
    return tmp_path / "face.png"


def test_a_str_or_a_path_is_one_file(face):
    for files in (str(face), face, [face], (str(face),), iter([face])):
        (answer,) = predict(shipped_checkpoint(), files)
        assert answer.file == str(face) and answer.error is None


@pytest.mark.parametrize("files", [5, None, b"face.png", 1.5])
def test_what_names_no_files_is_refused_at_the_call(files):
    with pytest.raises(ConfigError, match="files takes a path or several"):
        predict(shipped_checkpoint(), files)


def test_pixels_in_place_of_paths_are_refused():
    with pytest.raises(ConfigError, match="files holds ndarray"):
        list(predict(shipped_checkpoint(), np.zeros((2, 48, 48), np.uint8)))


@pytest.mark.parametrize(
    "options",
    [{"topk": 0}, {"batch_size": 0}, {"batch_size": -1}, {"topk": "3"}, {"tta": "twelve"}],
)
def test_numbers_and_views_of_predict_are_checked_at_the_call(face, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        predict(shipped_checkpoint(), face, **options)


@pytest.mark.parametrize("checkpoint", [3, None, ["a.pt"], {}])
def test_one_checkpoint_is_one_path(face, checkpoint):
    for call in (
        lambda: predict(checkpoint, face),
        lambda: evaluate(checkpoint),
        lambda: load_model(checkpoint),
        lambda: compare(checkpoint, checkpoint),
    ):
        with pytest.raises(ConfigError, match="path"):
            call()


@pytest.mark.parametrize(
    ("faces", "said"),
    [
        (
            torch.rand(2, 1, 48, 48),
            r"float32 \[2, 1, 48, 48\].*uint8 tensor \[images, height, width, 1\]",
        ),
        (torch.rand(2, 48, 48, 1), "float32"),
        (torch.zeros(2, 48, 48, 1, dtype=torch.int64), "int64"),
        (torch.zeros(2, 1, 48, 48, dtype=torch.uint8), r"shape \[2, 1, 48, 48\]"),
        (torch.zeros(2, 48, 48, 3, dtype=torch.uint8), r"shape \[2, 48, 48, 3\].*gray"),
        (torch.zeros(48, 48, 1, dtype=torch.uint8), r"shape \[48, 48, 1\]"),
        (torch.zeros(0, 48, 48, 1, dtype=torch.uint8), r"shape \[0, 48, 48, 1\]"),
        (np.zeros((2, 48, 48, 1), np.uint8), "ndarray"),
        ([[0]], "list"),
    ],
)
def test_probabilities_say_which_pixels_they_take(faces, said):
    with pytest.raises(DataError, match=said):
        load_model(shipped_checkpoint()).probabilities(faces)


def test_a_recogniser_takes_arrays_of_its_channels():
    predictor = open_predictor(shipped_checkpoint())
    assert predictor.probabilities(np.zeros((2, 60, 50, 1), np.uint8)).shape == (2, 7)
    for faces in (
        np.zeros((2, 48, 48, 1), np.float32),
        np.zeros((2, 48, 48, 3), np.uint8),
        torch.zeros(2, 48, 48, 1, dtype=torch.uint8),
    ):
        with pytest.raises(DataError, match="uint8 numpy array"):
            predictor.probabilities(faces)
    with pytest.raises(DataError, match="RGB"):
        require_faces(np.zeros((2, 48, 48, 1), np.uint8), channels=3, kind="numpy array")


@pytest.mark.parametrize(
    "options",
    [{"split": "tset"}, {"tta": "twelve"}, {"batch_size": 0}, {"nproc": 0}, {"precision": "fp8"}],
)
def test_evaluate_checks_its_options_before_the_checkpoint(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        evaluate("nowhere.pt", **options)


def test_train_and_build_session_take_a_config_and_functions():
    for start in (train, build_session):
        with pytest.raises(ConfigError, match=r"takes a Config, not dict"):
            start({"epochs": 1})
        for handlers in (print, "a:b", ["a:b"], [None]):
            with pytest.raises(ConfigError, match="handlers takes"):
                start(Config(data="demo:140"), handlers=handlers)


def test_a_report_of_one_str_is_about_one_run():
    pytest.importorskip("jinja2")
    with pytest.raises(CheckpointError, match="nowhere is neither a checkpoint nor a run's folder"):
        write_report("nowhere")
