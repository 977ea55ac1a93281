import threading

import pytest

from fer_ignite.stores.download import fetch, url_label
from fer_ignite.stores.store import Store, StoreProblem


@pytest.fixture
def url(tmp_path):
    store = Store(f"file://{tmp_path}/store")
    store.write("faces.csv", b"emotion,pixels\n")
    store.write("faces/angry/a.png", b"a")
    store.write("faces/happy/b.png", b"bb")
    return store.url


def test_an_object_becomes_a_file_and_a_prefix_a_folder(url, tmp_path):
    file = fetch(f"{url}/faces.csv", folder=tmp_path / "cache")
    assert file.name == "faces.csv" and file.read_bytes() == b"emotion,pixels\n"
    folder = fetch(f"{url}/faces", folder=tmp_path / "cache")
    assert folder.name == "faces" and (folder / "happy" / "b.png").read_bytes() == b"bb"
    assert fetch(f"{url}/faces/", folder=tmp_path / "cache").name == "faces"


def test_the_same_content_is_downloaded_once_and_changed_content_again(url, tmp_path, capsys):
    first = fetch(f"{url}/faces", folder=tmp_path / "cache")
    assert fetch(f"{url}/faces", folder=tmp_path / "cache") == first
    assert capsys.readouterr().err.count("downloaded") == 1
    Store(url).write("faces/happy/b.png", b"new")
    second = fetch(f"{url}/faces", folder=tmp_path / "cache")
    assert second != first and (second / "happy" / "b.png").read_bytes() == b"new"
    assert capsys.readouterr().err.count("downloaded") == 1


def test_of_several_at_once_one_downloads(url, tmp_path, capsys):
    found = []
    threads = [
        threading.Thread(
            target=lambda: found.append(fetch(f"{url}/faces", folder=tmp_path / "cache"))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1
    said = capsys.readouterr().err
    assert said.count("downloaded") == 1 and "2 objects, 0.0 MB" in said


def test_what_is_not_there_is_refused_and_leaves_nothing(url, tmp_path):
    with pytest.raises(StoreProblem, match=r"nothing: there is no such object, nor any below it"):
        fetch(f"{url}/nothing", folder=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_labels_of_urls_are_names_of_folders_and_differ():
    labels = {url_label(url) for url in ("s3://b/x y", "s3://b/x-y", "s3://b/" + 200 * "n")}
    assert len(labels) == 3
    assert all("/" not in label and len(label) < 80 for label in labels)
