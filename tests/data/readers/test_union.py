"""--data A --data B: several data sets as one."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_ignite import build_session, evaluate, train
from fer_ignite.config import check
from fer_ignite.data.cache import face_files
from fer_ignite.data.cache.format import describe, open_cache
from fer_ignite.data.cache.lookup import open_or_build
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.data.drawn_faces import DEMO_CLASSES, draw_faces
from fer_ignite.data.readers.find import split_sources
from fer_ignite.errors import ConfigError, DataError
from fer_ignite.training.events import StepEvents


@pytest.fixture
def folder(tmp_path):
    """train, val and test of class folders: other names for two classes, one more class, 60 px, colour."""
    names = {**dict.fromkeys(DEMO_CLASSES), "angry": "Anger", "happy": "happiness"}
    pixels, labels = draw_faces(140, seed=5)
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        name = names[DEMO_CLASSES[label]] or DEMO_CLASSES[label]
        split = ("train", "val", "test")[0 if number < 70 else 1 + number % 2]
        place = tmp_path / "set" / split / ("contempt" if number % 23 == 3 else name)
        place.mkdir(parents=True, exist_ok=True)
        gray = np.asarray(image).squeeze()
        Image.fromarray(np.stack([gray, gray // 2, gray], axis=2)).resize((60, 60)).save(
            place / f"{number}.png"
        )
    return tmp_path / "set"


def dataset_cache(data, **options):
    return open_cache(open_or_build(CacheSpec(data=data, **options)))


def test_images_that_memory_can_t_hold_are_refused_before_they_are_read(monkeypatch):
    cache = dataset_cache("demo:140")
    assert cache.decoded_bytes == 140 * 48 * 48
    monkeypatch.setattr("fer_ignite.data.readers.find.usable_memory", lambda: 600_000)
    with pytest.raises(DataError, match=r"0\.000647 GB of memory.*there are 0\.0006 GB; give a"):
        dataset_cache("demo:140,demo:141")


def test_names_of_several(tmp_path, monkeypatch):
    assert split_sources("demo") == ("demo",)
    assert split_sources("a, b.csv") == ("a", "b.csv")
    monkeypatch.chdir(tmp_path)
    Path("x,y.csv").touch()
    assert split_sources("x,y.csv") == ("x,y.csv",)
    with pytest.raises(DataError, match="no name"):
        split_sources("a,,b")
    assert check({"data": ("a", "b")}).data == check({"data": ["a", "b"]}).data == "a,b"


def test_the_union_has_all_faces_in_their_own_splits_under_the_first_one_s_classes(folder):
    first, second = dataset_cache("demo:140"), dataset_cache(str(folder))
    union = dataset_cache(f"demo:140,{folder}")
    assert union.classes == (*DEMO_CLASSES, "contempt")
    assert (union.channels, union.height) == (1, 48)  # the smaller side, and gray as one of them is
    assert len(union) == len(first) + len(second) == 280
    for split in range(3):
        counts = [int((np.array(p.splits) == split).sum()) for p in (first, second, union)]
        assert counts[0] + counts[1] == counts[2]
    names = [union.sample_id(place) for place in range(len(union))]
    assert sum(name.startswith("1/") for name in names) == 140
    assert np.array_equal(union.read(np.arange(140)), first.read(np.arange(140)))
    for name, label in zip(names, np.array(union.labels), strict=True):
        if "Anger" in name:
            assert union.classes[label] == "angry"
    assert dataset_cache(f"demo:140,{folder}").fingerprint == union.fingerprint
    chosen = dataset_cache(f"demo:140,{folder}", classes="angry,happy")
    assert chosen.classes == ("angry", "happy")


def test_a_run_on_two_data_sets_from_the_command_line(cli, tiny_flags, folder):
    said = cli("train", *tiny_flags[2:], "--data", "demo:140", "--data", folder)
    assert said.code == 0, said.err
    summary = json.loads((said.folder / "runs" / "run" / "summary.json").read_text())
    assert sum(summary["data"]["counts"].values()) == 280
    assert cli("evaluate", "runs/run", "--tta", "none").code == 0
    alone = cli("evaluate", "runs/run", "--data", folder, "--tta", "none", "--json", "-")
    assert alone.code == 0 and json.loads(alone.out)["n"] == 35


def test_weights_scale_the_loss_of_each_set_s_faces(tiny, folder):
    seen = []

    def watch(session):
        @session.trainer.on(StepEvents.LOSS_READY)
        def note(engine):
            batch, faces = engine.state.batch, session.dataset
            sets = [faces.image_id(int(place))[0] for place in batch.indices_B]
            seen.extend(zip(sets, batch.weights_B.tolist(), strict=True))

    with build_session(
        tiny(data=f"demo:140,{folder}", data_weights=(1, 0.25), epochs=1), handlers=[watch]
    ) as session:
        session.run()
    weights = {name: {w for s, w in seen if s == name} for name in "12"}
    (first,), (second,) = weights["1"], weights["2"]
    assert second == pytest.approx(first / 4)
    assert np.mean([w for _, w in seen]) == pytest.approx(1, abs=1e-5)


def test_what_does_not_go_together_is_refused(tiny, folder, cli, tiny_flags):
    with pytest.raises(ConfigError, match="--data-weights has 3 numbers, and --data 2"):
        train(tiny(data=f"demo:140,{folder}", data_weights=(1, 1, 1)))
    with pytest.raises(ConfigError, match="data_weights"):
        check({"data_weights": (1, 0)})
    with pytest.raises(ConfigError, match="own class"):
        train(tiny(data="demo:140,mine:Faces"))
    said = cli("train", *tiny_flags[2:], "--data", "demo:140", "--data", "nowhere")
    assert said.code == 2 and "nowhere" in said.err
    with pytest.raises(DataError, match="numbers"):
        for name in ("1", "2"):
            (folder.parent / "numbers" / "train" / name).mkdir(parents=True)
            Image.new("L", (48, 48)).save(
                folder.parent / "numbers" / "train" / name / f"{name}.png"
            )
        dataset_cache(f"demo:140,{folder.parent / 'numbers'}")


def class_folders(root, classes, count=6, side=48, mode="L", first=0):
    """Class folders of pictures of their own; classes with a slash are split/class."""
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for place in range(count):
            rng = np.random.default_rng([first, number, place])
            pixels = rng.integers(0, 256, size=(side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / name / f"film{place}_{number}.png")
    return root


def test_numbers_beside_names_are_named_by_the_layout_or_by_classes(tmp_path):
    raf = class_folders(tmp_path / "raf", [str(number) for number in range(1, 8)], count=3)
    listed = "".join(f"raf/{n % 7 + 1}/film{n // 7}_{n % 7}.png,{n % 7 + 1}\n" for n in range(21))
    (tmp_path / "numbers.csv").write_text("path,label\n" + listed)
    table = tmp_path / "fer2013.csv"
    face = " ".join(["7"] * 2304)
    rows = [f"{n % 7},{n} {face[2:]},{('Training', 'PublicTest')[n // 14]}" for n in range(21)]
    table.write_text("\n".join(["emotion,pixels,Usage", *rows]))
    for numbered, count in ((raf, 21), (tmp_path / "numbers.csv", 21)):
        with pytest.raises(DataError, match=r"data set 2 are numbers .*angry=angry\+1"):
            dataset_cache(f"{table},{numbered}")
        named = dataset_cache(f"{table},{numbered}", layout="rafdb")
        assert set(named.classes) == set(DEMO_CLASSES) and len(named) == 21 + count
        assert np.bincount(named.labels).tolist() == [3 + count // 7] * 7
        chosen = dataset_cache(f"{table},{numbered}", classes="happy=happy+4,sad=sad+5")
        assert np.bincount(chosen.labels).tolist() == [3 + count // 7] * 2
    cached = dataset_cache(str(raf)).path  # its classes are numbers
    with pytest.raises(DataError, match="data set 2 are numbers"):
        dataset_cache(f"{table},{cached}")
    named = dataset_cache(f"{table},{cached}", layout="rafdb")
    assert np.bincount(named.labels).tolist() == [6] * 7 and set(named.classes) == set(DEMO_CLASSES)
    alone = dataset_cache(str(tmp_path / "numbers.csv"), layout="rafdb")
    assert set(alone.classes) == set(DEMO_CLASSES)
    with pytest.raises(DataError, match="is a file; name the folder"):
        dataset_cache(str(table), layout="rafdb")


def test_parts_may_differ_in_classes_when_the_user_names_those_of_the_union(tmp_path):
    uneven = class_folders(
        tmp_path / "uneven", ["train/angry", "train/happy", "train/contempt", "test/angry"]
    )
    even = class_folders(tmp_path / "even", ["angry", "happy"], first=1)
    with pytest.raises(DataError, match="name the classes that are meant with --classes"):
        dataset_cache(f"{uneven},{even}")
    union = dataset_cache(f"{uneven},{even}", classes="angry,happy")
    assert np.bincount(union.labels).tolist() == [18, 12]


def test_shares_of_the_splits_hold_for_each_part_and_are_refused_where_one_has_splits(tmp_path):
    roots = [
        class_folders(tmp_path / name, ["angry", "sad"], count=10, side=side, first=side)
        for name, side in (("a", 48), ("b", 32))
    ]
    union = dataset_cache(f"{roots[0]},{roots[1]}", split=(0.5, 0.25, 0.25))
    assert np.bincount(union.splits).tolist() == [20, 10, 10]
    cached = dataset_cache(str(roots[1])).path
    for data in (f"{roots[0]},{cached}", str(cached)):
        with pytest.raises(DataError, match="drop --split"):
            dataset_cache(data, split=(0.5, 0.25, 0.25))


def test_skipped_images_of_the_parts_are_listed_under_their_names_in_the_union(tmp_path):
    roots = [class_folders(tmp_path / name, ["angry", "happy"]) for name in "ab"]
    for root in roots:
        (root / "angry" / "broken.png").write_bytes(b"x")
    union = dataset_cache(f"{roots[0]},{roots[1]}", bad_images="skip")
    named = [text.partition(": ")[0] for text in union.manifest["skipped"]]
    assert named == ["1/angry/broken.png", "2/angry/broken.png"]
    assert "skipped: 2 that can't be read" in describe(union)
    renamed = dataset_cache(str(union.path), classes="happy,angry")
    assert renamed.manifest["skipped"] == union.manifest["skipped"]


def test_groups_and_cut_out_faces_are_those_of_the_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(
        face_files, "_face_cropper", lambda: lambda rgb: np.ascontiguousarray(rgb[8:40, 8:40])
    )
    roots = [class_folders(tmp_path / name, ["angry", "happy"], side=64) for name in "ab"]
    union = dataset_cache(f"{roots[0]},{roots[1]}", crop_faces=True, group_by=r"^[a-z]+/film(\d)")
    assert (len(union), union.height) == (24, 32) and len(set(union.groups.tolist())) == 12
    with pytest.raises(DataError, match=r"--crop-faces: demo:70 holds .*pack photographs that"):
        dataset_cache(f"{roots[0]},demo:70", crop_faces=True)


def test_a_dataset_cache_of_another_side_and_colour_is_joined(tmp_path):
    large = dataset_cache(str(class_folders(tmp_path / "a", ["angry", "sad"], side=64, mode="RGB")))
    assert (large.height, large.channels) == (64, 3)
    union = dataset_cache(f"{large.path},demo:140")
    assert (len(union), union.height, union.channels) == (152, 48, 1)


def test_a_folder_that_looks_like_a_user_s_class_is_joined(tmp_path, monkeypatch):
    class_folders(tmp_path / "my:Faces", ["angry", "happy"])
    monkeypatch.chdir(tmp_path)
    assert len(dataset_cache("my:Faces,demo:70")) == 82
    with pytest.raises(ConfigError, match="a data set of your own class can't be joined"):
        dataset_cache("other:Faces,demo:70")


def test_a_path_with_a_comma_among_several_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a,b").mkdir()
    assert check({"data": ["a,b"]}).data == "a,b"
    with pytest.raises(ConfigError, match=r"needs several .*'a,b' has one"):
        check({"data": ["a,b", "c"]})
    assert check({"data": ["a,x", "c"]}).data == "a,x,c"  # no such path: two data sets


@pytest.mark.slow
def test_two_processes_weigh_as_one_does(tiny, folder):
    losses = []
    for nproc in (1, 2):
        summary = train(
            tiny(
                data=f"demo:140,{folder}",
                data_weights=(1, 0.25),
                model_args={"widths": [8, 8], "blocks": [0, 0]},
                norm="group",
                epochs=2,
                name=str(nproc),
            ),
            nproc=nproc,
        )
        lines = Path(summary["folder"], "history.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["val_loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert evaluate(summary["folder"], quiet=True, tta="none")["n"] > 14
