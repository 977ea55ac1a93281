import importlib.util
import os
import time

import numpy as np
import pytest

from fer_ignite.data.cache.format import open_cache
from fer_ignite.data.cache.lookup import open_or_build
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.data.shards import shard_cache
from fer_ignite.errors import ConfigError, DataError, StorageError


def opened(url, tmp_path):
    return open_cache(open_or_build(CacheSpec(data=f"shards:{url}"), cache=tmp_path / "cache"))


def copies(tmp_path):
    return sorted(file.name for file in (tmp_path / "cache").rglob("*.tar"))


def everything(dataset_cache):
    return dataset_cache.read(np.arange(len(dataset_cache)))


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_local_folder_is_read_in_place(folder, tmp_path, form):
    dataset_cache = opened(form.format(folder), tmp_path)
    assert dataset_cache.path == folder
    assert np.array_equal(everything(dataset_cache), everything(open_cache(folder)))
    assert not (tmp_path / "cache").exists()


def test_shards_of_a_web_server_are_downloaded_once(folder, server, tmp_path):
    dataset_cache = opened(server.url, tmp_path)
    assert dataset_cache.fingerprint == open_cache(folder).fingerprint and copies(tmp_path) == []
    for _ in range(2):
        assert np.array_equal(everything(dataset_cache), everything(open_cache(folder)))
    names = [path for path in server.paths if path.endswith(".tar")]
    assert (
        len(names)
        == len(set(names))
        == len(copies(tmp_path))
        == len(dataset_cache.manifest["shards"])
    )


def test_another_start_reads_only_the_manifest_again(server, tmp_path):
    opened(server.url, tmp_path)
    before = len(server.paths)
    opened(server.url, tmp_path)
    assert [path.rpartition("/")[2] for path in server.paths[before:]] == ["manifest.json"]


def use(cache, *numbers):
    for number in numbers:
        with cache.open(number):
            time.sleep(0.01)


def test_copies_stay_within_their_limit(server, tmp_path):
    dataset_cache = opened(server.url, tmp_path)
    cache, held = dataset_cache.shards.cache, []
    cache.limit_bytes = 4 * cache.largest_bytes
    sizes = {shard["name"]: shard["bytes"] for shard in cache.shards}

    def note():
        files = cache.folder.glob("*.tar*")
        coming = sizes[server.paths[-1].rpartition("/")[2]]
        held.append(sum(file.stat().st_size for file in files) + coming)

    server.before = note
    assert len(everything(dataset_cache)) == 140
    assert len(held) == len(cache.shards)
    assert 3 * cache.largest_bytes < max(held) <= cache.limit_bytes


def test_the_copy_that_was_used_longest_ago_goes_first(server, tmp_path):
    cache = opened(server.url, tmp_path).shards.cache
    cache.limit_bytes = 3 * cache.largest_bytes
    use(cache, 0, 1, 2, 0, 3)
    assert copies(tmp_path) == ["train-00000.tar", "train-00002.tar", "train-00003.tar"]


def test_other_processes_downloads_count_and_those_of_dead_ones_do_not(server, tmp_path):
    dataset_cache = opened(server.url, tmp_path)
    cache = dataset_cache.shards.cache
    cache.limit_bytes = 2 * cache.largest_bytes
    name = cache.shards[3]["name"]
    under_way = cache.folder / f".{name}-99999"
    under_way.touch()
    use(cache, 0, 1, 2)
    assert len(copies(tmp_path)) == 1  # the other place is taken
    os.utime(under_way, (0, 0))
    use(cache, 5)
    assert len(copies(tmp_path)) == 2 and not under_way.exists()


def test_a_pickled_pack_keeps_its_limit(server, tmp_path):
    import pickle

    dataset_cache = opened(server.url, tmp_path)
    dataset_cache.shards.cache.limit_bytes = 123_456
    again = pickle.loads(pickle.dumps(dataset_cache))
    assert again.shards.cache.limit_bytes == 123_456
    assert np.array_equal(again.read([5]), dataset_cache.read([5]))


