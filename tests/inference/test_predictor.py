"""The Python functions refuse what they can't use, in a sentence, before anything is read."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fer_ignite import build_session, compare, evaluate, load_model, predict, train
from fer_ignite.apps.report.page import write_report
from fer_ignite.config import Config
from fer_ignite.data.drawn_faces import draw_faces
from fer_ignite.data.images import require_faces
from fer_ignite.data.pictures import iter_pictures, read_picture
from fer_ignite.errors import CheckpointError, ConfigError, DataError, FerError
from fer_ignite.inference import onnx
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
    with pytest.raises(ConfigError, match=r"pictures came as .*; give a path, a PIL image"):
        predict(shipped_checkpoint(), files)


def test_one_picture_is_the_same_in_every_form(tmp_path):
    """A file, a PIL image, arrays and tensors, gray and RGB."""
    gray_HW = draw_faces(4, seed=3)[0][2, :, :, 0]
    Image.fromarray(gray_HW).save(tmp_path / "x.png")
    rgb_HW3 = np.repeat(gray_HW[:, :, None], 3, axis=2)
    tensor_HW = torch.from_numpy(gray_HW)
    network = load_model()
    forms = [
        tmp_path / "x.png",
        str(tmp_path / "x.png"),
        Image.fromarray(gray_HW),
        Image.fromarray(rgb_HW3),
        gray_HW,
        gray_HW[:, :, None],
        rgb_HW3,
        tensor_HW,
        tensor_HW[None],
        tensor_HW.expand(3, 48, 48),
    ]
    answers = network.predict(forms)
    assert len(answers) == len(forms)
    for answer, form in zip(answers, forms, strict=True):
        assert answer.probabilities == pytest.approx(answers[0].probabilities, abs=1e-6)
        assert network.predict(form)[0].probabilities == pytest.approx(
            answer.probabilities, abs=1e-6
        )
    first = answers[0]
    assert set(first.probabilities) == set(network.classes)
    assert first.probability == max(first.probabilities.values()) and first.box is None
    assert first.label in repr(first) and "%" in repr(first) and "x.png" in repr(first)
    assert sum(first.probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_columns_of_paths_are_several_pictures(tmp_path):
    pixels = draw_faces(2, seed=3)[0]
    paths = [str(tmp_path / f"{number}.png") for number in range(2)]
    for path, face in zip(paths, pixels, strict=True):
        Image.fromarray(face[..., 0]).save(path)
    for column in (np.array(paths), np.array(paths, dtype=object)):
        assert [name for name, _ in iter_pictures(column)] == paths
        assert [read_picture(*pair).size for pair in iter_pictures(column)] == [(48, 48)] * 2


def test_four_dimensions_are_several_pictures():
    faces_NHW1 = draw_faces(5, seed=3)[0]
    network = load_model()
    one_by_one = [network.predict(face)[0].label for face in faces_NHW1]
    assert [answer.label for answer in network.predict(faces_NHW1)] == one_by_one
    tensor = torch.from_numpy(faces_NHW1).permute(0, 3, 1, 2)
    assert [answer.label for answer in network.predict(tensor)] == one_by_one


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (
            np.zeros((48, 48), np.float32),
            r"picture came as float32 \[48, 48\]; give uint8 values 0 to 255 .*multiply by 255",
        ),
        (torch.zeros(1, 48, 48), r"came as float32 \[1, 48, 48\]"),
        (np.zeros((3, 48, 48), np.uint8), r"shape \[3, 48, 48\].*transpose\(1, 2, 0\)"),
        (
            np.zeros((48, 48, 4), np.uint8),
            r"shape \[48, 48, 4\]; give \[H, W\] or \[H, W, C\] with C 1 or 3",
        ),
        (
            torch.zeros(48, 48, 3, dtype=torch.uint8),
            r"shape \[48, 48, 3\]; give \[H, W\] or \[C, H, W\]",
        ),
        (np.zeros((0, 48), np.uint8), r"shape \[0, 48\]"),
        (np.zeros(48, np.uint8), r"shape \[48\]"),
        (np.zeros((48, 48), np.int64), r"came as int64"),
        ([np.zeros((48, 48), np.uint8), 7], r"picture 1 came as int; give a path"),
        (io.BytesIO(b"..."), "pictures came as BytesIO; give a path"),
        ([io.BytesIO(b"...")], "picture 0 came as BytesIO; give a path"),
    ],
)
def test_what_is_no_picture_gets_a_sentence(picture, words):
    with pytest.raises(FerError, match=words):
        load_model().predict(picture)


def test_an_opened_image_of_a_broken_file_gets_a_sentence():
    file = io.BytesIO()
    Image.effect_noise((48, 48), 50).save(file, "PNG")
    half = Image.open(io.BytesIO(file.getvalue()[:1000]))
    with pytest.raises(DataError, match=r"picture 1: can't be read \("):
        load_model().predict([np.zeros((48, 48), np.uint8), half])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "half"}, "precision='half' is unknown; allowed are auto, fp32, fp16, bf16"),
        ({"device": "gpu"}, "device='gpu' is unknown; allowed are auto, cpu, cuda, mps"),
        ({"device": None}, "device=None is unknown"),
        ({"device": "cuda:99"}, "CUDA device"),
    ],
)
def test_precision_and_device_are_checked(options, words):
    with pytest.raises(ConfigError, match=words):
        load_model(**options)
    if "device" in options:
        with pytest.raises(ConfigError, match=words.replace("None", "'None'")):
            evaluate(shipped_checkpoint(), data="demo:140", **options)


def test_probabilities_are_computed_from_logits_on_the_cpu(monkeypatch):
    # float64, in which they are computed, does not exist on Apple's GPUs
    network = load_model(device="cpu")

    class OnDevice(torch.Tensor):
        def double(self):
            raise TypeError("no float64")

        def cpu(self):
            return self.as_subclass(torch.Tensor)

    monkeypatch.setattr(
        "fer_ignite.inference.loaded_model.tta_logits",
        lambda *_, **__: torch.randn(2, 7).as_subclass(OnDevice),
    )
    assert network.probabilities(torch.zeros(2, 48, 48, 1, dtype=torch.uint8)).shape == (2, 7)


@pytest.mark.parametrize(
    "options",
    [{"topk": 0}, {"batch_size": 0}, {"batch_size": -1}, {"topk": "3"}, {"tta": "twelve"}],
)
def test_numbers_and_views_of_predict_are_checked_at_the_call(face, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        predict(shipped_checkpoint(), face, **options)


@pytest.mark.parametrize("checkpoint", [3, {}])
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


def test_views_are_not_given_to_an_open_predictor(face):
    opened = SimpleNamespace(
        classes=("sad",), channels=1, side_px=48, resize_mode="squash", probabilities=len
    )
    with pytest.raises(ConfigError, match="tta='flip': an open predictor has views of its own"):
        predict(opened, face, tta="flip")


def test_a_session_that_fell_back_to_the_cpu_is_refused_where_cuda_was_named(monkeypatch):
    pytest.importorskip("onnxruntime")
    session = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(onnx, "_providers", lambda runtime, device: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnx, "_opened", lambda runtime, path, providers: session)
    with pytest.raises(ConfigError, match="onnxruntime can't load its CUDA part"):
        onnx.OnnxModel("m.onnx", device="cuda")


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
