import json

import pytest

from fer_ignite.errors import CheckpointError
from fer_ignite.inference.metadata import ExportMetadata

PREPARATION = {
    "image_px": 44,
    "resize_px": 48,
    "channels": 1,
    "mean": [0.5],
    "std": [0.25],
    "stored_px": 64,
    "resize_mode": "crop",
}
RECORD = ExportMetadata(
    ("happy", "sad"), PREPARATION, 1.5, "flip", "int8", {"model": "fer48"}, {"kind": "best"}
)


def test_a_record_reads_itself():
    assert ExportMetadata.from_json(RECORD.to_json(), name="m.onnx") == RECORD


def test_single_faces_are_fitted_to_the_stored_side_where_there_is_one():
    assert RECORD.side_px == 64
    assert ExportMetadata(("a",), {**PREPARATION, "stored_px": 0}, 1.0, "none").side_px == 48


def test_the_record_describes_input_and_output_for_those_who_have_only_the_file():
    values = json.loads(RECORD.to_json())
    assert values["input"] == {
        "name": "faces",
        "dtype": "uint8",
        "shape": ["batch", "height", "width", 1],
        "range": [0, 255],
        "side_px": 64,
    }
    assert values["output"] == {"name": "probabilities", "dtype": "float32", "shape": ["batch", 2]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format 2"),
        ({"classes": []}, "names"),
        ({"classes": "happy"}, "'classes'"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": 2.0**100}, "within 0.05 to 20"),
        ({"temperature": True}, "'temperature'"),
        ({"preprocessing": None}, "'preprocessing'"),
        ({"tta": 3}, "'tta'"),
        ({"preprocessing": {**PREPARATION, "resize_px": 10**9}}, "size"),
        ({"preprocessing": {**PREPARATION, "image_px": 10**9}}, "size"),
        ({"preprocessing": {**PREPARATION, "stored_px": 10**9}}, "size"),
        ({"preprocessing": {**PREPARATION, "stored_px": -1}}, "size"),
        ({"preprocessing": {**PREPARATION, "channels": 2}}, "size"),
    ],
    ids=str,
)
def test_a_record_that_says_nonsense_is_refused_in_one_sentence(change, said):
    text = json.dumps({**json.loads(RECORD.to_json()), **change})
    with pytest.raises(CheckpointError, match=said) as raised:
        ExportMetadata.from_json(text, name="m.onnx")
    assert "m.onnx" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("text", [None, "", "[]", "{", "3"])
def test_a_file_without_a_record_is_refused(text):
    with pytest.raises(CheckpointError, match=r"m\.onnx"):
        ExportMetadata.from_json(text, name="m.onnx")
