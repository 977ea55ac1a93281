"""Exports of a tiny network, opened as their users would open them."""

# Dimensions: B images of a batch, H W pixels, C channels, K expressions.

import hashlib
import importlib.util
import json
import os
import resource
import shutil
import signal
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fer_ignite import imports, load_model
from fer_ignite.apps.export import exporter
from fer_ignite.apps.export.compare import compare_outputs, refuse_disagreement
from fer_ignite.apps.export.exporter import FORMATS, build_metadata, export_checkpoint
from fer_ignite.apps.export.half_precision import halve_module, halve_state, widen_state
from fer_ignite.apps.export.inference_module import InferenceModule
from fer_ignite.apps.export.litert_format import FixedSideModule
from fer_ignite.apps.export.model_card import _snippet, _training
from fer_ignite.apps.export.reference_images import Reference, reference_faces
from fer_ignite.checkpoint.format import load_checkpoint, write_checkpoint
from fer_ignite.config import check
from fer_ignite.data.drawn_faces import DEMO_CLASSES, draw_faces
from fer_ignite.errors import CheckpointError, ConfigError, DataError, FerError, StorageError
from fer_ignite.inference.metadata import ExportMetadata
from fer_ignite.inference.onnx import OnnxModel
from fer_ignite.inference.request import EvaluateRequest
from fer_ignite.models.registry import build_model

onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def best(finished_run):
    return finished_run / "checkpoints" / "best.pt"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def exported(best, out):
    """(form, **options) -> the report of an export, made once."""
    made = {}

    def make(form, **options):
        key = (form, *sorted(options.items()))
        if key not in made:
            name = "-".join(
                map(str, (form, *(option for pair in options.items() for option in pair)))
            )
            made[key] = export_checkpoint(
                best, form=form, out=str(out / f"{name}{FORMATS[form]}"), quiet=True, **options
            )
        return made[key]

    return make


@pytest.fixture(scope="module")
def network(best):
    return load_model(best, device="cpu", precision="fp32")


