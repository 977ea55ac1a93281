import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset

from fer_ignite.data.cache.lookup import open_or_build
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.data.dataset import dataset_from_cache, dataset_from_user_class
from fer_ignite.data.fetchers import CacheFetcher, DataLoaderFetcher, IndexBatch
from fer_ignite.data.sampler import generator
from fer_ignite.errors import DataError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def demo():
    return dataset_from_cache(open_or_build(CacheSpec(data="demo:140"), progress=False))


class Squares:
    """Gray squares; the label is the brightness's class."""

    classes = ("dark", "light")

    def __init__(self, count, *, with_targets=True, kind="image"):
        self.count, self.kind = count, kind
        if with_targets:
            self.targets = [index % 2 for index in range(count)]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        value = 50 + 150 * (index % 2)
        made = {
            "image": lambda: Image.new("L", (20, 24), value),
            "rgb": lambda: Image.new("RGB", (20, 24), (value, 0, 0)),
            "array": lambda: np.full((20, 20), value, np.uint8),
            "tensor": lambda: torch.full((1, 20, 20), value / 255),
        }[self.kind]
        return made(), getattr(self, "targets", (0, 1) * self.count)[index]


def squares(*, train=20, val=6, test=0, **changes):
    counts = {"train": train, "val": val, "test": test}
    facts = {name: changes.pop(name) for name in ("classes", "targets") if name in changes}

    def make(split):
        if not counts[split]:
            return None
        part = Squares(counts[split], **changes)
        vars(part).update(facts)
        return part

    return make


def faces_of(make):
    return dataset_from_user_class(make, name="my:Data", val_fraction=0.2, seed=0)


def test_a_pack_brings_classes_roles_and_statistics(demo):
    assert len(demo.classes) == 7 and demo.side_px == 48 and demo.channels == 1
    assert {split: len(indices) for split, indices in demo.indices.items()} == {
        "train": 112,
        "val": 14,
        "test": 14,
    }
    train = demo.cache.read(demo.indices["train"]) / 255
    assert demo.mean == pytest.approx((train.mean(),), abs=1e-3)
    assert demo.std == pytest.approx((train.std(),), abs=1e-3)
    assert demo.counts(demo.indices["train"]).sum() == 112


def test_a_limit_takes_the_first_of_a_seeded_order(demo):
    def limited(limit, seed=0):
        return demo.train_indices(drop_train_duplicates=False, limit=limit, seed=seed)

    assert len(limited(30)) == 30 and set(limited(30)) <= set(limited(60)) <= set(
        demo.indices["train"]
    )
    assert set(limited(30)) != set(limited(30, seed=1))
    assert len(limited(5000)) == 112


def test_leaked_faces_are_left_out_of_train_when_requested(demo):
    leaks = np.zeros(140, dtype=bool)
    leaks[demo.indices["train"][:5]] = True
    demo.leaks, kept = leaks, demo.leaks
    try:
        assert len(demo.train_indices(drop_train_duplicates=True, limit=None, seed=0)) == 107
        assert len(demo.train_indices(drop_train_duplicates=False, limit=None, seed=0)) == 112
    finally:
        demo.leaks = kept


def test_a_split_s_fingerprint_follows_from_its_faces_and_not_from_their_order(demo):
    prints = {split: demo.split_fingerprint(split) for split in ("train", "val", "test")}
    assert len(set(prints.values())) == 3
    before = demo.indices["val"]
    try:
        demo.indices["val"] = before[::-1].copy()
        assert demo.split_fingerprint("val") == prints["val"]
    finally:
        demo.indices["val"] = before


def test_a_pack_is_fed_without_a_loader_unless_samples_have_a_transform(demo):
    assert isinstance(demo.fetcher(CPU, seed=0), CacheFetcher)
    assert isinstance(demo.fetcher(CPU, seed=0, transform=lambda image: image), DataLoaderFetcher)
    assert isinstance(
        demo.fetcher(CPU, seed=0, collate_fn=lambda samples: samples), DataLoaderFetcher
    )


def test_a_users_data_set_becomes_faces_with_its_own_roles():
    faces = faces_of(squares(train=20, val=6, test=4))
    assert faces.classes == ("dark", "light")
    assert [len(faces.indices[split]) for split in ("train", "val", "test")] == [20, 6, 4]
    assert faces.targets.labels_N.tolist() == [i % 2 for i in range(20)] + [
        i % 2 for i in range(6)
    ] + [i % 2 for i in range(4)]
    assert (faces.side_px, faces.channels) == (20, 1)
    assert faces.mean == pytest.approx((125 / 255,), abs=1e-6)  # half 50, half 200
    assert faces.std == pytest.approx((75 / 255,), abs=1e-6)
    assert faces.fetch(21)[1] == 1  # the second of val


