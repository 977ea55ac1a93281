import numpy as np
import pytest
from PIL import Image

from fer_ignite.training.plots import draw_confusion, draw_curves

LINE = {
    "epoch": 1,
    "train_loss": 1.0,
    "val_loss": 1.5,
    "train_accuracy": 0.5,
    "val_accuracy": 0.4,
    "lr": 0.1,
}


def is_a_picture(path):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    return pixels.shape[0] > 100 and pixels.shape[1] > 100 and pixels.std() > 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "history",
    [
        [],
        [LINE],
        [LINE, {**LINE, "epoch": 2}],
        [{"epoch": 1, "lr": 0.1}],
        [{**LINE, "val_loss": float("nan")}],
    ],
    ids=["none yet", "one epoch", "two", "no scores", "NaN"],
)
def test_curves_are_drawn_from_any_history(tmp_path, history):
    draw_curves(history, tmp_path / "c.png")
    assert is_a_picture(tmp_path / "c.png")
    assert [file.name for file in tmp_path.iterdir()] == ["c.png"]


@pytest.mark.parametrize(
    "confusion", [[[3, 1], [0, 4]], [[0, 0], [0, 0]]], ids=["counts", "all zero"]
)
def test_a_confusion_matrix_is_drawn(tmp_path, confusion):
    draw_confusion(confusion, ["glad", "so-so"], path=tmp_path / "m.png", title="val")
    assert is_a_picture(tmp_path / "m.png")


def test_more_classes_make_a_larger_picture(tmp_path):
    for count in (2, 12):
        draw_confusion(
            [[1] * count] * count, [f"c{i}" for i in range(count)], path=tmp_path / f"{count}.png"
        )
    with Image.open(tmp_path / "2.png") as small, Image.open(tmp_path / "12.png") as large:
        assert large.size > small.size