def faces(count, side, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 1), dtype=np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_answers_as_the_checkpoint_on_its_validation_faces(exported, form):
    if form == "litert":
        pytest.importorskip("litert_torch")
    report = exported(form)
    check = report["check"]
    assert check["n"] == 70 and check["source"] == "demo:700" and not check["drawn"]
    assert check["largest_difference"] < 1e-5 and check["equal_decisions"] == 1
    assert (
        check["accuracy"]["difference"] == 0
        and check["accuracy"]["checkpoint"] == check["accuracy"]["export"]
    )
    assert sum(row["faces"] for row in check["recall"].values()) == 70 and list(
        check["recall"]
    ) == list(DEMO_CLASSES)
    files = [Path(report["file"])]
    files += [files[0].with_suffix(".bin")] if form == "openvino" else []
    assert report["bytes"] == sum(map(os.path.getsize, files)) and report["notes"] == []
    assert report["files"] == [
        {
            "file": str(file),
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in files
    ]
    assert report["sha256"] == report["files"][0]["sha256"]
    words = "2 files of" if form == "openvino" else "One file of"
    assert f"{words} {report['bytes'] / 1e6:.2f} MB" in Path(report["card"]).read_text()


@pytest.mark.slow
def test_an_openvino_file_takes_faces_of_the_stored_size_and_is_replaced_with_its_weights(
    exported, best, tmp_path
):
    openvino = pytest.importorskip("openvino")
    target = tmp_path / "m.xml"
    options = {"form": "openvino", "out": str(target), "quiet": True}
    export_checkpoint(best, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.bin", "m.xml", "m.xml.md"]
    model = openvino.Core().read_model(target)
    assert [str(size) for size in model.inputs[0].partial_shape] == ["?", "48", "48", "1"]
    assert json.loads(model.get_rt_info("fer_ignite").value)["classes"] == list(DEMO_CLASSES)
    target.unlink()
    with pytest.raises(ConfigError, match=r"m\.(bin|xml\.md).*--exist-ok"):
        export_checkpoint(best, **options)
    half = export_checkpoint(best, **options, half=True, exist_ok=True)
    assert (
        half["weights"] == "fp16" and half["bytes"] < 0.75 * exported("openvino")["bytes"] + 60_000
    )
    with pytest.raises(ConfigError, match=r"\.xml"):
        export_checkpoint(best, **{**options, "out": str(tmp_path / "m.onnx")})


@pytest.mark.slow
def test_a_litert_file_takes_one_face_of_the_stored_size_and_has_the_record_behind_it(
    best, tmp_path
):
    pytest.importorskip("litert_torch")
    from ai_edge_litert.interpreter import Interpreter

    target = tmp_path / "m.tflite"
    report = export_checkpoint(best, form="litert", out=str(target), tta="flip", quiet=True)
    assert report["check"]["largest_difference"] < 1e-5
    assert "LiteRT" in target.with_name("m.tflite.md").read_text()
    [taken] = Interpreter(str(target)).get_input_details()
    assert taken["shape"].tolist() == [1, 48, 48, 1] and taken["dtype"] is np.uint8
    with zipfile.ZipFile(target) as archive:
        assert json.loads(archive.read("fer_ignite.json"))["classes"] == list(DEMO_CLASSES)


@pytest.mark.skipif(
    importlib.util.find_spec("litert_torch") is not None, reason="litert-torch is installed"
)
def test_litert_without_its_library_is_one_sentence_with_the_extra(best, tmp_path):
    with pytest.raises(ConfigError, match=r"litert_torch.*\[litert\]"):
        export_checkpoint(best, form="litert", out=str(tmp_path / "m.tflite"), quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_litert_refuses_half_and_another_ending(best, tmp_path):
    for options, said in (
        ({"half": True, "out": str(tmp_path / "m.tflite")}, "--half"),
        ({"out": str(tmp_path / "m.onnx")}, r"\.tflite"),
    ):
        with pytest.raises(ConfigError, match=said):
            export_checkpoint(best, form="litert", quiet=True, **options)


@pytest.mark.parametrize("side_px", [48, 64, 40])
def test_two_matrix_products_resize_as_the_antialiased_resize_does(network, side_px):
    record = build_metadata(network)
    record = replace(record, preprocessing={**record.preprocessing, "stored_px": side_px})
    assert record.side_px == side_px
    faces_BHWC = torch.from_numpy(faces(5, side_px))
    with torch.inference_mode():
        expected = InferenceModule(network.model, record).prepare(faces_BHWC)
        found = FixedSideModule(network.model, record).prepare(faces_BHWC)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_accuracy_that_is_reported_is_the_evaluation_s(exported, best):
    from fer_ignite import evaluate

    assert (
        exported("onnx")["check"]["accuracy"]["checkpoint"]
        == evaluate(best, quiet=True, precision="fp32")["accuracy"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("form", ["safetensors", "state-dict", "onnx"])
def test_half_saves_two_bytes_a_weight_and_hardly_changes_an_answer(exported, network, form):
    plain, half = exported(form), exported(form, half=True)
    # The tiny network has few weights, and names and graph besides; what is saved is two bytes for each.
    weights = sum(
        tensor.numel() for tensor in network.model.state_dict().values() if tensor.ndim >= 2
    )
    assert plain["bytes"] - half["bytes"] == pytest.approx(2 * weights, rel=0.5)
    assert half["weights"] == "fp16" and half["check"]["largest_difference"] < 5e-3


def test_an_onnx_file_takes_any_number_of_faces_of_any_side(exported, network):
    session = onnxruntime.InferenceSession(
        exported("onnx")["file"], providers=["CPUExecutionProvider"]
    )
    [entry], [answer] = session.get_inputs(), session.get_outputs()
    assert (entry.name, entry.type, entry.shape) == (
        "faces",
        "tensor(uint8)",
        ["batch", "height", "width", 1],
    )
    assert (answer.name, answer.type, answer.shape) == (
        "probabilities",
        "tensor(float)",
        ["batch", 7],
    )
    for count, side in ((1, 48), (5, 96), (2, 20), (3, 33)):
        faces_BHWC = faces(count, side)
        [probabilities_BK] = session.run(None, {"faces": faces_BHWC})
        expected_BK = network.probabilities(
            torch.from_numpy(faces_BHWC), tta=network.config.tta
        ).numpy()
        assert (
            probabilities_BK.shape == (count, 7)
            and np.abs(probabilities_BK - expected_BK).max() < 1e-5
        )


def test_an_onnx_file_holds_what_its_users_must_know_and_nothing_of_this_machine(exported, network):
    content = Path(exported("onnx")["file"]).read_bytes()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    record = json.loads(session.get_modelmeta().custom_metadata_map["fer_ignite"])
    assert (
        record["classes"] == list(DEMO_CLASSES)
        and record["temperature"] == network.temperature != 1
    )
    assert (
        record["preprocessing"]["mean"] == list(network.preprocessing.mean)
        and record["tta"] == "shift10"
    )
    assert (
        b"site-packages" not in content
        and b"fer_ignite/" not in content
        and os.getcwd().encode() not in content
    )


def test_the_temperature_and_the_views_are_inside(best, network, out):
    """Softmax of logits over T, as the network's own: at the highest T all classes come out nearly equal."""
    hot = {**load_checkpoint(best), "temperature": 20.0}
    path = out / "hot.pt"
    with path.open("wb") as file:
        write_checkpoint(hot, file)
    hot_network, faces_BHWC = load_model(path, device="cpu"), torch.from_numpy(faces(2, 48))
    probabilities_BK = InferenceModule(network.model, build_metadata(hot_network, tta="none"))(
        faces_BHWC
    ).detach()
    assert torch.allclose(probabilities_BK, hot_network.probabilities(faces_BHWC), atol=1e-6)
    assert float(probabilities_BK.std()) < 0.5 * float(network.probabilities(faces_BHWC).std())


@pytest.mark.parametrize("tta", ["none", "flip", "shift10"])
def test_the_deployed_module_repeats_the_network_s_own_probabilities(network, tta):
    # the middle is cut out, halves go to the even pixel
    for resize_px, image_px in ((48, 48), (52, 48), (51, 48)):
        network.checkpoint["preprocessing"] |= {"resize_px": resize_px, "image_px": image_px}
        preprocessing = type(network.preprocessing)(
            **{**vars(network.preprocessing), "resize_px": resize_px, "image_px": image_px}
        )
        changed = type(network)(**{**vars(network), "preprocessing": preprocessing})
        pixels_BHWC = torch.from_numpy(faces(4, 60))
        found_BK = InferenceModule(network.model, build_metadata(changed, tta=tta))(pixels_BHWC)
        assert torch.allclose(found_BK, changed.probabilities(pixels_BHWC, tta=tta), atol=1e-6)
    network.checkpoint["preprocessing"] |= {"resize_px": 48, "image_px": 48}


def test_a_torch_export_runs_without_this_package_s_classes(exported, network):
    extra_files = {"fer_ignite.json": ""}
    module = torch.export.load(exported("torch-export")["file"], extra_files=extra_files).module()
    pixels_BHWC = torch.from_numpy(faces(6, 40))
    assert torch.allclose(
        module(pixels_BHWC), network.probabilities(pixels_BHWC, tta="shift10"), atol=1e-6
    )
    assert json.loads(extra_files["fer_ignite.json"])["classes"] == list(DEMO_CLASSES)


def test_a_state_dict_starts_another_training(exported, tiny):
    from fer_ignite import train

    train(tiny(epochs=1, init_from=exported("state-dict")["file"]))


@pytest.mark.slow
def test_int8_is_calibrated_on_train_faces_and_its_cost_is_measured(exported):
    report = exported("onnx", int8=True, tta="none", calibration_faces=64)
    found = report["check"]
    assert (
        report["weights"] == "int8"
        and ExportMetadata.from_json(record_text(report), name="").weights == "int8"
    )
    assert 0 < found["largest_difference"] < 0.5 and found["equal_decisions"] > 0.8
    low, high = found["accuracy"]["difference_interval"]
    assert low <= found["accuracy"]["difference"] <= high
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(report["file"]).graph.node}


def record_text(report):
    session = onnxruntime.InferenceSession(report["file"], providers=["CPUExecutionProvider"])
    return session.get_modelmeta().custom_metadata_map["fer_ignite"]


def test_the_card_tells_data_figures_use_and_limits_from_the_record(exported, finished_run):
    report = exported("onnx")
    text = Path(report["card"]).read_text(encoding="utf-8")
    summary = json.loads((finished_run / "summary.json").read_text())
    for said in (
        "## Data",
        "demo:700",
        "## Figures",
        "## Intended use",
        "## Limits",
        "useless on photographs",
        "onnx.onnx",
        *DEMO_CLASSES,
    ):
        assert said in text
    assert f"| test | 70 | {100 * summary['test']['accuracy']:.2f} |" in text
    assert "train 560, val 70, test 70" in text and summary["data"]["fingerprint"] in text


def test_a_checkpoint_that_was_copied_away_has_a_card_without_the_run_s_scores(best, tmp_path):
    copied = shutil.copy(best, tmp_path / "mine.pt")
    report = export_checkpoint(copied, form="safetensors", quiet=True)
    assert report["file"] == str(tmp_path / "mine.safetensors")
    text = Path(report["card"]).read_text(encoding="utf-8")
    assert "| test |" not in text and "equal decisions: 100.00 %" in text


def changed(best, path, **config):
    content = load_checkpoint(best)
    with path.open("wb") as file:
        write_checkpoint({**content, "config": {**content["config"], **config}}, file)
    return path


@pytest.mark.slow
def test_where_the_data_is_gone_drawn_faces_are_asked_and_it_is_said(best, tmp_path):
    lost = changed(best, tmp_path / "lost.pt", data="/gone/fer2013.csv")
    report = export_checkpoint(lost, form="safetensors", quiet=True)
    check = report["check"]
    assert (
        check["drawn"]
        and check["n"] == 350
        and check["accuracy"] is None
        and check["equal_decisions"] == 1
    )
    assert (
        len(report["notes"]) == 1
        and "/gone/fer2013.csv" in report["notes"][0]
        and "--data" in report["notes"][0]
    )
    card = Path(report["card"]).read_text()
    assert "was not at hand" in card and "/gone" not in card  # where data lies is private
    assert "nothing about accuracy" in Path(report["card"]).read_text(encoding="utf-8")
    with pytest.raises(DataError, match="--int8 is calibrated on train faces"):
        export_checkpoint(lost, int8=True, quiet=True)
    with pytest.raises(FerError, match="absent"):
        export_checkpoint(lost, form="safetensors", data="absent", exist_ok=True, quiet=True)
    again = export_checkpoint(
        lost, form="safetensors", data="demo:700", exist_ok=True, quiet=True, limit=20
    )
    assert again["check"]["n"] == 20 and not again["check"]["drawn"] and again["notes"] == []


def test_nothing_is_replaced_unasked_and_a_refused_export_leaves_nothing(best, tmp_path):
    target = tmp_path / "m.safetensors"
    target.write_text("mine")
    with pytest.raises(ConfigError, match=r"m\.safetensors exists; pass --exist-ok"):
        export_checkpoint(best, form="safetensors", out=str(target), quiet=True)
    assert target.read_text() == "mine" and [path.name for path in tmp_path.iterdir()] == [
        "m.safetensors"
    ]
    export_checkpoint(best, form="safetensors", out=str(target), quiet=True, exist_ok=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.safetensors", "m.safetensors.md"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"form": "tflite"}, "tflite"),
        ({"form": "safetensors", "int8": True}, "--int8 is for"),
        ({"int8": True, "half": True}, "--half"),
        ({"out": "m.bin"}, r"\.onnx"),
        ({"form": "torch-export", "out": "m.bin"}, r"\.pt2"),
        ({"out": "absent/m.onnx"}, "absent"),
    ],
    ids=str,
)
def test_what_can_t_be_meant_is_refused_before_the_work(best, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        export_checkpoint(best, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", FORMATS)
def test_a_card_s_code_and_commands_hold_whatever_name_the_file_has(network, form):
    code = _snippet(build_metadata(network), form, file='my "best" one.x')
    compile(code, "card", "exec")
    assert "fer-ignite" not in code or "'my \"best\" one.x'" in code


def test_a_checkpoint_in_an_object_store_needs_a_file_s_name_before_it_is_downloaded():
    with pytest.raises(ConfigError, match=r"s3://nowhere/best\.pt lies in an object store.*--out"):
        export_checkpoint("s3://nowhere/best.pt")


def test_votes_that_can_t_be_read_are_refused_and_not_replaced_by_drawn_faces(network, best):
    request = EvaluateRequest(str(best), votes="typo.csv", quiet=True)
    with pytest.raises(FerError, match="votes"):
        reference_faces(network, request, limit=5)


def test_the_checkpoint_itself_is_never_overwritten(best, tmp_path):
    copied = shutil.copy(best, tmp_path / "mine.pt")
    with pytest.raises(ConfigError, match="is the checkpoint itself"):
        export_checkpoint(copied, form="state-dict", out=str(copied), exist_ok=True)
    load_checkpoint(copied)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    (tmp_path / "bad.pt").write_bytes(b"nothing")
    for name in ("bad.pt", "absent.pt"):
        with pytest.raises(CheckpointError, match=name):
            export_checkpoint(tmp_path / name, form="safetensors")


def test_devices_and_descriptors_are_refused_and_stay(best, tmp_path):
    (tmp_path / "null").symlink_to("/dev/null")
    with (tmp_path / "log").open("wb") as log:
        (tmp_path / "stdout").symlink_to(f"/dev/fd/{log.fileno()}")
        for name in ("null", "stdout"):
            with pytest.raises(ConfigError, match=f"{name} is a pipe or a device"):
                export_checkpoint(best, form="safetensors", out=str(tmp_path / name), exist_ok=True)
            assert (tmp_path / name).is_symlink()


def test_a_full_disk_is_told_and_leaves_nothing(best, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    # the file system's answer to a file that grows too large
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StorageError, match="File too large"):
            export_checkpoint(
                best, form="safetensors", out=str(tmp_path / "m.safetensors"), quiet=True
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_answers_otherwise_is_not_kept(best, network, tmp_path, monkeypatch):
    reference = Reference("3 drawn faces", np.arange(3), None, 1)
    found = compare_outputs(
        network,
        lambda faces_BHWC: np.full((len(faces_BHWC), 7), 1 / 7, np.float32),
        reference=reference,
        tta="none",
    )
    assert found["largest_difference"] > 0.01
    with pytest.raises(FerError, match="it was not kept"):
        refuse_disagreement(found, exact=True)
    refuse_disagreement(found, exact=False)
    with pytest.raises(FerError):
        refuse_disagreement({**found, "largest_difference": float("nan")}, exact=False)
    # A writer that loses the weights: the file is there for its check and gone after it.
    monkeypatch.setattr(
        exporter,
        "safetensors_bytes",
        lambda state, record, half: exporter_bytes(
            {name: torch.zeros_like(tensor) for name, tensor in state.items()}, record, half=half
        ),
    )
    with pytest.raises(FerError, match="differ from the checkpoint"):
        export_checkpoint(best, form="safetensors", out=str(tmp_path / "m.safetensors"), quiet=True)
    assert list(tmp_path.iterdir()) == []


exporter_bytes = exporter.safetensors_bytes


def test_a_missing_library_is_told_with_the_extra_that_holds_it():
    with pytest.raises(ConfigError, match=r'needs no_such_library.*-m pip install "\S+\[export\]"'):
        imports.optional_library("no_such_library.part", extra="export", purpose="--format x")


def test_weights_that_fp16_can_t_hold_stay_as_they_are():
    state = {
        "small": torch.ones(2, 2),
        "large": torch.full((2, 2), 1e5),
        "vector": torch.ones(4),
        "count": torch.ones(2, 2).long(),
    }
    halved = halve_state(state)
    assert {name: str(tensor.dtype) for name, tensor in halved.items()} == {
        "small": "torch.float16",
        "large": "torch.float32",
        "vector": "torch.float32",
        "count": "torch.int64",
    }
    assert {name: tensor.dtype for name, tensor in widen_state(halved).items()} == {
        n: t.dtype for n, t in state.items()
    }


def test_a_halved_module_computes_in_fp32_and_leaves_the_original_alone():
    linear = torch.nn.Linear(3, 2)
    before = linear.weight.detach().clone()
    halved = halve_module(linear)
    assert halved(torch.ones(1, 3)).dtype == torch.float32 and torch.equal(linear.weight, before)
    assert torch.equal(halved.weight, before.half().float()) and type(linear) is torch.nn.Linear


@pytest.mark.slow
@pytest.mark.parametrize("name", ["emotionnet", "resnet18", "mobilenet_v3_small"])
def test_other_networks_are_exported_too(best, tmp_path, name):
    content = load_checkpoint(best)
    model = build_model(name, num_classes=7, in_channels=1, image_px=48)
    config = check({**content["config"], "model": name, "model_args": {}}).model_dump(mode="json")
    path = tmp_path / "other.pt"
    with path.open("wb") as file:
        write_checkpoint({**content, "config": config, "model": model.eval().state_dict()}, file)
    report = export_checkpoint(path, tta="flip", quiet=True, limit=8)
    assert report["check"]["largest_difference"] < 1e-4
    answers_BK = OnnxModel(report["file"]).probabilities(draw_faces(3, seed=0)[0])
    assert np.allclose(answers_BK.sum(axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_an_exported_network_takes_pictures_in_memory_as_the_checkpoint_does(
    exported, network, out
):
    pytest.importorskip("onnxruntime")
    exported("onnx")
    model = load_model(out / "onnx.onnx")
    pictures = list(faces(5, 48))
    ours = network.predict(pictures)
    theirs = model.predict([*pictures, Image.fromarray(pictures[0][:, :, 0])])
    assert len(theirs) == 6 and "OnnxModel" in repr(model)
    for one, other in zip(ours, theirs, strict=False):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-3)
    assert theirs[5].probabilities == pytest.approx(theirs[0].probabilities, abs=1e-5)
    with pytest.raises(ConfigError, match=r"fixed inside an \.onnx file"):
        load_model(out / "onnx.onnx", model="a:B")


def test_faces_of_unknown_classes_are_left_out_and_counted(best, tmp_path):
    pixels_NHWC, labels_N = draw_faces(28, seed=9)
    for number, (image, label) in enumerate(zip(pixels_NHWC, labels_N, strict=True)):
        name = "contempt" if DEMO_CLASSES[label] == "sad" else DEMO_CLASSES[label]
        for split in ("train", "val"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.squeeze()).save(folder / f"{number}.png")
    unknown = int((labels_N == DEMO_CLASSES.index("sad")).sum())
    options = {"form": "safetensors", "out": str(tmp_path / "m.safetensors"), "quiet": True}
    report = export_checkpoint(best, data=str(tmp_path / "data"), **options)
    assert report["check"]["n"] == 28 - unknown
    recalls = report["check"]["recall"].values()
    assert sum(row["faces"] for row in recalls) == 28 - unknown
    said = f"{unknown} validation faces of classes that the network doesn't know were left out"
    assert report["notes"] == [said] and said in Path(report["card"]).read_text()
    for folder in (tmp_path / "data").glob("*/*"):
        if folder.name != "contempt":
            shutil.rmtree(folder)
    for split in ("train", "val"):  # a data set has two classes
        shutil.copytree(
            tmp_path / "data" / split / "contempt", tmp_path / "data" / split / "disdain"
        )
    with pytest.raises(DataError, match="none of the classes in val"):
        export_checkpoint(best, data=str(tmp_path / "data"), exist_ok=True, **options)


def test_a_run_s_name_with_a_dot_is_kept_whole(finished_run, tmp_path):
    run = tmp_path / "lr0.01"
    shutil.copytree(finished_run, run)
    report = export_checkpoint(run, form="safetensors", quiet=True, limit=5)
    assert report["file"] == str(tmp_path / "lr0.01.safetensors")


def test_an_exported_file_is_not_exported_again():
    with pytest.raises(CheckpointError, match=r"m\.onnx is an exported file"):
        export_checkpoint("m.onnx", out="m2.onnx")


def test_the_check_of_an_ensemble_says_where_a_member_has_seen_the_faces(best, tmp_path):
    content = load_checkpoint(best)
    other = {
        "config": {**content["config"], "folds": 2, "fold": 1},
        "data": {**content["data"], "val_fingerprint": "0" * 64},
    }
    with (tmp_path / "fold.pt").open("wb") as file:
        write_checkpoint({**content, **other}, file)
    names = [str(best), str(tmp_path / "fold.pt")]
    request = EvaluateRequest(",".join(names), quiet=True)
    reference = reference_faces(load_model(names, device="cpu"), request, limit=5)
    (note,) = reference.notes
    configs = [{"model": "fer48", "lr": 0.1}, {"model": "emotionnet", "lr": 0.2}]
    lines = list(_training(build_metadata(load_model(names, device="cpu")), configs))
    assert lines[:2] == [
        "- settings of network 1: model fer48, lr 0.1",
        "- settings of network 2: model emotionnet, lr 0.2",
    ]
    assert lines[2].startswith("- digest of the weights")
    assert "another split of this data (folds, fold)" in note and reference.published == [note]