def test_val_is_a_stratified_share_of_train_where_there_is_none():
    faces = faces_of(squares(train=20, val=0))
    assert faces.counts(faces.indices["val"]).tolist() == [2, 2]  # 0.2 of 10 each
    assert sorted([*faces.indices["train"], *faces.indices["val"]]) == list(range(20))
    assert len(faces.indices["test"]) == 0


class Photographs:
    """Squares whose sides are given; half of the pixels are white."""

    classes = ("dark", "light")

    def __init__(self, sides):
        self.sides, self.targets = sides, [0, 1] * (len(sides) // 2)

    def __len__(self):
        return len(self.sides)

    def __getitem__(self, index):
        side = self.sides[index]
        pixels = np.zeros((side, side), np.uint8)
        pixels[: side // 2] = 255
        return Image.fromarray(pixels), self.targets[index]


def photographs(sides, **settings):
    return dataset_from_user_class(
        lambda split: Photographs(sides) if split == "train" else None,
        name="my:Data",
        val_fraction=0,
        seed=0,
        **settings,
    )


def test_the_side_of_users_images_is_the_median_of_theirs_and_224_at_most():
    mixed = photographs([64] * 9 + [20, 40, 80])  # whichever comes first
    assert mixed.side_px == 64
    assert mixed.mean == pytest.approx((0.5,), abs=0.01)
    assert photographs([300] * 5 + [200]).side_px == 224
    assert photographs([300] * 6).side_px == 300  # squares of one side, as a dataset cache has them
    assert photographs([300] * 6, side_px=48).side_px == 48


def test_one_other_size_behind_the_first_samples_counts_for_the_side_too():
    last = generator(0, "limit").permutation(100)[-1].item()  # the first 64 decide the side, mostly
    assert photographs([300] * last + [200] + [300] * (99 - last)).side_px == 224
    assert photographs([40] * last + [200] + [40] * (99 - last), side_px=48).side_px == 48
    mixed = photographs([64] * last + [20] + [64] * (99 - last))
    assert mixed.side_px == 64 and mixed.mean == pytest.approx((0.5,), abs=0.01)


def test_users_images_are_stacked_at_the_side_that_the_network_takes():
    fetcher = photographs([300] * 5 + [200], side_px=48).fetcher(CPU, seed=0)
    request = IndexBatch(np.arange(2), epoch=0, step=0, positions_B=np.arange(2))
    assert next(fetcher.batches([request])).shape == (2, 48, 48, 1)


def test_statistics_read_few_images_twice_and_all_others_once():
    calls = []

    class Noted(Photographs):
        def __getitem__(self, index):
            calls.append(index)
            return super().__getitem__(index)

    dataset_from_user_class(
        lambda split: Noted([32, 48] * 50) if split == "train" else None,
        name="my:Data",
        val_fraction=0,
        seed=0,
    )
    # Three samples are compared with the targets, and 64 decide the side.
    assert len(calls) == 100 + 3 + 64


def test_a_class_of_one_sample_stays_in_train_and_no_share_takes_nothing():
    make = squares(train=21, val=0, classes=("dark", "light", "rare"), targets=[0, 1] * 10 + [2])
    faces = faces_of(make)
    assert 20 in faces.indices["train"] and len(faces.indices["val"]) == 4
    none = dataset_from_user_class(make, name="my:Data", val_fraction=0.0, seed=0)
    assert len(none.indices["train"]) == 21 and len(none.indices["val"]) == 0


@pytest.mark.parametrize(
    ("kind", "side", "channels"),
    [("image", 20, 1), ("rgb", 20, 3), ("array", 20, 1), ("tensor", 20, 1)],
)
def test_samples_may_be_images_arrays_or_finished_tensors(kind, side, channels):
    faces = faces_of(squares(kind=kind))
    assert (faces.side_px, faces.channels) == (side, channels)
    assert faces.finished == (kind == "tensor")
    if kind == "tensor":
        assert faces.mean == (0.0,) and faces.std == (1.0,)


def train_alone(data, **settings):
    return dataset_from_user_class(
        lambda split: data if split == "train" else None,
        **{"name": "my:Data", "val_fraction": 0, "seed": 0} | settings,
    )


def test_one_colour_image_makes_the_data_coloured_unless_gray_is_set():
    faces = train_alone(MostlyGray(40))
    assert faces.channels == 3
    # 39 gray images of 50 and 200 in turn, and a red one of 200 in place of the last
    assert faces.mean == pytest.approx([125 / 255, 120 / 255, 120 / 255], abs=1e-6)
    assert train_alone(MostlyGray(40), channels="gray").channels == 1
    assert train_alone(Squares(40), channels="rgb").mean == pytest.approx([125 / 255] * 3)


class MostlyGray(Squares):
    def __getitem__(self, index):
        red = Image.new("RGB", (20, 24), (200, 0, 0))
        return (red, 1) if index == 39 else super().__getitem__(index)


@pytest.mark.parametrize("mode", ["squash", "crop"])
def test_images_are_resized_as_set_for_the_statistics_and_for_training(mode):
    class Bands(Squares):
        def __getitem__(self, index):
            pixels = np.zeros((24, 20), np.uint8)
            pixels[[0, 1, -2, -1]] = 255  # outside of the middle square
            return pixels, index % 2

    faces = train_alone(Bands(20), resize_mode=mode)
    batch = next(faces.fetcher(CPU, seed=0).batches([IndexBatch(np.arange(2), 0, 0, np.arange(2))]))
    assert faces.resize_mode == mode and bool(faces.mean[0]) is bool(batch.any()) is (
        mode == "squash"
    )


def test_a_dataset_cache_s_own_resize_mode_is_the_run_s(tmp_path):
    first = open_or_build(CacheSpec(data="demo:140", resize_mode="crop"), cache=tmp_path)
    chosen = open_or_build(CacheSpec(data=str(first), classes="happy,sad"), cache=tmp_path)
    assert dataset_from_cache(first).resize_mode == dataset_from_cache(chosen).resize_mode == "crop"


def test_labels_may_be_names_and_other_labels_are_refused():
    named = squares(targets=["dark", "light"] * 10, val=0)
    assert faces_of(named).targets.labels_N[:4].tolist() == [0, 1, 0, 1]
    digits = squares(targets=["0", "1"] * 10, val=0)  # as a csv reader gives them
    assert faces_of(digits).targets.labels_N[:4].tolist() == [0, 1, 0, 1]
    whole = squares(targets=np.array([0.0, 1.0] * 10), val=0)
    assert faces_of(whole).targets.labels_N[:4].tolist() == [0, 1, 0, 1]
    for strange in ("dim", 0.5, None, [0, 1], float("nan")):
        with pytest.raises(DataError, match="my:Data has the label") as caught:
            faces_of(squares(targets=[0, strange] * 10, val=0))
        assert repr(strange) in str(caught.value)


def test_labels_are_read_one_by_one_where_there_is_no_targets_attribute():
    assert faces_of(squares(with_targets=False)).targets.labels_N[:4].tolist() == [0, 1, 0, 1]


class Transformed(Squares):
    """As torchvision's data sets: ``targets`` are what ``target_transform`` is applied to."""

    def __init__(self, count, target_transform, *, in_samples=True):
        super().__init__(count)
        self.target_transform, self.in_samples = target_transform, in_samples

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, self.target_transform(label) if self.in_samples else label


@pytest.mark.parametrize("subset", [False, True])
def test_labels_are_those_of_the_target_transform(subset):
    def make(split):
        data = Transformed(20, lambda label: 1 - label)
        return (Subset(data, range(20)) if subset else data) if split == "train" else None

    assert faces_of(make).targets.labels_N[:4].tolist() == [1, 0, 1, 0]


def test_targets_that_are_transformed_already_or_that_become_distributions_stay():
    already = Transformed(20, lambda label: 1 - label, in_samples=False)
    shares = Transformed(20, lambda label: np.eye(2)[label])
    for data in (already, shares):
        faces = faces_of(lambda split, data=data: data if split == "train" else None)
        assert faces.targets.labels_N[:4].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ([1, 0] * 10, "my:Data: sample 0 has the label 0, and its attribute `targets` says 1"),
        ([0, 1] * 9, "my:Data has 18 targets for 20 samples"),
    ],
)
def test_targets_that_are_not_the_samples_labels_are_refused(targets, said):
    class Other(Squares):
        def __getitem__(self, index):
            return super().__getitem__(0)[0], index % 2

    data = Other(20)
    data.targets = targets
    with pytest.raises(DataError, match=said):
        faces_of(lambda split: data if split == "train" else None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": 0}, "gave no data"),
        ({"classes": ("one",)}, "classes"),
        ({"targets": [0, 1, 2] * 10}, "labels 0 to 2 for 2 classes"),
        ({"targets": [0, -1] * 10}, "labels -1 to 0"),
    ],
)
def test_a_data_set_that_says_too_little_is_refused_by_name(change, said):
    def make(split):
        data = Squares(20)
        if split != "train" or "train" in change:
            return None
        for name, value in change.items():
            setattr(data, name, value)
        return data

    with pytest.raises(DataError, match=said) as caught:
        faces_of(make)
    assert "my:Data" in str(caught.value)
