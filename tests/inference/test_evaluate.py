import copy
import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from fer_ignite import evaluate, load_model, predict, train
from fer_ignite.checkpoint.format import load_checkpoint, write_checkpoint
from fer_ignite.checkpoint.run_dir import RunDir
from fer_ignite.config import check
from fer_ignite.data.cache.format import open_cache
from fer_ignite.data.cache.lookup import open_or_build
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.data.classes import match_classes
from fer_ignite.data.drawn_faces import DEMO_CLASSES, draw_faces
from fer_ignite.data.expressions import FERPLUS_COLUMNS, find_expression
from fer_ignite.data.loader import Targets
from fer_ignite.data.open import find_cache, open_dataset
from fer_ignite.data.shards.shard_writer import write_shards
from fer_ignite.errors import CheckpointError, ConfigError, DataError, FerError, NonFiniteError
from fer_ignite.inference.comparison import compare
from fer_ignite.inference.evaluation_data import remap_targets
from fer_ignite.inference.loaded_model import find_run_dir, predict_probabilities
from fer_ignite.inference.request import EvaluateRequest, evaluation_config
from fer_ignite.models import build_model


@pytest.fixture(scope="module")
def best(finished_run):
    return finished_run / "checkpoints" / "best.pt"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Class folders val/<name>/ of drawn faces: (names, **rename) -> root."""

    def make(classes=DEMO_CLASSES, **rename):
        root = tmp_path_factory.mktemp("data")
        pixels, labels = draw_faces(28, seed=9)
        for role in ("train", "val", "test"):
            for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
                name = DEMO_CLASSES[label]
                if name in classes:
                    folder = root / role / rename.get(name, name)
                    folder.mkdir(parents=True, exist_ok=True)
                    noisy = np.asarray(image).squeeze().copy()
                    noisy[0, 0] = {"train": 1, "val": 2, "test": 3}[role]
                    Image.fromarray(noisy).save(folder / f"{i}.png")
        return root

    return make


def test_other_data_is_resized_as_the_faces_of_the_training_were():
    """A dataset cache as the run's data has a mode of its own, which its setting does not say."""
    checkpoint = {
        "config": check({"data": "a/pack"}).model_dump(mode="json"),
        "preprocessing": {"channels": 1, "resize_mode": "crop"},
    }
    for data, mode in (("photos", "crop"), ("a/pack", "squash")):
        request = EvaluateRequest(checkpoint="best.pt", data=data)
        assert evaluation_config(request, checkpoint).resize_mode == mode


def test_other_data_is_read_by_the_defaults_and_other_votes_replace_the_labels():
    reading = {"crop_faces": True, "peak_frames": 1, "neutral_frames": True}
    labels = {"data": "own.csv,more", "votes": "votes.csv", "vote_weight": 0.3}
    settings = {**labels, **reading, "follow_links": True}
    checkpoint = {
        "config": check(settings).model_dump(mode="json"),
        "preprocessing": {"channels": 1, "resize_mode": "squash"},
    }
    defaults = check({})
    for given in ({}, {"votes": "other.csv"}):
        request = EvaluateRequest(checkpoint="best.pt", data="photos", **given)
        config = evaluation_config(request, checkpoint)
        assert config.votes == given.get("votes") and config.vote_weight is None
        assert all(getattr(config, name) == getattr(defaults, name) for name in reading)
        assert config.follow_links  # a permission, for which evaluate has no flag
    part = evaluation_config(EvaluateRequest(checkpoint="best.pt", data="more"), checkpoint)
    assert part.crop_faces and part.votes is None
    own = evaluation_config(EvaluateRequest(checkpoint="best.pt"), checkpoint)
    assert own.vote_weight == 0.3 and own.crop_faces
    relabelled = EvaluateRequest(checkpoint="best.pt", votes="other.csv")
    assert evaluation_config(relabelled, checkpoint).vote_weight is None


@pytest.mark.slow
def test_evaluation_repeats_what_the_run_itself_measured(finished_run, best):
    summary = json.loads((finished_run / "summary.json").read_text())
    found = evaluate(best, quiet=True)
    for name in ("n", "loss", "accuracy", "uar", "macro_f1", "tta"):
        assert found[name] == pytest.approx(summary["val"][name], abs=1e-7), name
    assert np.array(found["confusion_matrix"]).sum() == 70