def test_a_server_that_comes_back_is_waited_for(server, tmp_path, no_waiting, caplog):
    dataset_cache = opened(server.url, tmp_path)
    answers = iter([503, 503, 200])
    server.answers["train-00000.tar"] = lambda: next(answers)
    dataset_cache.read([0])
    assert caplog.text.count("train-00000.tar can't be read (HTTP 503") == 2
    assert "the next try is in 0 s" in caplog.text and "is in 0.001 s" in caplog.text


def test_one_line_is_said_for_all_shards_of_a_server_that_is_away(
    server, tmp_path, no_waiting, caplog
):
    dataset_cache = opened(server.url, tmp_path)
    server.answers |= {f"train-0000{number}.tar": 503 for number in range(3)}
    for number in range(3):
        with pytest.raises(StorageError), dataset_cache.shards.cache.open(number):
            pass
    assert caplog.text.count("the next try is in") == 3  # after 0, 1 and 2 ms


def test_a_download_that_is_damaged_or_cut_off_is_repeated(server, tmp_path, no_waiting, caplog):
    dataset_cache = opened(server.url, tmp_path)
    answers = iter(["damaged", 200])
    server.answers["train-00000.tar"] = lambda: next(answers)
    assert dataset_cache.read([0]).shape == (1, 48, 48, 1)
    assert "its checksum is not the index's" in caplog.text


@pytest.mark.parametrize(
    ("answer", "tries", "said"),
    [
        (503, 4, r"can't be read after 4 tries \(HTTP 503.*wait until the server is back\.$"),
        ("damaged", 4, r"after 4 tries \(its checksum is not the index's"),
        (404, 1, r"can't be read \(HTTP 404.*that all shards were copied there"),
        (403, 1, r"can't be read \(HTTP 403.*the rights"),
    ],
)
def test_a_shard_that_cannot_be_had_is_a_storage_error(
    server, tmp_path, no_waiting, answer, tries, said
):
    dataset_cache = opened(server.url, tmp_path)
    server.answers["train-00000.tar"] = answer
    for _ in range(2):  # the second time at once
        with pytest.raises(StorageError, match=said):
            dataset_cache.read([0])
    asked = [path for path in server.paths if path.endswith("train-00000.tar")]
    assert len(asked) == tries and copies(tmp_path) == []
    assert not list((tmp_path / "cache").rglob(".*.tar-*"))


def test_a_full_disk_is_named_and_not_taken_for_the_server(server, tmp_path, monkeypatch):
    dataset_cache = opened(server.url, tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shard_cache, "fetch", full)
    with pytest.raises(StorageError, match=r"can't be stored .No space left on device.; make room"):
        dataset_cache.read([0])


def test_a_server_that_is_away_at_the_start_is_a_wrong_setting(tmp_path, no_waiting):
    with pytest.raises(DataError, match=r"manifest.json can't be read after 4 tries"):
        opened("http://127.0.0.1:9/faces", tmp_path)


def test_a_folder_without_an_index_is_told_from_a_damaged_one(tmp_path):
    with pytest.raises(
        DataError, match=r"has no index of shards; name the folder that .* --shards"
    ):
        open_or_build(CacheSpec(data=f"shards:{tmp_path}"))


def test_signatures_are_not_shown(tmp_path, no_waiting):
    with pytest.raises(DataError) as error:
        opened("http://127.0.0.1:9/faces?signature=abc", tmp_path)
    assert "http://127.0.0.1:9/faces/manifest.json" in str(error.value)
    assert "abc" not in str(error.value)


def test_a_url_that_is_not_valid_is_refused_at_once(tmp_path):
    with pytest.raises(DataError, match=r"manifest.json can't be read .it is no valid URL"):
        opened("http://127.0.0.1:9/my faces?signature=abc", tmp_path)


@pytest.mark.parametrize("user", ["me:secret@", "secret@"])
def test_a_password_in_the_url_is_refused_at_once_and_not_shown(
    server, tmp_path, user, caplog, no_waiting
):
    url = server.url.replace("://", f"://{user}")
    with pytest.raises(DataError, match="user or password in the URL of shards") as error:
        opened(url, tmp_path)
    assert "secret" not in str(error.value) + caplog.text and server.paths == []


