"""Published data sets in the layouts in which they are distributed, as tiny files."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from fer_ignite.data.cache.format import describe, open_cache
from fer_ignite.data.cache.lookup import open_or_build
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.data.readers import folders
from fer_ignite.data.readers.listing import ListedFace, Listing
from fer_ignite.data.readers.named_files import find_persons
from fer_ignite.data.samples import Samples, with_groups
from fer_ignite.errors import DataError, FerError

NAMES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def draw(path, number, size=(24, 24), mode="L"):
    """A picture of its own for every number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, size=(*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def packed(data, **options):
    return open_cache(open_or_build(CacheSpec(data=str(data), **options)))


def by_id(dataset_cache):
    """id -> (class, split)."""
    splits = ("train", "val", "test")
    return {
        dataset_cache.sample_id(i): (
            dataset_cache.classes[dataset_cache.labels[i]],
            splits[dataset_cache.splits[i]],
        )
        for i in range(len(dataset_cache))
    }


def groups_of(dataset_cache):
    return {
        dataset_cache.sample_id(i): int(dataset_cache.groups[i]) for i in range(len(dataset_cache))
    }


RAF = {1: "surprise", 2: "fear", 3: "disgust", 4: "happy", 5: "sad", 6: "angry", 7: "neutral"}


@pytest.fixture
def raf(tmp_path):
    root = tmp_path / "raf" / "basic"
    lines = []
    for number in range(28):
        split = "test" if number % 4 == 3 else "train"
        draw(root / "Image" / "aligned" / f"{split}_{number:05d}_aligned.jpg", number, mode="RGB")
        lines.append(f"{split}_{number:05d}.jpg {number % 7 + 1}")
    (root / "EmoLabel").mkdir()
    (root / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines) + "\n")
    return root


def test_rafdb_is_read_from_its_list(raf):
    dataset_cache = packed(raf.parent)
    assert dataset_cache.manifest["source_kind"] == "RAF-DB" and dataset_cache.classes == tuple(
        RAF.values()
    )
    found = by_id(dataset_cache)
    assert len(found) == 28
    for name, (label, split) in found.items():
        number = int(name.split("_")[1])
        assert label == RAF[number % 7 + 1]
        assert (split == "test") == (number % 4 == 3)
    assert {split for _, split in found.values()} == {"train", "val", "test"}
    assert "RAF-DB" in describe(dataset_cache)


def test_rafdb_lists_what_it_can_t_use(raf):
    table = raf / "EmoLabel" / "list_patition_label.txt"
    table.write_text(table.read_text() + "train_99999.jpg 9\n")
    with pytest.raises(DataError, match=r"train_99999\.jpg: 9 is no label from 1 to 7"):
        packed(raf)
    assert len(packed(raf, bad_images="skip")) == 28
    table.write_text(table.read_text() + "train_00000.jpg happy\n")
    with pytest.raises(DataError, match=r"row 30: .*a row is a file name and a label"):
        packed(raf)
    assert len(packed(raf, bad_images="skip")) == 28
    table.write_text("train_00000.jpg happy\n")
    with pytest.raises(DataError, match=r"row 1: .*a row is a file name and a label"):
        packed(raf)
    shutil.rmtree(raf / "Image")
    table.write_text("train_00000.jpg 1\n")
    with pytest.raises(DataError, match="none of the images that the list names"):
        packed(raf)


def numbered_folders(root, names, splits=("train", "test")):
    number = 0
    for split in splits:
        for name in names:
            for _ in range(2):
                number += 1
                draw(root / split / name / f"{number}.png", number)
    return root


def test_rafdb_as_folders_is_named_by_its_label_files(tmp_path):
    root = numbered_folders(tmp_path / "DATASET", [str(n) for n in RAF])
    assert packed(tmp_path).classes == tuple(map(str, RAF))
    (tmp_path / "train_labels.csv").write_text("image,label\n1.png,1\n")
    dataset_cache = packed(tmp_path)
    assert (
        dataset_cache.classes == tuple(RAF.values())
        and dataset_cache.manifest["source_kind"] == "RAF-DB folders"
    )
    for name, (label, split) in by_id(dataset_cache).items():
        parts = name.split("/")
        assert label == RAF[int(parts[-2])] and (split == "test") == (parts[-3] == "test")
    assert root.is_dir()