def test_a_checkpoint_that_was_copied_away_needs_no_other_file(best, tmp_path):
    copied = shutil.copy(best, tmp_path / "mine.pt")
    assert find_run_dir(copied) is None and find_run_dir(best) is not None
    assert evaluate(copied, quiet=True, tta="none")["n"] == 70


@pytest.mark.slow
def test_batch_size_does_not_change_the_counts(best):
    counts = [
        evaluate(best, quiet=True, batch_size=size, tta="none")["confusion_matrix"]
        for size in (3, 512)
    ]
    assert counts[0] == counts[1]


def test_a_network_gives_probabilities_for_faces_of_any_size(best):
    network = load_model(best)
    assert network.classes == DEMO_CLASSES and not network.model.training
    for side in (48, 96, 20):
        probabilities_BK = network.probabilities(torch.zeros(2, side, side, 1, dtype=torch.uint8))
        assert probabilities_BK.shape == (2, 7) and torch.allclose(
            probabilities_BK.sum(1), torch.ones(2)
        )


@pytest.mark.slow
@pytest.mark.parametrize("stored", [2.0**100, 1e-6, 20.0, 0.05, None])
def test_labels_come_from_the_logits_whatever_temperature_a_file_holds(best, tmp_path, stored):
    """Evaluation, prediction, comparison and the network itself name the same expression for every face."""
    content = load_checkpoint(best)
    content.pop("temperature")
    if stored is not None:
        content["temperature"] = stored
    path = tmp_path / "other.pt"
    with path.open("wb") as file:
        write_checkpoint(content, file)
    before, after = (
        evaluate(best, quiet=True, with_faces=True),
        evaluate(path, quiet=True, with_faces=True),
    )
    assert after["confusion_matrix"] == before["confusion_matrix"]
    usable = stored in (20.0, 0.05)
    assert (after["temperature"], after["calibrated"]) == (
        (stored, True) if usable else (1.0, False)
    )
    pixels, _ = draw_faces(40, seed=7)
    files = [tmp_path / f"{i}.png" for i in range(40)]
    for file, pixels_HWC in zip(files, pixels, strict=True):
        Image.fromarray(pixels_HWC.squeeze()).save(file)
    one, other = (
        [prediction.top for prediction in predict(name, files, topk=7)] for name in (best, path)
    )
    assert [top[0][0] for top in one] == [top[0][0] for top in other]
    assert all(
        np.isfinite([share for _, share in top]).all() and top[0][1] > 1 / 7 for top in other
    )
    assert compare(best, path, quiet=True)["difference"] == 0


def test_the_largest_probability_is_at_the_largest_logit_where_rounding_makes_two_equal():
    logits_BK = torch.tensor(
        [[0.5, 0.5 + 1e-7, 0.0], [0.0, 1.0, 2.0], [-1e4, 0.0, 1e4], [3.0, 3.0, 3.0]]
    )
    for temperature in (0.05, 1.0, 20.0):
        probabilities_BK = predict_probabilities(logits_BK, temperature)
        assert (
            probabilities_BK.argmax(dim=1).tolist()
            == logits_BK.argmax(dim=1).tolist()
            == [1, 2, 2, 0]
        )
        assert torch.allclose(probabilities_BK.sum(dim=1), torch.ones(4))


def diverged(best, tmp_path):
    content = load_checkpoint(best)
    for part in ("model", "ema"):
        for value in (content.get(part) or {}).values():
            value.fill_(float("nan")) if value.is_floating_point() else None
    path = tmp_path / "diverged.pt"
    with path.open("wb") as file:
        write_checkpoint(content, file)
    return path


def test_a_network_without_finite_outputs_is_neither_scored_nor_used(best, tmp_path):
    path = diverged(best, tmp_path)
    with pytest.raises(NonFiniteError, match=r"not finite.*use an earlier checkpoint"):
        evaluate(path, quiet=True)
    with pytest.raises(NonFiniteError, match="not finite"):
        load_model(path, device="cpu").probabilities(torch.zeros(2, 48, 48, 1, dtype=torch.uint8))


def test_prediction_agrees_with_evaluation(best, tmp_path):
    """The same faces as files: read, prepared and scored as the pack's are."""
    pixels, _labels = draw_faces(21, seed=3)
    files = []
    for i, image in enumerate(pixels):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(image.squeeze()).save(files[-1])
    network = load_model(best)
    direct = network.probabilities(torch.from_numpy(pixels.reshape(21, 48, 48, 1)), tta="flip")
    found = list(predict(network, files, topk=1, batch_size=4, tta="flip"))
    assert [prediction.top[0][0] for prediction in found] == [
        DEMO_CLASSES[k] for k in direct.argmax(1)
    ]
    assert [prediction.top[0][1] for prediction in found] == pytest.approx(
        direct.max(1).values.tolist(), abs=1e-5
    )