def test_what_is_no_url_is_one_sentence():
    with pytest.raises(DataError, match=r"shards:http://\[x: not a URL .*give shards:FOLDER"):
        open_or_build(CacheSpec(data="shards:http://[x?signature=secret"))


def test_the_file_with_the_url_is_readable_by_its_user_alone(server, tmp_path, monkeypatch):
    created = []
    monkeypatch.setattr(os, "chmod", lambda *_, **__: created.append("chmod"))
    dataset_cache = opened(f"{server.url}?signature=abc", tmp_path)
    assert (dataset_cache.path / "origin.json").stat().st_mode & 0o777 == 0o600 and created == []


@pytest.mark.parametrize("content", ["<html>", "[]", "{}", '{"files": {}, "checksum": "x"}'])
def test_what_is_no_index_is_refused(folder, server, tmp_path, content):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(DataError, match="is no index of shards"):
        opened(server.url, tmp_path)
    with pytest.raises(DataError, match=r"no dataset cache|not a dataset cache's"):
        opened(folder, tmp_path)


def test_an_index_with_names_that_lead_elsewhere_is_refused(folder, server, tmp_path):
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"labels.npy":', '"../labels.npy":', 1))
    with pytest.raises(DataError, match="no plain file names"):
        opened(server.url, tmp_path)


def test_a_damaged_index_is_refused(folder, server, tmp_path):
    data = bytearray((folder / "labels.npy").read_bytes())
    data[-1] ^= 1
    (folder / "labels.npy").write_bytes(data)
    for url in (folder, server.url):
        with pytest.raises(DataError, match=r"labels.npy: damaged"):
            opened(url, tmp_path)


def flip(file, place):
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    "harm",
    [
        lambda copy: flip(copy / "labels.npy", -1),
        lambda copy: (copy / "ids.bin").unlink(),
        lambda copy: (copy / "manifest.json").write_text("{"),
        lambda copy: (copy / "manifest.json").unlink(),
    ],
)
def test_a_damaged_copy_of_an_index_is_downloaded_again_and_keeps_its_shards(
    folder, server, tmp_path, harm, caplog
):
    dataset_cache = opened(server.url, tmp_path)
    dataset_cache.read([0])
    harm(dataset_cache.path)
    again = opened(server.url, tmp_path)
    assert again.path == dataset_cache.path and again.fingerprint == open_cache(folder).fingerprint
    assert "; the index is downloaded again." in caplog.text
    assert copies(tmp_path) == ["train-00000.tar"]
    before = len(server.paths)
    opened(server.url, tmp_path)
    assert [path.rpartition("/")[2] for path in server.paths[before:]] == ["manifest.json"]


def test_what_a_killed_start_left_is_removed_after_a_day(server, tmp_path):
    shards = tmp_path / "cache" / "shards"
    old, new = shards / ".building-1-old", shards / ".building-2-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    opened(server.url, tmp_path)
    assert not old.exists() and new.exists()


def test_a_damaged_index_of_a_server_names_the_server(folder, server, tmp_path):
    flip(folder / "labels.npy", -1)
    with pytest.raises(DataError, match=r"faces: .* \(labels.npy: damaged.*; copy it there again"):
        opened(server.url, tmp_path)


def test_downloads_are_on_the_disk_before_their_name(server, tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: (synced.append(os.fstat(handle)), fsync(handle))
    )
    dataset_cache = opened(server.url, tmp_path)
    dataset_cache.read([0])
    files = [dataset_cache.path / name for name in ("labels.npy", "ids.bin")]
    files.append(dataset_cache.shards.cache.path(0))
    assert {file.stat().st_ino for file in files} <= {status.st_ino for status in synced}