@pytest.mark.parametrize("numbers", [range(7), range(1, 6), range(1, 9)])
def test_other_numbers_beside_a_label_file_are_not_rafdb_s(tmp_path, numbers):
    numbered_folders(tmp_path, [str(n) for n in numbers])
    (tmp_path / "train_labels.csv").write_text("image,label\n1.png,1\n")
    dataset_cache = packed(tmp_path)
    assert dataset_cache.manifest["source_kind"] == "folders"
    assert dataset_cache.classes == tuple(map(str, numbers))


@pytest.mark.parametrize(("layout", "first"), [("rafdb", 1), ("fer2013", 0)])
def test_a_layout_names_numbered_folders(tmp_path, layout, first):
    root = numbered_folders(tmp_path, [str(n) for n in range(first, first + 7)])
    dataset_cache = packed(root, layout=layout)
    names = tuple(RAF.values()) if layout == "rafdb" else NAMES
    assert dataset_cache.classes == names
    for name, (label, _) in by_id(dataset_cache).items():
        assert label == names[int(name.split("/")[1]) - first]
    with pytest.raises(
        DataError, match=r"--layout rafdb: the data has the classes .* 9 is none of 1 surprise"
    ):
        draw(root / "train" / "9" / "x.png", 99)
        draw(root / "test" / "9" / "x.png", 98)
        packed(root, layout="rafdb")


AFFECT = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt")


def test_affectnet_s_table_is_cut_to_its_boxes_and_leaves_out_what_is_no_expression(tmp_path):
    head = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
    for split, count in (("training", 22), ("validation", 16)):
        lines = [head]
        for number in range(count):
            name = f"{split[:2]}{number % 3}/{number:03d}.jpg"
            draw(
                tmp_path / "Manually_Annotated_Images" / name,
                number + 100 * len(split),
                (64, 64),
                "RGB",
            )
            code = number % 11 if split == "training" else number % 8
            lines.append(f"{name},8,12,32,32,1;2,{code},0.1,0.2")
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n")
    # The published folder has a network's labels too; their images often lie elsewhere.
    machine_made = [f"elsewhere/{number}.jpg,8,12,32,32,1;2,{number},0,0" for number in range(5)]
    (tmp_path / "automatically_annotated.csv").write_text("\n".join([head, *machine_made]) + "\n")
    dataset_cache = packed(tmp_path)
    assert dataset_cache.manifest["source_kind"] == "AffectNet" and dataset_cache.classes == AFFECT
    assert (dataset_cache.height, dataset_cache.width) == (32, 32) and len(dataset_cache) == 16 + 16
    assert dataset_cache.manifest["left_out"] == {
        "no expression: 8, none": 2,
        "no expression: 9, uncertain": 2,
        "no expression: 10, no face": 2,
        "of automatically_annotated.csv, whose name gives no split": 5,
    }
    found = by_id(dataset_cache)
    for name, (label, split) in found.items():
        number = int(os.path.basename(name).split(".")[0])
        training = os.path.basename(os.path.dirname(name)).startswith("tr")
        assert label == AFFECT[number % 11 if training else number % 8]
        assert split == ("train" if training else "val")
    place = next(
        i for i in range(len(dataset_cache)) if dataset_cache.sample_id(i).endswith("tr0/000.jpg")
    )
    whole = Image.open(tmp_path / dataset_cache.sample_id(place))
    np.testing.assert_array_equal(
        dataset_cache.read([place])[0], np.asarray(whole.crop((8, 12, 40, 44)))
    )
    alone = packed(tmp_path / "training.csv")
    assert len(alone) == 16 and set(np.unique(alone.splits).tolist()) == {0, 1}