def test_a_file_that_can_t_be_read_has_its_reason(best, tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    (found,) = predict(best, [tmp_path / "x.png"])
    assert found.top == () and "x.png" in found.error


def test_vote_shares_of_unknown_classes_are_left_out_and_the_others_renormalised():
    match = match_classes(("sad", "contempt", "joy"), ("angry", "happy", "sad"))
    soft_NK = np.array([[0.5, 0.5, 0.0], [0.2, 0.4, 0.4]], dtype=np.float32)
    mapped = remap_targets(Targets(np.array([0, 2]), 3, soft_NK), match)
    assert mapped.labels_N.tolist() == [2, 1]
    np.testing.assert_allclose(mapped.soft_NK, [[0, 0, 1], [0, 2 / 3, 1 / 3]], atol=1e-6)


def test_other_data_is_scored_by_name_where_its_classes_are_the_same(best, folders):
    found = evaluate(best, data=str(folders()), quiet=True)
    assert found["n"] == 28 and found["class_names"] == list(DEMO_CLASSES)


def test_unusable_images_of_other_data_are_left_out_by_the_flag_that_the_error_names(best, folders):
    root = folders()
    next((root / "val").rglob("*.png")).write_bytes(b"no image")
    with pytest.raises(FerError, match="--bad-images skip"):
        evaluate(best, data=str(root), quiet=True)
    assert evaluate(best, data=str(root), bad_images="skip", quiet=True)["n"] == 27


def test_other_words_for_the_same_expressions_give_the_same_scores(best, folders):
    words = {"angry": "anger", "happy": "1_Happiness", "sad": "悲しみ", "fear": "AFRAID"}
    plain, renamed = (
        evaluate(best, data=str(folders(**names)), quiet=True) for names in ({}, words)
    )
    assert renamed["accuracy"] == plain["accuracy"]
    assert renamed["loss"] == pytest.approx(plain["loss"], abs=1e-5)
    assert renamed["renamed"] == "1_Happiness = happy, AFRAID = fear, anger = angry, 悲しみ = sad"


def test_classes_that_the_network_does_not_know_are_an_error_that_names_the_flag(best, folders):
    with pytest.raises(FerError, match=r"doesn't know: gloomy .*--unknown-classes drop.*--classes"):
        evaluate(best, data=str(folders(sad="gloomy")), quiet=True)
    found = evaluate(best, data=str(folders(sad="gloomy")), unknown_classes="drop", quiet=True)
    assert found["n"] == 24 and found["dropped"] == {"gloomy": 4} and found["absent"] == ["sad"]
    named = evaluate(
        best,
        data=str(folders(sad="gloomy")),
        classes=",".join(name if name != "sad" else "sad=gloomy" for name in DEMO_CLASSES),
        quiet=True,
    )
    assert named["n"] == 28 and named["dropped"] == {}


def test_classes_that_the_data_lacks_do_not_count_in_the_means(best, folders):
    """Scores over the classes present; --restrict-classes also keeps the network from naming the others."""
    root = str(folders(classes=DEMO_CLASSES[:3]))
    found = evaluate(best, data=root, quiet=True)
    assert found["n"] == 12 and found["absent"] == list(DEMO_CLASSES[3:])
    recalls = [found["per_class"][name]["recall"] for name in DEMO_CLASSES[:3]]
    assert found["uar"] == pytest.approx(sum(recalls) / 3)
    narrow = evaluate(best, data=root, restrict_classes=True, with_faces=True, quiet=True)
    matrix = np.array(narrow["confusion_matrix"])
    assert matrix[:, 3:].sum() == 0 and matrix.sum() == 12
    probabilities_NK = torch.tensor(narrow["faces"]["logits"]).exp()
    np.testing.assert_allclose(probabilities_NK.sum(dim=1), 1, atol=1e-5)
    assert narrow["accuracy"] >= found["accuracy"] and narrow["loss"] < found["loss"]


def test_numbered_folders_are_refused_by_a_network_of_named_classes(best, folders):
    numbers = {name: str(place) for place, name in enumerate(DEMO_CLASSES)}
    root = str(folders(**numbers))
    with pytest.raises(FerError, match=r"classes are numbers .* --layout rafdb\|fer2013"):
        evaluate(best, data=root, quiet=True)
    named = evaluate(
        best, data=root, classes=",".join(f"{name}={n}" for name, n in numbers.items()), quiet=True
    )
    assert named["accuracy"] == evaluate(best, data=str(folders()), quiet=True)["accuracy"]


def test_all_splits_together_and_a_csv_of_every_face(best, folders, tmp_path, cli):
    root = folders()
    found = evaluate(best, data=str(root), split="all", quiet=True)
    assert found["n"] == 84
    result = cli(
        "evaluate", best, "--data", root, "--split", "all", "--predictions", tmp_path / "p.csv"
    )
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text(encoding="utf-8").splitlines()))
    assert result.code == 0 and len(rows) == 84
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    assert all(row["id"].startswith(f"{row['split']}/{row['label']}/") for row in rows)
    hits = sum(row["label"] == row["predicted"] for row in rows)
    assert hits / 84 == pytest.approx(found["accuracy"])
    shares = [float(rows[0][f"p_{name}"]) for name in DEMO_CLASSES]
    assert sum(shares) == pytest.approx(1, abs=1e-4)
    assert DEMO_CLASSES[int(np.argmax(shares))] == rows[0]["predicted"]


