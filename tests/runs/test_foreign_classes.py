"""Classes of other words and numbers meet a run: what is said, and how a checkpoint's classifier is taken over."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fer_ignite import build_session, evaluate, train
from fer_ignite.checkpoint.format import load_checkpoint
from fer_ignite.data.drawn_faces import DEMO_CLASSES, draw_faces
from fer_ignite.errors import DataError


@pytest.fixture
def folders(tmp_path):
    """({name: other name}) -> class folders of 70 drawn faces."""

    def make(names):
        pixels, labels = draw_faces(70, seed=4)
        root = tmp_path / f"data{len(list(tmp_path.iterdir()))}"
        for place, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            name = DEMO_CLASSES[label]
            folder = root / names.get(name, name)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(image).squeeze()).save(folder / f"{place}.png")
        return str(root)

    return make


def test_numbers_train_with_a_warning_that_says_how_to_name_them(tiny, tmp_path, folders):
    data = folders({name: str(place) for place, name in enumerate(DEMO_CLASSES)})
    train(tiny(data=data, epochs=1))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert (
        "the classes are numbers (0, 1, 2, 3, 4, 5, 6)" in log
        and "--layout rafdb or fer2013 or affectnet" in log
    )


def test_numbers_of_other_data_are_scored_only_where_the_user_says_that_they_are_the_same(
    tiny, tmp_path, folders
):
    numbers = {name: str(place) for place, name in enumerate(DEMO_CLASSES)}
    own, other = folders(numbers), folders(numbers)
    (next((Path(other) / "3").iterdir())).unlink()  # else the data would be the same
    train(tiny(data=own, epochs=1))
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    assert evaluate(best, quiet=True)["n"] == evaluate(best, data=own, quiet=True)["n"]
    with pytest.raises(DataError, match=r"meaning may differ between data sets.*--classes"):
        evaluate(best, data=other, quiet=True)
    assert evaluate(best, data=other, classes=",".join(numbers.values()), quiet=True)["n"]


def test_the_header_says_which_expression_each_class_means_and_what_was_left_out(
    tiny, tmp_path, folders
):
    data = folders({"angry": "Anger", "happy": "joy"})
    (tmp_path / "data0" / "joy" / "notes.txt").write_text("x")
    train(tiny(data=data, epochs=1))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "expressions Anger = angry, joy = happy" in log
    assert "left out    1 (no image by name)" in log


def test_a_checkpoint_s_classifier_is_taken_over_class_by_class(tiny, tmp_path, folders):
    """The same expressions under other words stand in another order."""
    train(tiny(epochs=1, name="first"))
    first = tmp_path / "first" / "checkpoints" / "best.pt"
    data = folders({"angry": "mad", "happy": "Joy", "surprise": "1_surprised"})
    with build_session(tiny(data=data, init_from=str(first), name="second")) as session:
        classes, head = session.dataset.classes, session.model.state_dict()["head.weight"]
    old = load_checkpoint(first)
    assert list(classes) != old["classes"]
    for name, row in zip(classes, head, strict=True):
        known = {"mad": "angry", "Joy": "happy", "1_surprised": "surprise"}.get(name, name)
        assert torch.equal(row, old["model"]["head.weight"][old["classes"].index(known)])
