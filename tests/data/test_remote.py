import errno
import os

import pytest
from PIL import Image

from fer_ignite import train
from fer_ignite.data.cache.format import open_cache
from fer_ignite.data.open import find_cache
from fer_ignite.data.readers.find import require_source
from fer_ignite.errors import ConfigError, DataError
from fer_ignite.stores.store import Store


@pytest.fixture
def faces(tmp_path):
    """Class folders of 30 images, here and in a store; the store's URL and the local folder."""
    folder = tmp_path / "faces"
    for number in range(30):
        file = folder / ("angry", "happy", "sad")[number % 3] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (48, 48), 8 * number).save(file)
    store = Store(f"file://{tmp_path}/bucket/faces")
    for file in folder.rglob("*.png"):
        store.upload(file, file.relative_to(folder).as_posix())
    return store.url, folder


def test_data_by_url_is_the_data_of_the_files(tiny, faces, tmp_path, capsys):
    url, folder = faces
    cache = str(tmp_path / "cache")
    path, fingerprint = find_cache(tiny(data=url, cache=cache))
    assert fingerprint == find_cache(tiny(data=str(folder)))[1]
    assert len(open_cache(path)) == 30
    capsys.readouterr()
    again, _ = find_cache(tiny(data=url, cache=cache, quiet=False))
    assert again == path and "downloaded" not in capsys.readouterr().err  # here already
    assert {place.name for place in (tmp_path / "cache").iterdir()} >= {"downloads", "packs"}


def test_a_run_names_its_data_by_the_url_and_another_machine_finds_it(
    tiny, faces, tmp_path, monkeypatch
):
    url, _ = faces
    monkeypatch.setenv("FER_IGNITE_CACHE", str(tmp_path / "one"))
    found = train(tiny(data=url, epochs=1))
    assert found["data"]["source"] == url
    monkeypatch.setenv("FER_IGNITE_CACHE", str(tmp_path / "two"))
    assert train(tiny(data=url, epochs=2, resume="auto"))["epochs"] == 2


def test_urls_and_folders_are_joined(tiny, faces):
    url, folder = faces
    path, _ = find_cache(tiny(data=f"{url},{folder}"))
    assert len(open_cache(path)) == 60


def test_data_that_is_not_there_is_refused(tiny, tmp_path):
    with pytest.raises(DataError, match=r"--data: file://.*/none: there is no such object, nor"):
        find_cache(tiny(data=f"file://{tmp_path}/none"))
    with pytest.raises(ConfigError, match="can't be downloaded to /proc/downloads"):
        (tmp_path / "faces.csv").write_text("emotion,pixels\n")
        find_cache(tiny(data=f"file://{tmp_path}/faces.csv", cache="/proc"))


def test_a_url_is_checked_without_a_network_for_its_library_only(monkeypatch):
    import sys

    require_source("file:///nowhere/faces.csv")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ConfigError, match=r"s3fs, which is not installed.*\[store\]"):
        require_source("demo,s3://b/faces.csv")


def test_a_wrong_url_of_votes_is_blamed_on_votes(tiny, faces, tmp_path):
    url, _ = faces
    with pytest.raises(DataError, match=r"^--votes: .*none\.csv: there is no such object"):
        find_cache(tiny(data=url, votes=f"file://{tmp_path}/none.csv"))


@pytest.mark.slow
def test_a_csv_in_a_bucket_is_downloaded_once_by_several_processes(cli, bucket, tmp_path):
    from tests.faults.support import write_faces

    file = write_faces(tmp_path / "faces.csv", train=60, val=20, test=20)
    Store(bucket).upload(file, "data/faces.csv")
    ended = cli(
        *("train", "--data", f"{bucket}/data/faces.csv", "--nproc", "2", "--epochs", "1"),
        *("--model-args", "{widths: [8, 8], blocks: [0, 0]}", "--no-plots", "--device", "cpu"),
        *("--threads", "1", "--cache", tmp_path / "cache", "--out", f"{bucket}/runs"),
    )
    assert ended.code == 0, ended.err
    assert ended.err.count(f"downloaded  {bucket}/data/faces.csv (") == 1
    assert "fer48-faces" in Store(f"{bucket}/runs").folders()


def test_what_a_killed_download_left_is_removed_after_a_day(tiny, faces, tmp_path):
    url, _ = faces
    config = tiny(data=url, cache=str(tmp_path / "cache"))
    find_cache(config)
    (copy,) = (tmp_path / "cache" / "downloads").iterdir()
    left, under_way = copy / ".downloading-1", copy / ".downloading-2"
    for folder in (left, under_way):
        (folder / "faces").mkdir(parents=True)
        (folder / "faces" / "1.png").touch()
    # Both were begun long ago; a file still arrives in one of them.
    for place in (left / "faces" / "1.png", left / "faces", left, under_way / "faces", under_way):
        os.utime(place, (0, 0))
    find_cache(config)
    assert not left.exists() and under_way.exists()


def test_a_full_disk_is_said_as_that(tiny, faces, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    from fsspec.implementations.local import LocalFileSystem

    monkeypatch.setattr(LocalFileSystem, "get", full)
    with pytest.raises(
        ConfigError, match=r"No space left on device\); make room, or set --cache or FER_IGN"
    ):
        find_cache(tiny(data=faces[0], cache=str(tmp_path / "cache")))
