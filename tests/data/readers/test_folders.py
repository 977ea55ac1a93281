"""Class folders in every arrangement, and everything that lies in wait in them."""

import os
import time
import unicodedata

import numpy as np
import pytest
from PIL import Image

from fer_ignite.data.images import printable
from fer_ignite.data.readers.find import find_source
from fer_ignite.data.readers.folders import FolderSource
from fer_ignite.data.samples import UNDECIDED
from fer_ignite.errors import DataError


def faces(folder, *names, value=None):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        shade = abs(hash((str(folder), name))) % 256 if value is None else value
        Image.new("L", (8, 8), shade).save(os.fsencode(folder) + b"/" + os.fsencode(name), "PNG")


def both(folder, *names):
    for expression in ("happy", "sad"):
        faces(folder / expression, *(names or ("1.png",)))


def splits_of(root):
    samples = FolderSource(root).samples()
    return dict(
        zip([os.fsdecode(name) for name in samples.ids], samples.splits_N.tolist(), strict=True)
    )


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train", "val", "test"), [0, 1, 2]),
        (("train", "test"), [0, 2]),
        (("Training", "validation", "testing"), [0, 1, 2]),
        (("train", "valid", "test"), [0, 1, 2]),
        (("Training", "PublicTest", "PrivateTest"), [0, 1, 2]),
        (("train/train", "test/test"), [0, 2]),
        (("data/train", "data/test"), [0, 2]),
        ((".",), [UNDECIDED]),
        (("archive/images",), [UNDECIDED]),
    ],
)
def test_roles_are_read_from_the_folders(tmp_path, folders, expected):
    for folder in folders:
        both(tmp_path / folder)
    found = splits_of(tmp_path)
    assert sorted(set(found.values())) == expected and len(found) == 2 * len(folders)


def test_labels_follow_the_sorted_class_names(tmp_path):
    faces(tmp_path / "sad", "1.png", "2.png")
    faces(tmp_path / "angry", "1.png")
    samples = FolderSource(tmp_path).samples()
    assert samples.classes == ("angry", "sad") and samples.labels_N.tolist() == [0, 1, 1]
    assert samples.ids == [b"angry/1.png", b"sad/1.png", b"sad/2.png"]


def test_hidden_folders_litter_and_stray_files_are_no_classes(tmp_path):
    both(tmp_path)
    faces(tmp_path / ".ipynb_checkpoints", "1.png")
    faces(tmp_path / "__MACOSX" / "happy", "1.png")
    (tmp_path / "lost+found").mkdir()  # at the top of a volume; only root can list it
    faces(tmp_path / "happy" / ".thumbs", "1.png")
    (tmp_path / "readme.txt").write_text("x")
    (tmp_path / "happy" / "notes.txt").write_text("x")
    samples = FolderSource(tmp_path).samples()
    assert samples.classes == ("happy", "sad") and len(samples) == 2
    assert samples.left_out == {"no image by name": 1}


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ((), "no class folders; it holds nothing"),
        (("happy/1.png",), "only one class \\(happy\\)"),
        ((".hidden/1.png", "1.png"), "no class folders; it holds 1.png"),
        (("happy/1.png", "sad/"), "no images in the class folders sad"),
        (("happy/", "sad/"), "no images in the class folders happy, sad"),
        (
            ("train/happy/1.png", "train/sad/1.png", "val/happy/1.png"),
            "classes of val .* missing sad",
        ),
        (
            ("train/happy/1.png", "train/sad/1.png", "test/joy/1.png", "test/sad/1.png"),
            "missing happy; unknown joy",
        ),
        (("train/a/1.png", "train/b/1.png", "training/a/1.png", "training/b/1.png"), "same split"),
    ],
)
def test_folders_that_say_nothing_clear_are_refused_in_one_line(tmp_path, made, words):
    for name in made:
        path = tmp_path / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            faces(path.parent, path.name)
    with pytest.raises(DataError, match=words) as caught:
        FolderSource(tmp_path).samples()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "folders", [("train_afew", "val_afew"), ("train", "val_v2"), ("test-2013",)]
)
def test_a_split_s_name_beside_an_unknown_word_is_refused_where_classes_are_in_it(
    tmp_path, folders
):
    for folder in folders:
        both(tmp_path / folder)
    faces(tmp_path / "other" / "place", "1.png")
    with pytest.raises(
        DataError, match=r"holds class folders, and its name says (train|val|test) "
    ):
        FolderSource(tmp_path).samples()


def test_a_second_version_of_a_split_and_classes_named_like_splits_are_no_splits(tmp_path):
    for folder in ("a/train", "a/test", "a/train_old"):
        both(tmp_path / folder)
    both(tmp_path / "a" / "train_new", "2.png")
    found = splits_of(tmp_path / "a")
    assert set(found.values()) == {0, 2} and len(found) == 4
    left_out = FolderSource(tmp_path / "a").samples().left_out
    assert left_out == {"folders beside the splits": 2}
    for name in ("test_subject", "dev_team"):
        faces(tmp_path / "b" / name, "1.png")
    assert FolderSource(tmp_path / "b").samples().classes == ("dev_team", "test_subject")


def test_differing_folders_are_accepted_when_the_user_names_the_classes(tmp_path):
    both(tmp_path / "train")
    faces(tmp_path / "val" / "happy", "1.png")
    assert len(FolderSource(tmp_path, any_classes=True).samples()) == 3