def test_several_checkpoints_and_data_sets_give_one_table(best, finished_run, folders, cli):
    one, other = folders(), folders(sad="sadness")
    result = cli("evaluate", best, finished_run, "--data", one, "--data", other, "--json", "t.json")
    assert result.code == 0
    head, *rows = [line for line in result.out.splitlines() if line.strip()][:3]
    assert head.startswith("accuracy % (UAR %)") and len(rows) == 2
    content = json.loads((result.folder / "t.json").read_text())["results"]
    assert len(content) == 4 and len({entry["accuracy"] for entry in content}) == 1
    assert "sadness = sad" in result.out
    refused = cli("evaluate", best, "--data", one, "--data", other, "--plot", "x.png")
    assert refused.code == 2 and "one checkpoint on one data set" in refused.err


def test_a_run_s_folder_stands_for_its_best_checkpoint(best, finished_run):
    assert load_model(finished_run).checkpoint["trainer"] == load_model(best).checkpoint["trainer"]
    assert evaluate(finished_run, quiet=True)["accuracy"] == evaluate(best, quiet=True)["accuracy"]


def test_a_look_at_another_data_set_s_test_is_not_counted(tiny, tmp_path, folders):
    train(tiny(epochs=1))
    run = RunDir(tmp_path / "run")
    before = run.test_evaluations()
    assert "test_evaluations" not in evaluate(
        run.path, data=str(folders()), split="test", quiet=True
    )
    assert run.test_evaluations() == before
    assert evaluate(run.path, split="test", quiet=True)["test_evaluations"] == before + 1


def test_all_of_the_run_s_own_data_is_a_look_at_test(tiny, tmp_path):
    train(tiny(epochs=1))
    run = RunDir(tmp_path / "run")
    before = run.test_evaluations()
    found = evaluate(run.path, split="all", quiet=True)
    assert found["test_evaluations"] == before + 1
    assert run.read_test_accesses()[-1]["split"] == "all"
    assert "all holds the images that the network was trained on" in found["warning"]
    assert "test_evaluations" not in evaluate(run.path, split="train", quiet=True)


def test_one_of_the_data_sets_of_a_run_is_its_own_data(tiny, tmp_path):
    train(tiny(data="demo:140,demo:210", epochs=1))
    run = RunDir(tmp_path / "run")
    before = run.test_evaluations()
    found = evaluate(run.path, data="demo:140", split="all", quiet=True)
    assert found["test_evaluations"] == before + 1
    assert "all holds the images that the network was trained on" in found["warning"]
    found = evaluate(run.path, data="demo:140", split="test", quiet=True)
    assert found["test_evaluations"] == before + 2 and found["warning"] is None


