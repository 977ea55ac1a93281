"""--data A --data B: several data sets as one."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_ignite import build_session, evaluate, train
from fer_ignite.config import check
from fer_ignite.data.cache.format import open_cache
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
