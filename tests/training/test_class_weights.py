import pytest
import torch

from fer_ignite.errors import ConfigError
from fer_ignite.training.losses import class_weights

CLASSES = ("angry", "happy", "sad")
COUNTS_K = (10, 60, 30)


def mean_over_train(weights_K, counts_K=COUNTS_K):
    return sum(c * float(w) for c, w in zip(counts_K, weights_K, strict=True)) / sum(counts_K)


def test_none_is_no_weights():
    assert class_weights("none", COUNTS_K, classes=CLASSES) is None


def test_balanced_gives_every_class_the_same_share():
    weights_K = class_weights("balanced", torch.tensor(COUNTS_K), classes=CLASSES)
    torch.testing.assert_close(weights_K, torch.tensor([100 / 30, 100 / 180, 100 / 90]))
    assert mean_over_train(weights_K) == pytest.approx(1)


def test_effective_follows_the_paper_and_keeps_the_mean():
    beta = 0.99
    weights_K = class_weights("effective", COUNTS_K, classes=CLASSES, beta=beta)
    expected = (1 - beta**60) / (1 - beta**10)
    assert float(weights_K[0] / weights_K[1]) == pytest.approx(expected)
    assert mean_over_train(weights_K) == pytest.approx(1)
    torch.testing.assert_close(
        class_weights("effective", COUNTS_K, classes=CLASSES, beta=0.0), torch.ones(3)
    )


def test_a_class_without_images_weighs_one():
    weights_K = class_weights("balanced", (5, 0, 15), classes=CLASSES)
    torch.testing.assert_close(weights_K, torch.tensor([2.0, 1.0, 2 / 3]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("w.json", '{"sad": 1, "happy": 0.5, "angry": 4}'),
        ("w.csv", "name,weight\nsad,1\nhappy,0.5\nangry,4\n"),
        ("bare.csv", "angry, 4\n\nhappy, 0.5\nsad, 1"),
    ],
)
def test_a_file_is_matched_by_name_and_scaled(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    weights_K = class_weights(str(path), COUNTS_K, classes=CLASSES)
    # (40 + 30 + 30) / 100 is 1 already
    torch.testing.assert_close(weights_K, torch.tensor([4.0, 0.5, 1.0]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("angry,1\nhappy,2", "lacks \\['sad'\\]"),
        ("angry,1\nhappy,2\nsad,1\nbored,1", "has \\['bored'\\]"),
        ("angry,1\nhappy,2\nsad,-1", "gives sad the weight -1.0"),
        ("angry,1\nhappy,2\nsad,nan", "gives sad the weight nan"),
        ("angry,1\nhappy,two\nsad,1", "can't be read"),
        ("angry,1\nangry,2\nhappy,1\nsad,1", "occurs twice"),
        ("angry,0\nhappy,0\nsad,0", "all classes of the train split weigh 0"),
        ("angry;1", "can't be read"),
    ],
)
def test_a_file_that_lies_is_named(tmp_path, text, words):
    path = tmp_path / "w.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        class_weights(str(path), COUNTS_K, classes=CLASSES)


def test_an_unknown_kind_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match="neither none, balanced or effective"):
        class_weights("balance", COUNTS_K, classes=CLASSES)