def test_numbers_of_other_data_need_a_confirmation(tiny, tmp_path, folders):
    numbers = {name: str(place) for place, name in enumerate(DEMO_CLASSES)}
    own, other = folders(**numbers), folders(**numbers)
    for image in (other / "test" / "0").iterdir():
        image.unlink()  # else it would be the same data in another place
        break
    train(tiny(data=str(own), epochs=1))
    run, classes = tmp_path / "run", ",".join(numbers.values())
    cache = open_cache(open_or_build(CacheSpec(data=str(other))))
    write_shards(cache, tmp_path / "shards", shard_bytes=1 << 20, source="other")
    for data in (str(other), f"shards:{tmp_path / 'shards'}"):
        with pytest.raises(DataError, match=r"whose meaning may differ .* --classes '0,1,2,3"):
            evaluate(run, data=data, quiet=True)
        assert evaluate(run, data=data, classes=classes, quiet=True)["n"] == 28
    with pytest.raises(DataError, match=r"in shards are read as they are, .*give exactly these"):
        evaluate(run, data=data, classes="0,1", quiet=True)


def test_data_whose_path_looks_like_a_user_s_class_is_data(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my:Faces").mkdir()
    checkpoint = {"config": check({"data": "my:Faces"}).model_dump(mode="json")}
    assert evaluation_config(EvaluateRequest("x.pt"), checkpoint).data == "my:Faces"


def test_a_class_that_is_given_is_for_the_checkpoints_of_such_a_class(best):
    assert load_model(best, model="absent_module:Net").config.model == "fer48"


def test_a_split_that_the_run_chose_on_is_no_test_for_it(best, folders, tmp_path):
    """The same faces, called test in other data."""
    root = tmp_path / "swapped"
    source = folders()
    shutil.copytree(source / "train", root / "train")
    shutil.copytree(source / "val", root / "val")
    shutil.copytree(source / "test", root / "test")
    settings = {
        "data": str(root),
        "epochs": 1,
        "batch_size": 32,
        "model_args": {"widths": [8, 8], "blocks": [0, 0]},
        "quiet": True,
        "out": str(tmp_path / "o"),
        "name": "r",
        "plots": False,
        "tensorboard": False,
        "threads": 1,
    }
    train(check(settings))
    shutil.rmtree(root / "test")
    shutil.copytree(root / "val", root / "test")
    chosen = tmp_path / "o" / "r" / "checkpoints" / "best.pt"
    with pytest.raises(FerError, match=r"--data"):  # the data has changed since the training
        evaluate(chosen, split="test", quiet=True)
    with pytest.raises(FerError, match="chose its best epoch on exactly these faces"):
        evaluate(chosen, split="test", data=str(root), quiet=True)
    assert evaluate(chosen, split="val", data=str(root), quiet=True)["n"] == 28


def test_data_without_the_split_says_what_it_has(best, folders):
    root = folders()
    shutil.rmtree(root / "test")
    with pytest.raises(FerError, match=r"no faces in test.*train 28.*val 28"):
        evaluate(best, data=str(root), split="test", quiet=True)


def test_colour_faces_are_turned_gray_for_a_gray_network(best, folders, tmp_path, cli):
    """From files, and from a pack that holds colour; the same as Pillow's own conversion."""
    root, coloured, gray = folders(), tmp_path / "coloured", tmp_path / "gray"
    for file in root.rglob("*.png"):
        pixels = np.asarray(Image.open(file)).astype(np.int64)
        tinted = np.stack([pixels, pixels * 3 // 4, pixels // 2], axis=2).astype(np.uint8)
        for place, image in (
            (coloured, Image.fromarray(tinted)),
            (gray, Image.fromarray(tinted).convert("L")),
        ):
            target = place / file.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            image.save(target)
    expected = evaluate(best, data=str(gray), quiet=True)
    assert evaluate(best, data=str(coloured), quiet=True)["loss"] == expected["loss"]
    packed = open_or_build(CacheSpec(data=str(coloured)))
    assert open_cache(packed).channels == 3
    assert evaluate(best, data=str(packed), quiet=True)["loss"] == expected["loss"]


def test_what_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"hello")
    for path in (tmp_path / "x.pt", tmp_path / "absent.pt", tmp_path):
        with pytest.raises(CheckpointError, match=path.name[:1]):
            load_model(path)


def test_a_user_s_class_is_never_imported_on_a_file_s_word(tiny, tmp_path, monkeypatch):
    """Row H2: the network, and the data, have to be given again."""
    (tmp_path / "my_net.py").write_text(
        "from torch import nn\nwith open(__file__ + '.imported', 'a') as file:\n    file.write('x')\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes, in_channels):\n"
        "        super().__init__(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * in_channels, num_classes))\n"
    )
    name = f"{tmp_path / 'my_net.py'}:Net"
    train(tiny(model=name, model_args={}, epochs=1))
    seen = (tmp_path / "my_net.py.imported").read_text()
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    with pytest.raises(CheckpointError, match="--model"):
        load_model(best)
    with pytest.raises(FerError, match="--model"):
        evaluate(best, quiet=True)
    assert (tmp_path / "my_net.py.imported").read_text() == seen
    assert evaluate(best, model=name, quiet=True)["n"] == 14
    with pytest.raises(ConfigError, match="--model"):
        train(
            check(
                {"out": str(tmp_path), "name": "run", "epochs": 2, "resume": "auto", "quiet": True}
            )
        )


def test_an_average_of_the_weights_is_what_is_scored(tiny, tmp_path):
    train(tiny(model_ema=True, model_ema_decay=0.5))
    path = tmp_path / "run" / "checkpoints" / "best.pt"
    network = load_model(path)
    stored = network.checkpoint
    plain = copy.deepcopy(network.model)
    plain.load_state_dict(stored["model"])
    average = {
        name: value
        for name, value in network.model.state_dict().items()
        if value.is_floating_point()
    }
    assert any(not torch.equal(value, plain.state_dict()[name]) for name, value in average.items())
    assert all(torch.equal(value, stored["ema"][name]) for name, value in average.items())


@pytest.mark.slow
def test_runs_of_two_folds_are_not_paired(tiny, tmp_path):
    train(tiny(epochs=1, folds=2))
    first, second = (tmp_path / f"run-fold{fold}" / "checkpoints" / "best.pt" for fold in (0, 1))
    with pytest.raises(ConfigError, match="folds"):
        compare(first, second, quiet=True)
    assert compare(first, first, quiet=True)["p"] == 1


def test_a_run_with_roles_that_were_dealt_is_scored_on_data_with_roles_of_its_own(
    tiny, tmp_path, folders
):
    root = folders() / "train"  # class folders without splits
    train(tiny(epochs=1, data=str(root), split=(0.6, 0.2, 0.2)))
    assert (
        evaluate(tmp_path / "run" / "checkpoints" / "best.pt", data="demo:140", quiet=True)["n"]
        == 14
    )


@pytest.fixture(scope="module")
def voted(tmp_path_factory):
    """fer2013.csv of drawn faces, and votes for it that call every angry face sad."""
    folder = tmp_path_factory.mktemp("voted")
    pixels, labels = draw_faces(84, seed=3)
    usages = ["Training"] * 56 + ["PublicTest"] * 14 + ["PrivateTest"] * 14
    rows = [
        f"{k},{' '.join(map(str, image.ravel().tolist()))},{usage}"
        for k, image, usage in zip(labels, pixels, usages, strict=True)
    ]
    (folder / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *rows]) + "\n")
    column_of = {find_expression(name) or name: place for place, name in enumerate(FERPLUS_COLUMNS)}
    lines = [",".join(["Usage", "Image name", *FERPLUS_COLUMNS])]
    for place, (label, usage) in enumerate(zip(labels, usages, strict=True)):
        name = DEMO_CLASSES[label]
        vote_texts = ["0"] * len(FERPLUS_COLUMNS)
        vote_texts[column_of["sad" if name == "angry" else name]] = "10"
        lines.append(",".join([usage, f"fer{place:07d}.png", *vote_texts]))
    (folder / "fer2013new.csv").write_text("\n".join(lines) + "\n")
    return folder / "fer2013.csv", folder / "fer2013new.csv"


