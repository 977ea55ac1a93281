"""A pack is built once, found again, survives what happens to files, and says what is in it."""

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fer_ignite
from fer_ignite.config import field_facts
from fer_ignite.data.cache.decode import _LARGEST_UNASKED_PX
from fer_ignite.data.cache.format import DatasetCache, describe, open_cache
from fer_ignite.data.cache.lookup import CacheSpec, cache_folder, open_or_build, verify_cache
from fer_ignite.errors import ConfigError, DataError, StorageError

RNG = np.random.default_rng(0)


def class_folders(
    root,
    *,
    size=(12, 12),
    count=6,
    mode="L",
    classes=("happy", "sad"),
    splits=("train", "val", "test"),
):
    rng = np.random.default_rng(7)
    for split in splits:
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
                Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(
                    folder / f"{index}.png"
                )
    return root


@pytest.fixture
def data(tmp_path):
    return class_folders(tmp_path / "data")


def build(data, tmp_path, **wishes):
    return open_cache(open_or_build(CacheSpec(data=str(data), **wishes), cache=tmp_path / "cache"))


def test_pixels_labels_roles_and_names_come_back(data, tmp_path):
    dataset_cache = build(data, tmp_path)
    assert (
        dataset_cache.pixels.shape == (36, 12, 12, 1)
        and dataset_cache.pixels.dtype == np.uint8
        and dataset_cache.is_memmap
    )
    for index in range(36):
        split, name, _ = dataset_cache.sample_id(index).split("/")
        assert (
            ("train", "val", "test")[dataset_cache.splits[index]],
            dataset_cache.classes[dataset_cache.labels[index]],
        ) == (split, name)
        assert np.array_equal(
            dataset_cache.pixels[index, :, :, 0],
            np.asarray(Image.open(data / dataset_cache.sample_id(index))),
        )
    assert [len(dataset_cache.indices(split)) for split in ("train", "val", "test")] == [12, 12, 12]
    assert dataset_cache.manifest["counts"]["val"] == {"happy": 6, "sad": 6}
    train = dataset_cache.read(dataset_cache.indices("train")) / 255
    assert np.allclose(dataset_cache.mean, train.mean()) and np.allclose(
        dataset_cache.std, train.std()
    )


def test_read_gives_new_arrays_in_the_order_asked_for(data, tmp_path):
    dataset_cache = build(data, tmp_path)
    images = dataset_cache.read(np.array([5, 0, 5]))
    assert (
        images.shape == (3, 12, 12, 1)
        and np.array_equal(images[0], images[2])
        and type(images) is np.ndarray
    )
    images[:] = 0
    assert dataset_cache.pixels[5].any()
    assert dataset_cache.read([]).shape == (0, 12, 12, 1)


def test_a_pack_is_pickled_as_its_path_and_its_map_can_be_written_without_harm(data, tmp_path):
    dataset_cache = build(data, tmp_path)
    assert len(pickle.dumps(dataset_cache)) < 600
    copy = pickle.loads(pickle.dumps(dataset_cache))
    assert isinstance(copy, DatasetCache) and np.array_equal(copy.pixels, dataset_cache.pixels)
    torch.from_numpy(dataset_cache.pixels)[0] = 0  # a warning here would fail the test
    assert open_cache(dataset_cache.path).pixels[0].any()