def test_a_damaged_copy_of_a_shard_is_downloaded_once_more(folder, server, tmp_path, caplog):
    dataset_cache = opened(server.url, tmp_path)
    wanted = dataset_cache.read([3, 0])
    place = int(dataset_cache.shards._offsets_N[3]) + 100
    flip(dataset_cache.shards.cache.path(0), place)
    assert np.array_equal(dataset_cache.read([3, 0]), wanted)
    assert "; the shard is downloaded again." in caplog.text
    os.truncate(dataset_cache.shards.cache.path(0), place)
    assert np.array_equal(dataset_cache.read([3, 0]), wanted)
    assert sum(path.endswith("train-00000.tar") for path in server.paths) == 3


def test_a_copy_that_stays_damaged_is_an_error(server, tmp_path, monkeypatch):
    dataset_cache = opened(server.url, tmp_path)
    dataset_cache.read([3])
    flip(dataset_cache.shards.cache.path(0), int(dataset_cache.shards._offsets_N[3]) + 100)
    monkeypatch.setattr(dataset_cache.shards.cache, "discard", lambda number: None)
    with pytest.raises(DataError, match="image 3 is damaged"):
        dataset_cache.read([3])


def test_a_copy_of_another_user_is_read(server, tmp_path, monkeypatch):
    dataset_cache = opened(server.url, tmp_path)
    wanted = dataset_cache.read([0])

    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    assert np.array_equal(dataset_cache.read([0]), wanted)


def test_a_pack_is_not_taken_for_shards(dataset_cache, tmp_path):
    with pytest.raises(DataError, match="a dataset cache, which is not cut into shards"):
        opened(dataset_cache.path, tmp_path)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda file: file.unlink(), "can't be opened .No such file"),
        (lambda file: os.truncate(file, 10_000), "10000 bytes, the index says 30720"),
    ],
)
def test_a_local_shard_that_is_missing_or_cut_off_is_named(folder, tmp_path, harm, said):
    dataset_cache = opened(folder, tmp_path)
    harm(folder / "shards" / "train-00000.tar")
    with pytest.raises(DataError, match=f"train-00000.tar: {said}"):
        dataset_cache.read([0])


def test_a_changed_byte_of_an_image_is_noticed_when_it_is_read(folder, tmp_path):
    dataset_cache = opened(folder, tmp_path)
    file = folder / "shards" / "train-00000.tar"
    data = bytearray(file.read_bytes())
    data[int(dataset_cache.shards._offsets_N[3]) + 100] ^= 1
    file.write_bytes(data)
    dataset_cache.read([0, 1, 2])
    with pytest.raises(DataError, match="image 3 is damaged, its checksum differs"):
        dataset_cache.read([3])


def test_an_object_store_is_read_through_fsspec(folder, tmp_path, no_waiting):
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.put(str(folder), "/bucket/faces", recursive=True)
    try:
        dataset_cache = opened("memory://bucket/faces", tmp_path)
        assert np.array_equal(everything(dataset_cache), everything(open_cache(folder)))
        store.rm("/bucket/faces/shards/train-00001.tar")
        dataset_cache.shards.cache.path(1).unlink()
        with pytest.raises(StorageError, match=r"train-00001.tar can't be read"):
            dataset_cache.read([12])
    finally:
        store.rm("/bucket", recursive=True)
    with pytest.raises(ConfigError, match=r"nowhere://bucket/faces: .*name a store as s3://"):
        opened("nowhere://bucket/faces", tmp_path)


def test_the_library_of_a_store_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r's3fs, which is not installed.*-m pip install "\S+\[store\]"'
    ):
        opened("s3://bucket/faces", tmp_path)


@pytest.mark.parametrize("changed", [{"classes": "happy,sad"}, {"split": (0.8, 0.1, 0.1)}])
def test_settings_that_would_make_other_data_are_refused(folder, changed):
    with pytest.raises(DataError, match=r"data shards:http://host/x: ") as error:
        open_or_build(CacheSpec(data="shards:http://host/x?signature=abc", **changed))
    assert "abc" not in str(error.value)
    with pytest.raises(DataError, match="give them when the shards are written"):
        open_or_build(CacheSpec(data=f"shards:{folder}", **changed))


def test_shards_are_not_joined_with_other_data(folder):
    with pytest.raises(ConfigError, match="join the data sets when the shards are written"):
        open_or_build(CacheSpec(data=f"demo:140,shards:{folder}"))