def test_a_run_s_own_data_keeps_its_votes_under_any_name(tiny, tmp_path, voted, monkeypatch):
    data, votes = voted
    train(tiny(epochs=1, data=str(data), votes=str(votes)))
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    own = evaluate(best, quiet=True)
    assert own["per_class"]["angry"]["support"] == 0 and "contempt" in own["class_names"]
    monkeypatch.chdir(data.parent)
    again = evaluate(best, data="fer2013.csv", quiet=True)
    assert again["per_class"] == own["per_class"]
    compared = compare(best, best, quiet=True)
    assert compared["n"] == own["n"] and compared["difference"] == 0


def test_votes_without_data_relabel_the_run_s_own(tiny, tmp_path, voted):
    data, votes = voted
    train(tiny(epochs=1, data=str(data)))
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    assert evaluate(best, quiet=True)["per_class"]["angry"]["support"] == 2
    relabelled = evaluate(best, votes=str(votes), quiet=True)
    # eight classes, of which no face has the one that the network doesn't know
    assert relabelled["dropped"] == {} and len(relabelled["class_names"]) == 7


def test_faces_that_training_dropped_as_leaks_do_not_occur_in_train(tiny, tmp_path, folders):
    root = folders()
    for name in DEMO_CLASSES:
        shutil.copy(next((root / "val" / name).iterdir()), root / "train" / name / "copy.png")
    train(tiny(epochs=1, data=str(root), name="all"))
    train(tiny(epochs=1, data=str(root), name="kept", drop_train_duplicates=True))
    kept, whole = (
        json.loads((tmp_path / name / "summary.json").read_text())["val"]
        for name in ("kept", "all")
    )
    assert whole["without_train_duplicates"]["n"] == 28 - 7
    assert kept["without_train_duplicates"] == {"n": 28, "accuracy": kept["accuracy"]}