@pytest.mark.skipif(
    sys.platform != "linux", reason="the limit that stands for a full memory is Linux's"
)
def test_an_array_larger_than_memory_is_mapped_read_only(tmp_path):
    """A limit on private writable memory stands for a machine that has no more; the file is a hole of 8 GB."""
    np.lib.format.open_memmap(tmp_path / "large.npy", mode="w+", dtype=np.uint8, shape=(8 << 30,))
    np.save(tmp_path / "small.npy", np.arange(5))
    code = (
        "import resource, sys; from pathlib import Path; from fer_ignite.data.cache.format import map_array\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30))\n"
        "large, small = (map_array(Path(sys.argv[1]) / name) for name in ('large.npy', 'small.npy'))\n"
        "print(len(large), large[-1], large.flags.writeable, small.flags.writeable)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == [str(8 << 30), "0", "False", "True"]


def test_the_second_time_nothing_is_built(data, tmp_path):
    dataset_cache = build(data, tmp_path)
    made = (dataset_cache.path / "pixels.npy").stat().st_mtime_ns
    again = build(data, tmp_path)
    assert (
        again.path == dataset_cache.path and (again.path / "pixels.npy").stat().st_mtime_ns == made
    )
    assert sorted(os.listdir(tmp_path / "cache")) == ["packs", "stamps"]
    assert len(os.listdir(tmp_path / "cache" / "packs")) == 1


def test_data_that_moved_is_the_same_pack_and_changed_data_another(data, tmp_path):
    dataset_cache = build(data, tmp_path)
    data.rename(tmp_path / "moved")
    assert build(tmp_path / "moved", tmp_path).path == dataset_cache.path
    Image.new("L", (12, 12), 3).save(tmp_path / "moved" / "train" / "sad" / "0.png")
    changed = build(tmp_path / "moved", tmp_path)
    assert changed.fingerprint != dataset_cache.fingerprint and changed.path != dataset_cache.path


def test_the_fingerprint_is_over_content_not_names(data, tmp_path):
    first = build(data, tmp_path).fingerprint
    for index in range(6):
        (data / "train" / "sad" / f"{index}.png").rename(data / "train" / "sad" / f"a{index}.png")
    assert build(data, tmp_path).fingerprint == first
    # Another label, another role, another class name: another fingerprint.
    (data / "train" / "sad" / "a5.png").rename(data / "train" / "happy" / "z.png")
    second = build(data, tmp_path).fingerprint
    third = build(data, tmp_path, classes="glad=happy,sad").fingerprint
    assert len({first, second, third}) == 3


@pytest.mark.parametrize("harm", ["cut", "gone", "manifest"])
def test_a_damaged_pack_in_the_cache_is_built_anew_and_named_when_opened(data, tmp_path, harm):
    dataset_cache = build(data, tmp_path)
    target = dataset_cache.path / ("manifest.json" if harm == "manifest" else "pixels.npy")
    if harm == "gone":
        target.unlink()
    else:
        os.truncate(target, target.stat().st_size - 2)
    with pytest.raises(DataError, match="build"):
        open_cache(dataset_cache.path)
    again = build(data, tmp_path)
    assert again.path == dataset_cache.path
    verify_cache(again)


def test_verification_finds_a_single_changed_bit(data, tmp_path):
    dataset_cache = build(data, tmp_path)
    verify_cache(dataset_cache)
    with (dataset_cache.path / "pixels.npy").open("r+b") as file:
        file.seek(-7, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(DataError, match="damaged"):
        verify_cache(open_cache(dataset_cache.path))


def test_an_existing_pack_is_a_source_and_can_be_relabelled(data, tmp_path):
    dataset_cache = build(data, tmp_path)
    copy = shutil.copytree(dataset_cache.path, tmp_path / "copy")
    assert build(copy, tmp_path).path == copy.resolve()
    other = build(copy, tmp_path, classes="sad,happy")
    assert other.classes == ("sad", "happy") and np.array_equal(
        other.labels, 1 - dataset_cache.labels
    )
    assert np.array_equal(other.pixels, dataset_cache.pixels)


@pytest.mark.parametrize(
    ("sizes", "wishes", "expected"),
    [
        ({"size": (12, 12)}, {"side_px": 48}, (12, 1)),  # never enlarged
        ({"size": (12, 12)}, {"side_px": 8}, (8, 1)),
        ({"size": (40, 30)}, {}, (30, 1)),
        ({"size": (40, 30)}, {"resize_mode": "letterbox"}, (40, 1)),
        ({"size": (12, 12), "mode": "RGB"}, {}, (12, 3)),
        ({"size": (12, 12), "mode": "RGB"}, {"channels": "gray"}, (12, 1)),
        ({"size": (12, 12)}, {"channels": "rgb"}, (12, 3)),
        ({"size": (300, 300), "count": 2}, {"side_px": 400}, (300, 1)),
    ],
)
def test_the_stored_size_and_channels(tmp_path, sizes, wishes, expected):
    dataset_cache = build(class_folders(tmp_path / "data", **sizes), tmp_path, **wishes)
    assert (
        (dataset_cache.height, dataset_cache.channels)
        == expected
        == (dataset_cache.width, len(dataset_cache.mean))
    )


@pytest.mark.parametrize(("sides", "expected"), [((20, 30, 60), 30), ((240, 300, 400), 224)])
def test_images_of_different_sides_are_stored_at_their_median_or_at_the_largest_unasked(
    tmp_path, sides, expected
):
    for name in ("happy", "sad"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for side in sides:
            Image.new("L", (side, side), side % 256).save(tmp_path / "data" / name / f"{side}.png")
    dataset_cache = build(tmp_path / "data", tmp_path, split=(1.0, 0.0, 0.0))
    assert dataset_cache.height == expected
    assert f"the median, at most {_LARGEST_UNASKED_PX}" in field_facts("image_size")["help"]


def test_an_image_that_breaks_the_sample_s_promise_is_not_lost(tmp_path, monkeypatch):
    # so that one odd file is not in the sample
    monkeypatch.setattr("fer_ignite.data.cache.decode._SAMPLE", 2)
    data = class_folders(tmp_path / "data")
    Image.new("RGB", (20, 20), (255, 0, 0)).save(data / "train" / "happy" / "1x.png")
    dataset_cache = build(data, tmp_path)
    assert (len(dataset_cache), dataset_cache.channels, dataset_cache.height) == (37, 3, 12)
    odd = next(index for index in range(37) if dataset_cache.sample_id(index).endswith("1x.png"))
    assert (dataset_cache.pixels[odd] == [255, 0, 0]).all()


def test_a_second_pass_that_keeps_the_files_leaves_no_pixels_of_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr("fer_ignite.data.cache.decode._SAMPLE", 2)
    data = class_folders(tmp_path / "data")
    Image.new("RGB", (12, 12), (255, 0, 0)).save(data / "train" / "happy" / "1x.png")
    dataset_cache = build(
        data, tmp_path, raw_limit_bytes=37 * 12 * 12 + 1
    )  # enough for gray, not for RGB
    assert (
        dataset_cache.channels == 3
        and not dataset_cache.is_memmap
        and not (dataset_cache.path / "pixels.npy").exists()
    )
    verify_cache(dataset_cache)


def test_a_pack_over_the_limit_keeps_the_files_and_reads_the_same(data, tmp_path):
    raw, kept = build(data, tmp_path), build(data, tmp_path, raw_limit_bytes=1000)
    assert not kept.is_memmap and (kept.path / "images.bin").exists()
    everything = np.arange(len(raw))[::-1]
    assert np.array_equal(raw.read(everything), kept.read(everything))
    assert kept.fingerprint == raw.fingerprint and kept.mean == raw.mean
    verify_cache(kept)
    with pytest.raises(DataError, match="read"):
        _ = kept.pixels


def spoil(data):
    (data / "train" / "happy" / "bad.png").write_bytes(b"no picture")
    (data / "val" / "sad" / "0.png").write_bytes((data / "val" / "sad" / "0.png").read_bytes()[:60])
    os.mkfifo(data / "test" / "sad" / "pipe.jpg")


def test_all_bad_images_are_reported_at_once(data, tmp_path):
    spoil(data)
    with pytest.raises(DataError) as caught:
        build(data, tmp_path)
    text = str(caught.value)
    assert "3 of the images or rows can't be used" in text and "--bad-images skip" in text
    assert all(name in text for name in ("bad.png", "val/sad/0.png", "pipe.jpg"))
    for index in range(30):
        (data / "train" / "happy" / f"bad{index}.png").touch()
    with pytest.raises(DataError, match=r"33 of the images.*and 13 more"):
        build(data, tmp_path)
    assert os.listdir(tmp_path / "cache" / "packs") == []


def test_bad_images_are_skipped_counted_and_listed_when_asked(data, tmp_path):
    spoil(data)
    dataset_cache = build(data, tmp_path, bad_images="skip")
    assert len(dataset_cache) == 35 and len(dataset_cache.manifest["skipped"]) == 3
    names = ["test/sad/pipe.jpg", "train/happy/bad.png", "val/sad/0.png"]
    assert sorted(text.split(":")[0] for text in dataset_cache.manifest["skipped"]) == names
    verify_cache(dataset_cache)
    assert "skipped: 3" in describe(dataset_cache)


def test_only_bad_images_are_an_error_even_when_skipped(tmp_path):
    for name in ("happy", "sad"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "1.png").touch()
    with pytest.raises(DataError, match="none is left"):
        build(tmp_path / "data", tmp_path, bad_images="skip")


def test_names_of_any_bytes_round_trip(tmp_path):
    data = class_folders(tmp_path / "data", splits=(".",), count=5)
    odd = b"\xff line\nbreak.png"
    shutil.copy(data / "happy" / "0.png", os.fsencode(data / "happy") + b"/" + odd)
    dataset_cache = build(data, tmp_path)
    found = [
        index
        for index in range(len(dataset_cache))
        if dataset_cache.id_bytes(index) == b"happy/" + odd
    ]
    assert len(found) == 1 and dataset_cache.sample_id(found[0]) == r"happy/\xff line\nbreak.png"
    assert os.path.exists(os.fsencode(data) + b"/" + dataset_cache.id_bytes(found[0]))


def test_duplicates_leaks_and_blanks_are_reported(data, tmp_path):
    shutil.copy(data / "train" / "sad" / "0.png", data / "test" / "sad" / "x.png")
    shutil.copy(data / "train" / "sad" / "0.png", data / "train" / "happy" / "x.png")
    Image.new("L", (12, 12), 9).save(data / "val" / "sad" / "blank.png")
    dataset_cache = build(data, tmp_path)
    report = dataset_cache.manifest["duplicates"]
    assert (report["groups"], report["images"], report["contradicting_groups"]) == (1, 3, 1)
    assert (report["test_in_train"], report["train_in_test"]) == (1, 2) and dataset_cache.manifest[
        "blank"
    ] == 1
    leaking = {dataset_cache.sample_id(int(index)) for index in np.flatnonzero(dataset_cache.leaks)}
    assert leaking == {"train/sad/0.png", "train/happy/x.png"}
    text = describe(dataset_cache)
    assert (
        "1 test images also in train (--drop-train-duplicates" in text
        and "blank images: 1" in text
        and "12 x 12 gray" in text
    )


def test_copies_of_test_in_val_are_not_said_to_go_with_those_of_train(data, tmp_path):
    shutil.copy(data / "val" / "sad" / "0.png", data / "test" / "sad" / "x.png")
    text = describe(build(data, tmp_path))
    assert "across splits: 1 test images also in val" in text
    assert "--drop-train-duplicates" not in text


def test_one_folder_of_classes_is_split_with_copies_kept_together(tmp_path):
    data = class_folders(tmp_path / "data", splits=(".",), count=50)
    for index in range(10):
        shutil.copy(data / "sad" / f"{index}.png", data / "sad" / f"copy{index}.png")
    dataset_cache = build(data, tmp_path, split=(0.6, 0.2, 0.2), split_seed=4)
    assert (
        dataset_cache.manifest["splits"].startswith("train/val/test: 60/20/20 %")
        and "seed 4" in dataset_cache.manifest["splits"]
    )
    assert not dataset_cache.leaks.any() and set(dataset_cache.splits.tolist()) == {0, 1, 2}
    assert abs(len(dataset_cache.indices("train")) - 66) <= 4


def test_groups_of_a_manifest_are_not_torn_apart(tmp_path):
    data = class_folders(tmp_path / "data", splits=(".",), count=30)
    rows = [f"{name}/{i}.png,{name},person{i % 10}" for name in ("happy", "sad") for i in range(30)]
    (data / "list.csv").write_text("\n".join(["path,label,group", *rows]))
    dataset_cache = build(data / "list.csv", tmp_path)
    assert dataset_cache.groups is not None and "by group" in dataset_cache.manifest["splits"]
    for group in range(10):
        assert len(set(dataset_cache.splits[dataset_cache.groups == group].tolist())) == 1
    assert [len(dataset_cache.indices(split)) for split in ("train", "val", "test")] == [48, 6, 6]


def test_equal_images_of_two_groups_stay_together(tmp_path):
    data = class_folders(tmp_path / "data", splits=(".",), count=20)
    for i in range(0, 20, 2):
        shutil.copy(data / "happy" / f"{i}.png", data / "happy" / f"{i + 1}.png")
    rows = [f"happy/{i}.png,happy,{i}" for i in range(20)] + [
        f"sad/{i}.png,sad,{20 + i}" for i in range(20)
    ]
    (data / "list.csv").write_text("\n".join(["path,label,group", *rows]))
    dataset_cache = build(data / "list.csv", tmp_path, split=(0.4, 0.3, 0.3))
    assert (
        dataset_cache.groups is not None
        and not dataset_cache.leaks.any()
        and set(dataset_cache.splits.tolist()) == {0, 1, 2}
    )


def faces_csv(path, usages, header="emotion,pixels,Usage"):
    rows = [
        f"{i % 7},{' '.join(map(str, RNG.integers(0, 256, 2304)))},{usage}"
        for i, usage in enumerate(usages)
    ]
    path.write_text("\n".join([header, *rows]))
    return path


def test_a_face_csv_is_packed_with_its_roles_and_shrunk_on_wish(tmp_path):
    path = faces_csv(
        tmp_path / "fer2013.csv", ["Training"] * 8 + ["PublicTest"] * 2 + ["PrivateTest"]
    )
    dataset_cache = build(path, tmp_path)
    assert dataset_cache.pixels.shape == (11, 48, 48, 1) and np.bincount(
        dataset_cache.splits
    ).tolist() == [8, 2, 1]
    assert build(path, tmp_path, side_px=24).pixels.shape == (11, 24, 24, 1)
    assert dataset_cache.sample_id(0) == "row 2"


def test_a_face_csv_without_roles_is_split_8_1_1_as_folders_are(tmp_path):
    path = faces_csv(tmp_path / "train.csv", ["Training"] * 30)
    path.write_text("\n".join(line.rsplit(",", 1)[0] for line in path.read_text().splitlines()))
    splits = build(path, tmp_path).splits
    assert [int((splits == place).sum()) for place in range(3)] == [24, 3, 3]
    assert set(build(path, tmp_path, split=(0.6, 0.2, 0.2)).splits.tolist()) == {0, 1, 2}


def test_votes_are_packed_as_soft_labels(tmp_path):
    path = faces_csv(tmp_path / "fer2013.csv", ["Training", "PublicTest", "PrivateTest"])
    columns = "neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    rows = [
        "Training,a,5,0,0,3,2,0,0,0,0,0",
        "PublicTest,b,0,9,0,0,0,0,0,1,0,0",
        "PrivateTest,c,0,0,0,0,0,0,0,0,0,9",
    ]
    (tmp_path / "v.csv").write_text("\n".join([f"Usage,Image name,{columns}", *rows]))
    dataset_cache = build(path, tmp_path, votes=str(tmp_path / "v.csv"), vote_mode="distribution")
    assert (
        len(dataset_cache) == 2
        and dataset_cache.soft is not None
        and dataset_cache.soft.shape == (2, 8)
    )
    assert dataset_cache.soft[0, dataset_cache.classes.index("neutral")] == np.float32(0.625)
    assert dataset_cache.manifest["left_out"] == {"FER+: not a face": 1}
    seven = "angry,disgust,fear,happy,sad,surprise,neutral"
    fewer = build(
        path, tmp_path, votes=str(tmp_path / "v.csv"), vote_mode="distribution", classes=seven
    )
    assert (
        fewer.classes == tuple(seven.split(","))
        and fewer.soft is not None
        and fewer.soft.shape == (2, 7)
    )


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("FER_IGNITE_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("FER_IGNITE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "b" / "fer_ignite"


def test_a_cache_that_can_t_be_made_is_one_sentence(data, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ConfigError, match="FER_IGNITE_CACHE"):
        build(data, tmp_path)


def test_leftovers_of_killed_builds_are_cleared_after_a_day(data, tmp_path):
    old, new = (tmp_path / "cache" / "packs" / f".building-{name}" for name in ("1-old", "2-new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    build(data, tmp_path)
    assert not old.exists() and new.exists()


@pytest.mark.parametrize(
    "wishes",
    [
        {"bad_images": "maybe"},
        {"split": (0.5, 0.5, 0.5)},
        {"split": (0.0, 0.5, 0.5)},
        {"side_px": 0},
        {"val_fraction": 1.0},
        {"channels": "cmyk"},
        {"resize_mode": "x"},
        {"vote_mode": "x"},
    ],
)
def test_nonsense_wishes_are_refused(wishes):
    with pytest.raises(ConfigError):
        CacheSpec(data="demo", **wishes)


def test_what_is_no_pack_is_refused(tmp_path):
    with pytest.raises(DataError, match="no dataset cache"):
        open_cache(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(DataError, match="not a dataset cache's"):
        open_cache(tmp_path)


def test_a_pack_of_another_version_is_refused(data, tmp_path):
    dataset_cache = build(data, tmp_path)
    manifest = json.loads((dataset_cache.path / "manifest.json").read_text())
    (dataset_cache.path / "manifest.json").write_text(json.dumps(manifest | {"version": 99}))
    with pytest.raises(DataError, match="version 99"):
        open_cache(dataset_cache.path)


@pytest.mark.slow
def test_two_processes_may_build_at_once_and_a_script_needs_no_guard(data, tmp_path):
    script = tmp_path / "script.py"  # no `if __name__ == "__main__":`, as many first scripts
    script.write_text(
        "import fer_ignite.data.cache.decode as decoding\n"
        "from pathlib import Path\n"
        "from fer_ignite.data.cache.lookup import CacheSpec, open_or_build\n"
        "decoding._SERIAL_S = -1.0\n"  # processes for the smallest work too
        f"print(open_or_build(CacheSpec(data={str(data)!r}), cache=Path({str(tmp_path / 'cache')!r})))\n"
    )
    env = os.environ | {"PYTHONPATH": str(Path(fer_ignite.__file__).parent.parent)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": env}
    processes = [subprocess.Popen([sys.executable, str(script)], **pipes) for _ in "ab"]
    said = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    paths = {out.decode().splitlines()[-1] for out, _ in said}
    assert len(paths) == 1
    verify_cache(open_cache(paths.pop()))
    assert len(os.listdir(tmp_path / "cache" / "packs")) == 1


@pytest.mark.slow
def test_many_processes_give_the_same_pack_as_one(data, tmp_path, monkeypatch):
    alone = build(data, tmp_path)
    monkeypatch.setattr("fer_ignite.data.cache.decode._SERIAL_S", -1.0)
    together = open_cache(open_or_build(CacheSpec(data=str(data)), cache=tmp_path / "other"))
    assert together.fingerprint == alone.fingerprint and together.path.name == alone.path.name


def test_a_pack_is_the_same_without_the_jpeg_library(tmp_path, monkeypatch):
    data = class_folders(tmp_path / "data", size=(40, 30), mode="RGB")
    for path in data.rglob("*.png"):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    with_library = build(data, tmp_path)
    monkeypatch.setattr("fer_ignite.data.cache.plain_files._jpeg_decoder", lambda: None)
    without = open_cache(open_or_build(CacheSpec(data=str(data)), cache=tmp_path / "other"))
    assert without.path.name == with_library.path.name
    assert (without.pixels == with_library.pixels).all()


@pytest.mark.parametrize("limit", [1 << 30, 1000])
def test_bad_images_leave_no_gap_between_the_pieces(data, tmp_path, monkeypatch, limit):
    monkeypatch.setattr("fer_ignite.data.cache.decode._PIECE_S", 1e-9)  # pieces of one file
    spoil(data)
    dataset_cache = build(data, tmp_path, bad_images="skip", raw_limit_bytes=limit)
    assert len(dataset_cache) == 35
    for index in range(35):
        pixels = np.asarray(Image.open(data / dataset_cache.sample_id(index)))
        assert np.array_equal(dataset_cache.read([index])[0, :, :, 0], pixels)
    verify_cache(dataset_cache)


def test_a_full_disk_is_named_and_leaves_nothing_behind(data, tmp_path, monkeypatch):
    def full(self, images, *, at):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fer_ignite.data.cache.slots.PixelSlots.write", full)
    with pytest.raises(StorageError, match=r"No space left.*make room"):
        build(data, tmp_path)
    assert os.listdir(tmp_path / "cache" / "packs") == []


@pytest.mark.slow
def test_ctrl_c_ends_the_build_with_its_processes_and_leaves_nothing_behind(data, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\n"
        "from pathlib import Path\n"
        "import fer_ignite.data.cache.decode as decoding\n"
        "from fer_ignite.data.cache.lookup import CacheSpec, open_or_build\n"
        "decoding._SERIAL_S, decoding._PIECE_S = -1.0, 1e-9\n"
        "decoding.usable_cores = lambda: 3\n"
        "read = decoding.read_face\n"
        "def slow_read(*args, **more):\n"
        "    time.sleep(0.1)\n"
        "    return read(*args, **more)\n"
        "decoding.read_face = slow_read\n"  # in the started processes too, which import this file
        "if __name__ == '__main__':\n"
        "    print('packing', flush=True)\n"
        f"    open_or_build(CacheSpec(data={str(data)!r}), cache=Path({str(tmp_path / 'cache')!r}))\n"
    )
    env = os.environ | {"PYTHONPATH": str(Path(fer_ignite.__file__).parent.parent)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    job = subprocess.Popen(
        [sys.executable, str(script)], env=env, start_new_session=True, text=True, **pipes
    )
    assert job.stdout.readline() == "packing\n"
    packs = tmp_path / "cache" / "packs"
    wait_until(lambda: packs.exists() and any(packs.glob(".building-*/pixels.npy")))
    os.killpg(job.pid, signal.SIGINT)
    # It returns when nobody holds the pipe any more: the started processes have ended too.
    _, said = job.communicate(timeout=60)
    assert said.rstrip().endswith("KeyboardInterrupt") and os.listdir(packs) == []


def wait_until(condition, *, limit_s=60):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.real
def test_the_real_fer2013_has_its_known_facts(tmp_path):
    dataset_cache = build(os.environ["FER2013_CSV"], tmp_path)
    assert np.bincount(dataset_cache.splits).tolist() == [28_709, 3_589, 3_589]
    assert list(dataset_cache.manifest["counts"]["train"].values()) == [
        3995,
        436,
        4097,
        7215,
        4830,
        3171,
        4965,
    ]
    report = dataset_cache.manifest["duplicates"]
    assert (report["groups"], report["images"], report["contradicting_groups"]) == (1516, 3369, 57)
    assert (report["val_in_train"], report["test_in_train"], dataset_cache.manifest["blank"]) == (
        280,
        288,
        12,
    )
    assert (round(dataset_cache.mean[0], 4), round(dataset_cache.std[0], 4)) == (0.5077, 0.2550)
    verify_cache(dataset_cache)


def test_two_equal_files_announce_their_own_path(tmp_path):
    from fer_ignite.config import check
    from fer_ignite.data.open import find_cache, open_dataset

    first = faces_csv(tmp_path / "first.csv", ["Training", "PublicTest", "PrivateTest"] * 9)
    second = tmp_path / "second.csv"
    second.write_bytes(first.read_bytes())
    for path in (first, second):
        config = check({"data": str(path), "cache": str(tmp_path / "cache")})
        dataset_cache, _ = find_cache(config)
        assert open_dataset(config, dataset_cache).source == str(path)


def test_bad_rows_are_counted_and_listed_where_they_are_skipped(tmp_path):
    path = faces_csv(tmp_path / "a.csv", ["Training", "PublicTest", "PrivateTest"] * 9)
    path.write_text(path.read_text() + "\n@misc{a,\ntitle={x, y},\n}\n")
    with pytest.raises(DataError, match=r"3 of the images or rows.*row 29.*--bad-images skip"):
        build(path, tmp_path)
    dataset_cache = build(path, tmp_path, bad_images="skip")
    assert len(dataset_cache) == 27 and [
        text[:6] for text in dataset_cache.manifest["skipped"]
    ] == ["row 29", "row 30", "row 31"]


def flip_bit(path, place):
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize(
    "name", ["pixels.npy", "labels.npy", "splits.npy", "ids.bin", "digests.npy", "manifest.json"]
)
def test_a_flipped_bit_in_any_file_of_a_cached_pack_is_found_and_the_pack_built_again(
    data, tmp_path, caplog, name
):
    dataset_cache = build(data, tmp_path)
    intact = (dataset_cache.path / name).read_bytes()
    place = intact.index(b'"std"') + 20 if name == "manifest.json" else len(intact) - 3
    flip_bit(dataset_cache.path / name, place)
    again = build(data, tmp_path)
    assert again.path == dataset_cache.path and (again.path / name).read_bytes() == intact
    assert "built again" in caplog.text and name in caplog.text


def test_a_damaged_pack_that_is_named_as_data_is_refused(data, tmp_path):
    dataset_cache = build(data, tmp_path)
    flip_bit(dataset_cache.path / "pixels.npy", 200)
    with pytest.raises(DataError, match=r"pixels\.npy: damaged between bytes 0 and"):
        build(dataset_cache.path, tmp_path)


def test_large_files_are_checked_by_a_sample_of_blocks_and_in_full_on_request(
    data, tmp_path, monkeypatch
):
    from fer_ignite.data.cache import integrity

    monkeypatch.setattr(integrity, "BLOCK_BYTES", 64)
    dataset_cache = build(data, tmp_path)
    flip_bit(dataset_cache.path / "pixels.npy", 300)
    found = 0
    for _ in range(200):
        try:
            integrity.verify_files(dataset_cache.path, dataset_cache.manifest, limit_bytes=1024)
        except DataError:
            found += 1
    assert 0 < found < 200  # each start reads other blocks
    with pytest.raises(DataError, match="damaged"):
        verify_cache(dataset_cache)


def test_a_csv_of_equal_size_and_time_that_changed_is_read_again(tmp_path):
    path = faces_csv(tmp_path / "a.csv", ["Training", "PublicTest", "PrivateTest"] * 9)
    first = build(path, tmp_path)
    status, content = path.stat(), path.read_bytes()
    path.write_bytes(content.replace(b"Training", b"Testing ", 1))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size and path.stat().st_mtime_ns == status.st_mtime_ns
    assert build(path, tmp_path).fingerprint != first.fingerprint
