import tarfile

import numpy as np
import pytest
from PIL import Image

from fer_ignite.cli.main import program
from fer_ignite.data.cache.format import open_cache
from fer_ignite.data.cache.lookup import open_or_build
from fer_ignite.data.cache.manifest import verify_cache
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.data.samples import SPLITS
from fer_ignite.data.shards.shard_writer import write_shards
from fer_ignite.errors import ConfigError, DataError


def faces_by_name(dataset_cache):
    """Name -> split, class, pixels of all images."""
    pixels_NHWC = dataset_cache.read(np.arange(len(dataset_cache)))
    return {
        dataset_cache.sample_id(place): (
            SPLITS[dataset_cache.splits[place]],
            dataset_cache.classes[dataset_cache.labels[place]],
            pixels_NHWC[place].tobytes(),
        )
        for place in range(len(dataset_cache))
    }


def test_shards_hold_the_faces_of_the_pack_under_their_names(dataset_cache, folder):
    shards = open_cache(folder)
    assert faces_by_name(shards) == faces_by_name(dataset_cache)
    for name in ("classes", "counts", "mean", "std", "duplicates"):
        assert shards.manifest[name] == dataset_cache.manifest[name]
    verify_cache(shards)


def test_a_shard_holds_one_split_and_train_is_written_in_another_order(dataset_cache, folder):
    shards = open_cache(folder)
    for shard in shards.manifest["shards"]:
        members = shards.splits[shard["first"] : shard["first"] + shard["count"]]
        assert set(members.tolist()) == {SPLITS.index(shard["split"])}
    assert len(shards.manifest["shards"]) >= 15
    names = [shards.sample_id(place) for place in shards.indices("train")]
    assert names != sorted(names, key=lambda name: int(name.split()[1]))


def test_equal_data_gives_equal_shards(dataset_cache, folder, tmp_path):
    write_shards(dataset_cache, tmp_path / "again", shard_bytes=20_000, source="demo:140")
    files = [file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file()]
    assert len(files) > 20
    assert all(
        (folder / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files
    )


def test_unpacked_shards_are_class_folders(dataset_cache, folder, tmp_path):
    for file in (folder / "shards").glob("*.tar"):
        with tarfile.open(file) as tar:
            tar.extractall(tmp_path / "unpacked", filter="data")
    again = open_cache(open_or_build(CacheSpec(data=str(tmp_path / "unpacked"))))
    assert again.manifest["counts"] == dataset_cache.manifest["counts"]
    assert sorted(map(bytes, again.digests)) == sorted(map(bytes, dataset_cache.digests))


# webdataset 1.0.2 leaves the file to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_shards(folder):
    webdataset = pytest.importorskip("webdataset", reason='pip install ".[dev]"')
    shard = webdataset.DataPipeline(
        webdataset.SimpleShardList([str(folder / "shards" / "train-00000.tar")]),
        webdataset.tarfile_to_samples(),
    )
    samples = list(shard)
    count = open_cache(folder).manifest["shards"][0]["count"]
    assert len(samples) == count and all(sample["png"][:4] == b"\x89PNG" for sample in samples)


def test_image_files_keep_their_bytes_and_large_ones_are_stored_as_they_will_be_seen(tmp_path):
    noise = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for label in ("a", "b"):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            for number, side in enumerate((40, 300)):
                pixels = noise.integers(0, 255, (side, side, 3), dtype=np.uint8)
                file = tmp_path / "data" / split / label / f"{number}.jpg"
                Image.fromarray(pixels).resize((side, side)).save(file, quality=90)
    spec = CacheSpec(data=str(tmp_path / "data"), side_px=32, raw_limit_bytes=0)
    dataset_cache = open_cache(open_or_build(spec))
    write_shards(dataset_cache, tmp_path / "shards", shard_bytes=10_000, source="data")
    shards = open_cache(tmp_path / "shards")
    assert faces_by_name(shards) == faces_by_name(dataset_cache)
    own = {file.read_bytes() for file in (tmp_path / "data").rglob("0.jpg")}
    stored = {bytes(shards.shards[place]) for place in range(len(shards))}
    assert len(stored & own) == 6  # the small JPEG files
    assert sum(data[:4] == b"\x89PNG" for data in stored) == 6  # 300 px, seen as 32 px


def test_groups_and_votes_come_along(tmp_path):
    images = np.random.default_rng(1).integers(0, 255, (12, 20, 20), dtype=np.uint8)
    rows = ["path,label,split,group"]
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        split = ("train", "train", "val", "test")[number % 4]
        rows.append(f"{number}.png,{'ab'[number // 6]},{split},person {number % 4}")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    dataset_cache = open_cache(open_or_build(CacheSpec(data=str(tmp_path / "list.csv"))))
    write_shards(dataset_cache, tmp_path / "shards", shard_bytes=2_000, source="list")
    shards = open_cache(tmp_path / "shards")
    groups = {dataset_cache.sample_id(place): dataset_cache.groups[place] for place in range(12)}
    assert {shards.sample_id(place): shards.groups[place] for place in range(12)} == groups


def test_a_folder_that_holds_something_is_refused_and_nothing_is_left_behind(
    dataset_cache, tmp_path
):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "a").touch()
    with pytest.raises(ConfigError, match="not empty; name a new folder"):
        write_shards(dataset_cache, tmp_path / "old", shard_bytes=20_000, source="demo")
    with pytest.raises(ConfigError, match="make it first"):
        write_shards(dataset_cache, tmp_path / "absent" / "new", shard_bytes=20_000, source="demo")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]


def test_the_command_writes_shards_and_describes_them(tmp_path, capsys):
    def command(*arguments):
        assert program.main(args=["pack", *arguments], standalone_mode=False) == 0
        return capsys.readouterr().out

    folder = str(tmp_path / "faces")
    said = command("demo:140", "--shards", folder, "--shard-mb", "0.02")
    assert f"train with --data shards:{folder}" in said
    said = command(f"shards:{folder}", "--verify")
    assert "every image has its checksum" in said and "140 images" in said


def test_an_image_that_cannot_be_read_is_not_taken_for_a_full_disk(
    dataset_cache, tmp_path, monkeypatch
):
    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(type(dataset_cache), "encoded", broken)
    with pytest.raises(DataError, match=r"face \d+ can't be read \(Input/output error\)"):
        write_shards(dataset_cache, tmp_path / "shards", shard_bytes=20_000, source="demo")
    assert list(tmp_path.iterdir()) == []