def test_only_copies_of_faces_that_were_trained_on_occur_in_train(tiny, tmp_path, folders):
    root = folders()
    for name in DEMO_CLASSES:
        shutil.copy(next((root / "val" / name).iterdir()), root / "train" / name / "copy.png")
    listed = tmp_path / "listed.csv"
    listed.write_text("id\n" + "".join(f"train/{name}/copy.png\n" for name in DEMO_CLASSES[:4]))
    train(tiny(epochs=1, data=str(root), name="kept", exclude=str(listed)))
    best = tmp_path / "kept" / "checkpoints" / "best.pt"
    summary = json.loads((tmp_path / "kept" / "summary.json").read_text())["val"]
    scored = evaluate(best, split="val", quiet=True)
    assert [one["without_train_duplicates"]["n"] for one in (summary, scored)] == [25, 25]
    listed.unlink()
    # Which faces were left out is not known any more: all of train counts.
    assert evaluate(best, split="val", quiet=True)["without_train_duplicates"]["n"] == 21


def test_copies_of_faces_beyond_the_limit_of_train_do_not_occur_in_train(tiny, tmp_path, folders):
    root = folders()
    for name in DEMO_CLASSES:
        shutil.copy(next((root / "val" / name).iterdir()), root / "train" / name / "copy.png")
    train(tiny(epochs=1, data=str(root), max_train_samples=32))
    dataset = open_dataset(config := tiny(data=str(root)), find_cache(config)[0])
    trained = dataset.train_indices(drop_train_duplicates=False, limit=32, seed=config.seed)
    copies = sum(dataset.image_id(place).endswith("copy.png") for place in trained)
    assert copies < 7
    scored = evaluate(tmp_path / "run" / "checkpoints" / "best.pt", split="val", quiet=True)
    assert scored["without_train_duplicates"]["n"] == 28 - copies


def test_a_network_is_built_for_the_side_that_it_was_trained_at(best, monkeypatch):
    """Those with position embeddings have one per patch."""
    sides = []

    def noted(name, *, image_px, **settings):
        sides.append(image_px)
        return build_model(name, image_px=image_px, **settings)

    monkeypatch.setattr("fer_ignite.training.components.build_model", noted)
    load_model(best)
    assert sides == [48]


@pytest.mark.slow
def test_report_compare_and_audit_take_other_people_s_data_too(best, folders, tmp_path, cli):
    """Colour, other words, an unknown class: the same flags as evaluate's."""
    pytest.importorskip("jinja2")
    root = tmp_path / "theirs"
    for file in folders(happy="Joy", sad="gloomy").rglob("*.png"):
        target = root / file.relative_to(file.parents[2])
        target.parent.mkdir(parents=True, exist_ok=True)
        gray = np.asarray(Image.open(file))
        Image.fromarray(np.stack([gray, gray // 2, gray // 3], axis=2)).save(target)
    flags = ("--data", root, "--unknown-classes", "drop")
    assert cli("report", best, *flags, "--out", "r.html").code == 0
    compared = cli("compare", best, best, *flags)
    assert compared.code == 0 and "24 faces" in compared.out
    refused = cli("compare", best, best, "--data", root)
    assert refused.code == 2 and "--unknown-classes drop" in refused.err
    audited = cli(
        "audit",
        root,
        "--checkpoint",
        best,
        "--out",
        "a",
        "--classes",
        "angry,fear,happiness,neutral",
    )
    assert audited.code == 0, audited.err
