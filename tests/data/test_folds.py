from itertools import chain

import numpy as np
import pytest

from fer_ignite.data.cache.lookup import open_or_build
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.data.dataset import dataset_from_cache, dataset_from_user_class
from fer_ignite.data.folds import build_fold_dataset, deal
from fer_ignite.errors import ConfigError


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Four faces of each of seven classes in train, two in val, one in test; each val face also stands in train once."""
    draw, rows = np.random.default_rng(0), ["emotion,pixels,Usage"]

    def row(label, usage):
        return f"{label},{' '.join(map(str, draw.integers(0, 256, 48 * 48)))},{usage}"

    for label in range(7):
        val = [row(label, "PublicTest") for _ in range(2)]
        rows += val + [text.replace("PublicTest", "Training") for text in val]
        rows += [row(label, "Training") for _ in range(2)] + [row(label, "PrivateTest")]
    path = tmp_path_factory.mktemp("twins") / "fer2013.csv"
    path.write_text("\n".join(rows) + "\n")
    return dataset_from_cache(open_or_build(CacheSpec(data=str(path)), progress=False))


def folds_of(faces, count, seed=0):
    return [build_fold_dataset(faces, folds=count, fold=fold, seed=seed) for fold in range(count)]


def test_each_class_is_dealt_out_evenly():
    labels_N = np.repeat([0, 1, 2], [50, 23, 4])
    fold_N = deal(labels_N, np.arange(77), folds=5, seed=0)
    counts_KF = np.array(
        [np.bincount(fold_N[labels_N == label], minlength=5) for label in range(3)]
    )
    assert (counts_KF.max(axis=1) - counts_KF.min(axis=1) <= 1).all()
    assert np.ptp(counts_KF.sum(axis=0)) <= 3  # one image per class at most


def test_no_unit_is_torn_and_sizes_stay_even():
    draw = np.random.default_rng(1)
    units_N, labels_N = draw.integers(0, 60, 600), draw.integers(0, 7, 600)
    fold_N = deal(labels_N, units_N, folds=4, seed=3)
    assert all(len(set(fold_N[units_N == unit])) == 1 for unit in range(60))
    assert np.ptp(np.bincount(fold_N, minlength=4)) <= np.bincount(units_N).max()


def test_the_deal_follows_from_the_seed():
    labels_N = np.arange(70) % 7
    first, again, other = (deal(labels_N, np.arange(70), folds=3, seed=seed) for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()


def test_every_face_of_train_and_val_is_judged_once_and_test_never(twins):
    parts = folds_of(twins, 3)
    judged = sorted(chain(*(part.indices["val"].tolist() for part in parts)))
    assert judged == sorted([*twins.indices["train"], *twins.indices["val"]]) and len(judged) == 42
    for part in parts:
        assert len(part.indices["test"]) == 0 and part.leaks is None
        assert not set(part.indices["train"]) & set(part.indices["val"])
        assert not set(twins.indices["test"]) & {*part.indices["train"], *part.indices["val"]}


def test_copies_are_never_trained_on_and_judged(twins):
    assert twins.in_train("val").all()  # as the data has it
    assert not any(part.in_train("val").any() for part in folds_of(twins, 3))


def test_mean_and_deviation_are_of_the_folds_that_train(twins):
    part = folds_of(twins, 3)[1]
    pixels = part.cache.read(part.indices["train"]) / 255
    assert part.mean == pytest.approx((pixels.mean(),)) and part.std == pytest.approx(
        (pixels.std(),)
    )


def test_excluded_faces_are_judged_but_not_trained_on(twins, tmp_path):
    place = int(twins.indices["train"][0])
    listed = tmp_path / "audit.csv"
    listed.write_text(f"id\n{twins.cache.sample_id(place)}\n")
    twins.exclude, before = str(listed), twins.exclude
    try:
        parts = folds_of(twins, 2)
    finally:
        twins.exclude = before
    assert sum(place in part.indices["val"] for part in parts) == 1
    for part in parts:
        assert place not in part.train_indices(drop_train_duplicates=False, limit=None, seed=0)


def test_more_folds_than_different_images_are_refused(twins):
    # 42 faces, 14 of them copies
    with pytest.raises(ConfigError, match="--folds 29: give 2 to 28"):
        folds_of(twins, 29)


def test_one_group_can_t_be_dealt():
    with pytest.raises(ConfigError, match=r"one group.*leave --folds out"):
        deal(np.array([0, 1, 0]), np.zeros(3, dtype=np.int64), folds=2, seed=0)


class Numbers:
    classes = ("even", "odd")

    def __init__(self, count):
        self.targets = [index % 2 for index in range(count)]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return np.full((16, 16), index, np.uint8), self.targets[index]


def test_a_user_s_data_set_is_dealt_sample_by_sample():
    faces = dataset_from_user_class(
        lambda split: Numbers({"train": 20, "val": 6, "test": 4}[split]),
        name="my:Data",
        val_fraction=0.2,
        seed=0,
    )
    parts = folds_of(faces, 2)
    assert [len(part.indices["val"]) for part in parts] == [13, 13]
    assert [part.counts(part.indices["val"]).tolist() for part in parts] in (
        [[7, 6], [6, 7]],
        [[6, 7], [7, 6]],
    )
    assert parts[0].mean == faces.mean