def test_a_class_whose_name_is_spelt_in_two_unicode_forms_is_one(tmp_path):
    for split, form in (("train", "NFC"), ("val", "NFD")):  # val copied from a Mac
        for name in ("gêné", "sad"):
            faces(tmp_path / split / unicodedata.normalize(form, name), f"{split}.png")
    samples = FolderSource(tmp_path).samples()
    assert samples.classes == ("gêné", "sad") and samples.labels_N.tolist() == [0, 1, 0, 1]


def test_a_loop_of_links_adds_nothing_and_ends(tmp_path):
    both(tmp_path / "train")
    both(tmp_path / "test")
    os.symlink("..", tmp_path / "train" / "happy" / "up")
    os.symlink(".", tmp_path / "train" / "happy" / "same")
    os.symlink("../..", tmp_path / "test" / "sad" / "root")
    start = time.perf_counter()
    assert len(splits_of(tmp_path)) == 4
    assert time.perf_counter() - start < 25


def test_a_link_to_itself_is_a_bad_image_or_a_stray_file(tmp_path):
    both(tmp_path / "train")
    os.symlink("loop", tmp_path / "train" / "happy" / "loop")
    os.symlink("loop.png", tmp_path / "train" / "happy" / "loop.png")
    samples = find_source(str(tmp_path)).samples()
    assert b"train/happy/loop.png" in samples.ids and samples.left_out["no image by name"] == 1


def test_links_out_of_the_folder_are_reported(tmp_path):
    root = tmp_path / "data"
    both(root)
    faces(tmp_path / "elsewhere", "x.png")
    os.symlink(tmp_path / "elsewhere" / "x.png", root / "happy" / "x.png")
    os.symlink(tmp_path / "elsewhere", root / "sad" / "more")
    samples = FolderSource(root).samples()
    assert len(samples) == 2
    assert [name for name, _ in samples.refused] == [b"happy/x.png", b"sad/more"]
    assert all("leads outside" in reason for _, reason in samples.refused)


def test_one_file_in_two_roles_or_classes_is_an_error_and_twice_in_one_place_counts_once(tmp_path):
    both(tmp_path / "train")
    both(tmp_path / "val")
    os.symlink("1.png", tmp_path / "train" / "happy" / "again.png")
    samples = FolderSource(tmp_path).samples()
    assert len(samples) == 4 and samples.left_out == {"reached twice": 1}
    os.symlink("../../train/happy/1.png", tmp_path / "val" / "happy" / "leak.png")
    with pytest.raises(DataError, match=r"train/happy/1\.png = val/happy/leak\.png|two splits"):
        FolderSource(tmp_path).samples()
    (tmp_path / "val" / "happy" / "leak.png").unlink()
    os.symlink("../happy", tmp_path / "train" / "sad" / "other")
    with pytest.raises(DataError, match="under two labels"):
        FolderSource(tmp_path).samples()


def test_hard_links_are_copies_not_one_file(tmp_path):
    both(tmp_path / "train")
    both(tmp_path / "test")
    os.link(tmp_path / "train" / "happy" / "1.png", tmp_path / "test" / "happy" / "2.png")
    assert len(FolderSource(tmp_path).samples()) == 5


NAMES = [
    b"a b.png",
    b"line\nbreak.png",
    b"tab\t.png",
    "e\u0301.png".encode(),
    "\u00e9.png".encode(),
    "\U0001f600.png".encode(),
    "\u202eabc.png".encode(),
    b"x" * 251 + b".png",
    b"-dash.png",
    b"100%s.png",
    b"\xff\xfe.png",
]


def test_paths_of_any_bytes_keep_their_names(tmp_path):
    faces(tmp_path / "happy", *(os.fsdecode(name) for name in NAMES))
    faces(tmp_path / "sad", "1.png")
    samples = FolderSource(tmp_path).samples()
    assert sorted(samples.ids[:-1]) == sorted(b"happy/" + name for name in NAMES)
    assert all(printable(name).isprintable() and printable(name).encode() for name in samples.ids)


def test_the_stamp_changes_with_any_file_and_not_by_looking_again(tmp_path):
    both(tmp_path)
    before = FolderSource(tmp_path).stamp()
    assert FolderSource(tmp_path).stamp() == before
    os.utime(tmp_path / "happy" / "1.png", ns=(1, 1))
    changed = FolderSource(tmp_path).stamp()
    faces(tmp_path / "sad", "2.png")
    assert len({before, changed, FolderSource(tmp_path).stamp()}) == 3


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is unreadable for root"
)
def test_a_folder_without_permissions_is_named(tmp_path):
    both(tmp_path)
    (tmp_path / "sad").chmod(0)
    try:
        with pytest.raises(DataError, match="sad"):
            FolderSource(tmp_path).samples()
    finally:
        (tmp_path / "sad").chmod(0o755)


def test_thousands_of_files_are_listed(tmp_path):
    for expression in ("happy", "sad"):
        (tmp_path / expression).mkdir()
        for index in range(1000):
            (tmp_path / expression / f"{index}.png").touch()
    samples = FolderSource(tmp_path).samples()
    assert len(samples) == 2000
    assert np.bincount(samples.labels_N).tolist() == [1000, 1000]