def test_bad_rows_of_affectnet_s_table_are_refused_one_by_one(tmp_path):
    rows = ["subDirectory_filePath,face_x,face_y,face_width,face_height,expression"]
    for number in range(16):
        draw(tmp_path / "a" / f"{number}.png", number)
        rows.append(f"a/{number}.png,0,0,24,24,{number % 8}")
    rows += [
        ",0,0,24,24,3",
        "a/1.png,inf,0,24,24,3",
        "a/1.png,0,0,24,24,12",
        'a/1.png,"0"x,0,1,1,3',
    ]
    (tmp_path / "training.csv").write_text("\n".join(rows) + "\n")
    dataset_cache = packed(tmp_path, bad_images="skip")
    assert len(dataset_cache) == 16
    reasons = dict(text.split(": ", 1) for text in dataset_cache.manifest["skipped"])
    assert reasons["training.csv row 18"].startswith("subdirectory_filepath is empty")
    assert reasons["training.csv row 19"] == "no row of annotations."
    assert reasons["training.csv row 20"] == "12 is no code 0 to 10."
    assert reasons["training.csv row 21"].startswith("broken csv")
    rows[3] = 'a/2.png,0,0,24,24,"2'  # with it all rows behind it would be lost
    (tmp_path / "training.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(DataError, match=r"row 4: broken csv .* a quote in line 4 is not closed"):
        packed(tmp_path, bad_images="skip")
    (tmp_path / "automatic.csv").write_text("\n".join(rows))
    (tmp_path / "training.csv").write_text("\n".join([*rows[:3], *rows[4:17]]) + "\n")
    left_out = packed(tmp_path).manifest["left_out"]
    assert left_out["of automatic.csv, whose name gives no split"] == 2  # up to the quote


@pytest.mark.parametrize("with_automatic_images", [True, False])
def test_affectnet_s_lists_in_folders_of_their_own_give_the_manual_labels(
    tmp_path, with_automatic_images
):
    tables = {
        "Automatically_annotated_file_list/automatically_annotated.csv": "Automatically_Annotated_Images",
        "Manually_Annotated_file_lists/training.csv": "Manually_Annotated_Images",
        "Manually_Annotated_file_lists/validation.csv": "Manually_Annotated_Images",
    }
    for place, (table, images) in enumerate(tables.items()):
        lines = ["subDirectory_filePath,expression"]
        for number in range(16):
            lines.append(f"{place}/{number}.png,{number % 8}")
            if place or with_automatic_images:
                draw(tmp_path / images / lines[-1].split(",")[0], 16 * place + number)
        (tmp_path / table).parent.mkdir(exist_ok=True)
        (tmp_path / table).write_text("\n".join(lines) + "\n")
    dataset_cache = packed(tmp_path)
    assert dataset_cache.manifest["left_out"] == {
        "of automatically_annotated.csv, whose name gives no split": 16
    }
    assert {
        (name.rpartition("/")[0], split) for name, (_, split) in by_id(dataset_cache).items()
    } == {("Manually_Annotated_Images/1", "train"), ("Manually_Annotated_Images/2", "val")}


def test_affectnet_s_lists_at_the_top_come_before_the_originals_below(tmp_path):
    """Cleaned lists of both splits: fewer rows, one with another label; the published ones beside the images."""
    head = "subDirectory_filePath,expression"
    for place, split in enumerate(("training", "validation")):
        rows = [f"{place}/{number}.png,{number % 8}" for number in range(16)]
        for number, row in enumerate(rows):
            draw(tmp_path / "Images" / row.split(",")[0], 16 * place + number)
        (tmp_path / "lists").mkdir(exist_ok=True)
        (tmp_path / "lists" / f"{split}.csv").write_text("\n".join([head, *rows]))
        cleaned = [f"{place}/0.png,1", *rows[1:10]]
        (tmp_path / f"{split}.csv").write_text("\n".join([head, *cleaned]))
    dataset_cache = packed(tmp_path)
    assert len(dataset_cache) == 20 and by_id(dataset_cache)["Images/0/0.png"] == ("happy", "train")
    assert dataset_cache.manifest["left_out"] == {
        "of lists/training.csv, as training.csv lists train": 16,
        "of lists/validation.csv, as validation.csv lists val": 16,
    }
    (tmp_path / "validation.csv").unlink()  # of each split by itself
    assert sorted(split for _, split in by_id(packed(tmp_path)).values()) == (
        ["train"] * 10 + ["val"] * 16
    )


def test_affectnet_s_npy_annotations_are_read(tmp_path):
    for split in ("train_set", "val_set"):
        for number in range(16):
            draw(
                tmp_path / split / "images" / f"{number}.jpg", number + len(split) * 50, mode="RGB"
            )
            (tmp_path / split / "annotations").mkdir(exist_ok=True)
            np.save(
                tmp_path / split / "annotations" / f"{number}_exp.npy", np.array(str(number % 8))
            )
            np.save(tmp_path / split / "annotations" / f"{number}_val.npy", np.array(0.5))
    draw(tmp_path / "train_set" / "images" / "77.jpg", 77)
    dataset_cache = packed(tmp_path)
    assert dataset_cache.manifest["source_kind"] == "AffectNet" and dataset_cache.classes == AFFECT
    assert dataset_cache.manifest["left_out"] == {"without annotation": 1}
    for name, (label, split) in by_id(dataset_cache).items():
        assert label == AFFECT[int(os.path.basename(name).split(".")[0]) % 8]
        assert split == ("train" if name.startswith("train") else "val")
    (tmp_path / "val_set" / "annotations" / "0_exp.npy").write_bytes(b"x")
    with pytest.raises(DataError, match=r"0_exp\.npy: holds no code"):
        packed(tmp_path)


@pytest.fixture
def ckplus(tmp_path):
    root = tmp_path / "ck"
    for person in range(10, 30):
        for sequence, code in ((1, 1 + person % 7), (2, None)):
            stem = f"S{person:03d}_{sequence:03d}"
            for frame in range(1, 7):
                name = f"{stem}_{frame:08d}.png"
                place = root / "cohn-kanade-images" / f"S{person:03d}" / f"{sequence:03d}" / name
                draw(place, person * 100 + sequence * 10 + frame)
            if code is not None:
                label = (
                    root
                    / "Emotion"
                    / f"S{person:03d}"
                    / f"{sequence:03d}"
                    / f"{stem}_{6:08d}_emotion.txt"
                )
                label.parent.mkdir(parents=True)
                label.write_text(f"   {code}.0000000e+00\n")
    return root


CODES = ("neutral", "angry", "contempt", "disgust", "fear", "happy", "sad", "surprise")


@pytest.mark.parametrize(("frames", "neutral"), [(3, False), (1, True)])
def test_ckplus_takes_the_last_frames_and_never_parts_a_person(ckplus, frames, neutral):
    dataset_cache = packed(ckplus, peak_frames=frames, neutral_frames=neutral)
    assert dataset_cache.manifest["source_kind"] == "CK+" and len(dataset_cache) == 20 * (
        frames + neutral
    )
    assert dataset_cache.classes == (CODES if neutral else CODES[1:])
    persons: dict[str, set[str]] = {}
    for name, (label, split) in by_id(dataset_cache).items():
        person, _, frame = os.path.basename(name).split(".")[0].split("_")
        persons.setdefault(person, set()).add(split)
        peak = int(frame) > 6 - frames
        assert label == (CODES[1 + int(person[1:]) % 7] if peak else "neutral")
        assert peak or int(frame) == 1
    assert all(len(splits) == 1 for splits in persons.values())
    assert dataset_cache.manifest["left_out"]["frames of sequences without a label"] == 120


def test_jaffe_is_read_from_its_names(tmp_path):
    codes = {
        "AN": "angry",
        "DI": "disgust",
        "FE": "fear",
        "HA": "happy",
        "NE": "neutral",
        "SA": "sad",
        "SU": "surprise",
    }
    number = 0
    for person in ("KA", "KL", "KM", "KR", "MK", "NA", "NM", "TM", "UY", "YM"):
        for code in codes:
            number += 1
            draw(tmp_path / "jaffe" / f"{person}.{code}{number % 3 + 1}.{number}.tiff", number)
    (tmp_path / "jaffe" / "README").write_text("x")
    draw(tmp_path / "jaffe" / "cover.png", 999)
    dataset_cache = packed(tmp_path / "jaffe")
    assert dataset_cache.manifest["source_kind"] == "JAFFE" and len(dataset_cache) == 70
    assert dataset_cache.manifest["left_out"] == {
        "no image by name": 1,
        "not named as JAFFE names its images": 1,
    }
    splits: dict[str, set[str]] = {}
    for name, (label, split) in by_id(dataset_cache).items():
        person, code, _ = name.split(".")[:3]
        assert label == codes[code[:2]]
        splits.setdefault(person, set()).add(split)
    assert all(len(found) == 1 for found in splits.values())


def test_kdef_is_read_from_its_names_and_both_sessions_are_one_person(tmp_path):
    codes = {
        "AF": "fear",
        "AN": "angry",
        "DI": "disgust",
        "HA": "happy",
        "NE": "neutral",
        "SA": "sad",
        "SU": "surprise",
    }
    number = 0
    for session in "AB":
        for person in ("F01", "F02", "M01", "M02", "M03", "M04"):
            for code in codes:
                number += 1
                draw(
                    tmp_path / f"{session}{person}" / f"{session}{person}{code}S.JPG",
                    number,
                    (30, 40),
                    "RGB",
                )
    dataset_cache = packed(tmp_path)
    assert dataset_cache.manifest["source_kind"] == "KDEF" and len(dataset_cache) == 84
    groups = groups_of(dataset_cache)
    assert groups["AF01/AF01ANS.JPG"] == groups["BF01/BF01SUS.JPG"] != groups["AF02/AF02ANS.JPG"]
    assert all(
        label == codes[name.split("/")[1][4:6]] for name, (label, _) in by_id(dataset_cache).items()
    )


def test_names_that_carry_the_person_group_class_folders_too(tmp_path):
    """CK+48 as Kaggle has it."""
    number = 0
    for name in ("anger", "happy", "fear"):
        for person in range(10, 22):
            for frame in range(3):
                number += 1
                draw(tmp_path / name / f"S{person:03d}_001_{frame:08d}.png", number)
    groups = groups_of(packed(tmp_path))
    assert groups["anger/S010_001_00000000.png"] == groups["fear/S010_001_00000002.png"]
    assert len(set(groups.values())) == 12


def test_a_stray_name_does_not_part_the_persons_of_the_others(tmp_path, caplog):
    """CK+ and KDEF in common class folders, and two names that carry no person."""
    number = 0
    for name, code in (("anger", "AN"), ("happy", "HA")):
        for person in range(10, 16):
            number += 2
            draw(tmp_path / name / f"S{person:03d}_001_{number:08d}.png", number)
            draw(tmp_path / name / f"AF{person}{code}S.JPG", number + 1)
        draw(tmp_path / name / "AF31V.JPG", 100 + number)
    dataset_cache = packed(tmp_path)
    groups = groups_of(dataset_cache)
    assert groups["anger/AF10ANS.JPG"] == groups["happy/AF10HAS.JPG"]
    assert groups["anger/S010_001_00000002.png"] == groups["happy/S010_001_00000014.png"]
    assert groups["anger/AF31V.JPG"] != groups["happy/AF31V.JPG"]
    assert len(set(groups.values())) == 6 + 6 + 2
    said = "the names of 2 of 26 images carry no person"
    assert said in caplog.text
    # Said when the splits are dealt, once; not of a cache that is there, nor where the user names the groups.
    caplog.clear()
    assert packed(tmp_path).path == dataset_cache.path
    packed(tmp_path, group_by=r"(\w+)\.")
    assert not caplog.records


def test_names_without_a_person_are_no_matter_where_the_data_has_its_splits(tmp_path, caplog):
    for place, split in enumerate(("train", "test", "val")):
        for number, name in enumerate(("anger", "happy")):
            draw(tmp_path / split / name / f"S010_001_{place:08d}.png", 10 * place + number)
            draw(tmp_path / split / name / "stray.png", 100 + 10 * place + number)
    packed(tmp_path)
    assert not caplog.records
    shutil.rmtree(tmp_path / "val")  # val is dealt from train's four images
    packed(tmp_path, val_fraction=0.5)
    assert "the names of 2 of 4 images carry no person" in caplog.text


def test_persons_are_numbered_in_the_order_of_their_first_image():
    names = ["a/KA.AN1.39.tiff", "a/S010_001_00000001.png", "b/AF01ANS.JPG", "x.png"]
    persons = find_persons([*names, "b/ka.di2.40.tiff", "b/s010_002_00000001.png", "BF01HAS.JPG"])
    assert persons.numbers_N.tolist() == [0, 1, 2, 3, 0, 1, 2] and persons.unknown == ["x.png"]
    assert find_persons(names) is None  # no person has two images


def test_groups_found_otherwise_make_another_dataset_cache(tmp_path, monkeypatch):
    """As a changed program does, whose rule for persons differs."""
    for number in range(12):
        place = f"{('train', 'val', 'test')[number // 4]}/{('anger', 'happy')[number % 2]}"
        draw(tmp_path / place / f"S{number // 4:03d}_001_{number:08d}.png", number)
    with monkeypatch.context() as patched:
        patched.setattr(folders, "find_persons", lambda names: None)
        before = packed(tmp_path)
    renamed = packed(before.path, classes="happy,anger")
    assert before.groups is None and renamed.groups is None
    found = packed(tmp_path)
    assert len(set(groups_of(found).values())) == 3
    # The source's splits stay, and so does the fingerprint; what is made of the cache has the groups.
    assert found.fingerprint == before.fingerprint
    assert groups_of(packed(found.path, classes="happy,anger")) == groups_of(found)


def test_expw_cuts_each_face_to_its_box_and_keeps_a_picture_s_faces_together(tmp_path):
    lines = []
    for number in range(21):
        draw(tmp_path / "image" / "origin" / f"p_{number}.jpg", number, (80, 60), "RGB")
        lines.append(f"p_{number}.jpg 0 4 10 34 40 33.1 {number % 7}")
        lines.append(f"p_{number}.jpg 1 20 40 60 90 10.0 {(number + 1) % 7}")
    (tmp_path / "label").mkdir()
    (tmp_path / "label" / "label.lst").write_text("\n".join(lines) + "\n")
    dataset_cache = packed(tmp_path, side_px=24)
    assert (
        dataset_cache.manifest["source_kind"] == "ExpW"
        and len(dataset_cache) == 42
        and dataset_cache.classes == NAMES
    )
    groups, found = groups_of(dataset_cache), by_id(dataset_cache)
    assert groups["image/origin/p_3.jpg#0"] == groups["image/origin/p_3.jpg#1"]
    assert found["image/origin/p_3.jpg#1"][0] == NAMES[4]
    table = tmp_path / "label" / "label.lst"
    whole = table.read_text()
    table.write_text(whole + "p_1.jpg 2 inf 500 600 600 1.0 3\n")
    with pytest.raises(DataError, match=r"label\.lst row 43: no row of eight fields"):
        packed(tmp_path, side_px=24)
    table.write_text(whole)
    with table.open("a") as file:
        file.write("p_1.jpg 2 500 500 600 600 1.0 3\n")
    with pytest.raises(DataError, match="lies outside of the picture"):
        packed(tmp_path, side_px=24)


@pytest.mark.parametrize(
    "names",
    [
        ("Train", "Val", "Test"),
        ("Train_Aligned_Faces", "Val_Aligned_Faces", "Test_Aligned_Faces"),
        ("Train_Aligned_Faces", "Val_Aligned_Faces_new", "Test_Aligned_Faces"),
        ("train_set", "validation-set", "test_set"),
    ],
)
def test_sfew_s_folders_are_splits_and_its_test_has_no_labels(tmp_path, names):
    for place, split in enumerate(names[:2]):
        for number, name in enumerate(("Angry", "Happy", "Sad")):
            draw(tmp_path / split / name / f"{place}{number}.png", 10 * place + number)
    draw(tmp_path / names[2] / "unknown.png", 99)
    dataset_cache = packed(tmp_path)
    assert dataset_cache.classes == ("Angry", "Happy", "Sad")
    assert (
        sorted(split for _, split in by_id(dataset_cache).values()) == ["train"] * 3 + ["val"] * 3
    )
    assert dataset_cache.manifest["left_out"] == {"test images without a label": 1}


def test_group_by_reads_the_group_from_the_names(tmp_path):
    for number in range(40):
        draw(
            tmp_path / ("sad" if number % 2 else "happy") / f"film{number // 4}_{number}.png",
            number,
        )
    groups = groups_of(packed(tmp_path, group_by=r"film(\d+)_"))
    assert len(set(groups.values())) == 10
    assert groups["happy/film3_12.png"] == groups["sad/film3_13.png"]
    with pytest.raises(FerError, match=r"--group-by '\(' is no regular expression"):
        packed(tmp_path, group_by="(")
    with pytest.raises(
        DataError,
        match=r"--group-by 'person' is not found in 40 of 40 names, such as happy/film0_0",
    ):
        packed(tmp_path, group_by="person")


def test_links_out_of_the_folder_are_followed_on_request(tmp_path):
    for number in range(20):
        draw(tmp_path / "store" / f"{number}.png", number)
        link = tmp_path / "data" / ("sad" if number % 2 else "happy") / f"{number}.png"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(tmp_path / "store" / f"{number}.png")
    with pytest.raises(DataError, match="--follow-links reads it"):
        packed(tmp_path / "data")
    assert len(packed(tmp_path / "data", follow_links=True)) == 20


def move_out(place, outside):
    """A file or folder lies elsewhere, and a link in its place."""
    outside.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(place, outside)
    place.symlink_to(outside)


def test_linked_sessions_and_files_of_kdef_are_refused_or_followed(tmp_path):
    root = tmp_path / "KDEF"
    for number in range(12):
        session = f"AF0{number // 3}"
        draw(root / session / f"{session}{('AN', 'HA', 'SA')[number % 3]}S.JPG", number)
    move_out(root / "AF03", tmp_path / "store" / "AF03")
    move_out(root / "AF00" / "AF00ANS.JPG", tmp_path / "store" / "AF00ANS.JPG")
    (root / "AF01" / "up").symlink_to("..")
    (root / "AF01" / "itself.JPG").symlink_to("itself.JPG")
    with pytest.raises(
        DataError,
        match=r"2 of the images .*\(AF03: leads outside .*; AF00/AF00ANS.JPG: leads outside",
    ):
        packed(root)
    assert len(packed(root, bad_images="skip")) == 8
    found = packed(root, follow_links=True)
    assert len(found) == 12 and len(set(groups_of(found).values())) == 4


def test_linked_images_of_lists_are_refused_or_followed(raf, tmp_path):
    aligned = raf / "Image" / "aligned"
    move_out(aligned / "train_00001_aligned.jpg", tmp_path / "store" / "one.jpg")
    with pytest.raises(DataError, match=r"\(Image/aligned/train_00001_aligned.jpg: leads outside"):
        packed(raf)
    assert len(packed(raf, bad_images="skip")) == 27
    assert len(packed(raf, follow_links=True)) == 28
    move_out(raf / "Image", tmp_path / "all")
    with pytest.raises(DataError, match=r"none of the images .*; Image leads outside the data"):
        packed(raf)
    assert len(packed(raf, follow_links=True)) == 28


@pytest.mark.parametrize("follow", [True, False])
def test_the_facts_of_listed_files_are_those_of_the_faces_that_are_left(tmp_path, follow):
    for number, name in enumerate(("set/a.png", "set/b.png", "elsewhere/c.png")):
        draw(tmp_path / name, number)
    (tmp_path / "set" / "inside.png").symlink_to("a.png")
    (tmp_path / "set" / "outside.png").symlink_to(tmp_path / "elsewhere" / "c.png")
    names = ["a.png", "outside.png", "missing.png", "inside.png", "../elsewhere/c.png", "b.png"]
    faces = [ListedFace(name, "sad") for name in names]
    listing = Listing(tmp_path / "set", ("sad",), faces=faces, follow_links=follow)
    facts_N5 = listing.refuse_links_out()
    left = [face.file for face in listing.faces]
    assert left == (names if follow else ["a.png", "missing.png", "inside.png", "b.png"])
    for file, facts in zip(left, facts_N5.tolist(), strict=True):
        path = tmp_path / "set" / file
        found = path.stat() if path.exists() else None
        assert facts[:3] == ([found.st_dev, found.st_ino, found.st_size] if found else [0, 0, 0])


def test_a_linked_folder_of_images_is_refused_or_followed(ckplus, tmp_path):
    count = len(packed(ckplus))
    move_out(ckplus / "cohn-kanade-images", tmp_path / "store")
    with pytest.raises(DataError, match=r"1 can't be used, such as cohn-kanade-images: leads outs"):
        packed(ckplus)
    assert len(packed(ckplus, follow_links=True)) == count


def test_a_list_with_a_zero_byte_in_a_name_is_one_sentence(tmp_path):
    for number in range(14):
        draw(tmp_path / "image" / f"{number}.png", number)
    rows = [f"{number}.png 0 0 0 20 20 9.0 {number % 7}" for number in range(14)]
    (tmp_path / "label.lst").write_text("\n".join([*rows, "a\0/b.png 0 0 0 9 9 9.0 1"]))
    with pytest.raises(DataError, match="1 of the images"):
        packed(tmp_path)
    assert len(packed(tmp_path, bad_images="skip")) == 14


@pytest.mark.parametrize("kind", ["AffectNet", "ExpW"])
def test_the_first_images_of_a_list_may_be_missing(tmp_path, kind):
    names = [f"{number}.png" for number in range(20)]
    for number in range(3, 20):
        draw(tmp_path / "images" / names[number], number)
    if kind == "ExpW":
        rows = [f"{name} 0 0 0 20 20 9.0 {number % 7}" for number, name in enumerate(names)]
        (tmp_path / "label.lst").write_text("\n".join(rows))
    else:
        rows = [f"{name},{number % 7}" for number, name in enumerate(names)]
        (tmp_path / "training.csv").write_text(
            "\n".join(["subDirectory_filePath,expression", *rows])
        )
    with pytest.raises(DataError, match="3 of the images"):
        packed(tmp_path)
    found = packed(tmp_path, bad_images="skip")
    assert found.manifest["source_kind"] == kind and len(found) == 17
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(DataError, match=r"0\.png and the images after it .*unpack the images"):
        packed(tmp_path)


@pytest.mark.parametrize(
    ("layout", "words"),
    [("ckplus", "cohn-kanade-images"), ("jaffe", "KA.AN1.39.tiff"), ("csv", "fer2013.csv")],
)
def test_a_layout_that_the_data_has_not_is_refused(tmp_path, layout, words):
    numbered_folders(tmp_path, ["happy", "sad"])
    with pytest.raises(DataError, match=words):
        packed(tmp_path, layout=layout)


def test_a_folder_that_can_t_be_listed_is_no_folder_without_images(ckplus, monkeypatch):
    scandir = os.scandir

    def refused(path):
        if os.path.basename(os.fsdecode(path)) == "S010":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(DataError, match=r"S010: can't be listed \(Permission denied\); check"):
        packed(ckplus)


def test_the_group_is_the_part_of_the_expression_that_takes_part():
    def groups(names, pattern):
        samples = Samples(
            classes=("a", "b"),
            ids=names,
            labels_N=np.zeros(len(names), dtype=np.int64),
            splits_N=np.zeros(len(names), dtype=np.uint8),
        )
        return with_groups(samples, pattern).groups_N.tolist()

    assert groups([b"film7_1", b"S12_1", b"S12_2"], r"film(\d+)|S(\d+)") == [1, 0, 0]
    assert groups([b"film7_1", b"film7_2"], r"film\d") == [0, 0]
    with pytest.raises(DataError, match="is not found in 1 of 2 names, such as film_1"):
        groups([b"film7_1", b"film_1"], r"film(\d+)?")
