"""Several checkpoints as one network: the mean of their probabilities, wherever a checkpoint is taken."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fer_ignite import evaluate, load_model, train
from fer_ignite.checkpoint.format import load_checkpoint, write_checkpoint
from fer_ignite.checkpoint.paths import (
    ensemble_members,
    ensemble_name,
    network_title,
    weighted_name,
)
from fer_ignite.data.drawn_faces import draw_faces
from fer_ignite.data.open import find_cache, open_dataset
from fer_ignite.errors import CheckpointError, ConfigError
from fer_ignite.inference.comparison import compare
from fer_ignite.inference.ensemble_weights import find_weights, fit_ensemble_weights
from fer_ignite.inference.evaluation_data import differing_split_settings
from tests.conftest import TINY


@pytest.fixture(scope="module")
def pair(finished_run, tmp_path_factory):
    """Two checkpoints of the same data; the second sees 40 px faces."""
    from fer_ignite.config import check

    out = tmp_path_factory.mktemp("second")
    settings = {**TINY, "out": str(out), "data": "demo:700", "epochs": 4, "seed": 1}
    train(check({**settings, "image_size": 40}))
    return [str(folder / "checkpoints" / "best.pt") for folder in (finished_run, out / "run")]


@pytest.fixture(scope="module")
def faces():
    pixels_NHWC, _ = draw_faces(20, seed=8)
    return torch.from_numpy(np.ascontiguousarray(pixels_NHWC))


def changed(path, to, **entries):
    with to.open("wb") as file:
        write_checkpoint({**load_checkpoint(path), **entries}, file)
    return str(to)


def of_another_split(path, to, **settings):
    """The checkpoint as a run with other split settings would have written it: with other faces in val."""
    content = load_checkpoint(path)
    data = {**content["data"], "val_fingerprint": "0" * 64}
    if "folds" not in settings:  # folds are dealt on top of the splits that the fingerprint covers
        data["fingerprint"] = "1" * 64
    return changed(path, to, config={**content["config"], **settings}, data=data)


def accesses(run):
    return [json.loads(line) for line in Path(run, "test_access.jsonl").read_text().splitlines()]


def test_names_of_ensembles(tmp_path, monkeypatch):
    assert ensemble_members("a.pt") == (("a.pt", 1.0),)
    assert ensemble_members("a.pt, b.pt") == (("a.pt", 0.5), ("b.pt", 0.5))
    assert ensemble_members("a.pt=3,b=c.pt=1") == (("a.pt", 0.75), ("b=c.pt", 0.25))
    assert ensemble_name(["a.pt", "b.pt"], [0.7, 0.3]) == "a.pt=0.7,b.pt=0.3"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b.pt").touch()
    assert ensemble_members("a,b.pt") == (("a,b.pt", 1.0),)


def test_weights_go_with_a_list_and_with_a_text():
    assert weighted_name(["a.pt", "b.pt"], [0.9, 0.1]) == "a.pt=0.9,b.pt=0.1"
    assert weighted_name("a.pt, b.pt", [0.9, 0.1]) == "a.pt=0.9,b.pt=0.1"
    assert weighted_name(Path("a.pt"), [1.0]) == "a.pt"
    for name in ("a.pt=0.5,b.pt=0.5", Path("a.pt=0.5,b.pt=0.5")):
        with pytest.raises(CheckpointError, match="has weights already; leave them out there"):
            weighted_name(name, [0.9, 0.1])
    for call in (load_model, evaluate):
        with pytest.raises(CheckpointError, match="3 weights for 1 checkpoints"):
            call("a.pt", weights=[1, 2, 3])
        with pytest.raises(CheckpointError, match="1 weights for 2 checkpoints"):
            call("a.pt,b.pt", weights=[1])


@pytest.mark.parametrize(
    "name", ["a.pt,", "a.pt=1,b.pt", "a.pt=x,b.pt=1", "a.pt=0,b.pt=1", "a.pt=nan,b.pt=1"]
)
def test_names_that_are_none(name):
    with pytest.raises(CheckpointError):
        ensemble_members(name)


def test_an_ensemble_s_probabilities_are_the_weighted_mean_of_its_networks(pair, faces):
    one, other = (load_model(path) for path in pair)
    same = load_model([pair[0], pair[0]])
    assert other.preprocessing.image_px == 40 and len(same.members) == 2
    one, other = (network.probabilities(faces) for network in (one, other))
    torch.testing.assert_close(same.probabilities(faces), one, atol=2e-6, rtol=0)
    both = load_model(pair, weights=[3, 1]).probabilities(faces)
    # 48 px faces are resized by uint8 in one case, after the normalisation in the other
    torch.testing.assert_close(both, 0.75 * one + 0.25 * other, atol=0.02, rtol=0)


def test_classes_in_another_order_are_brought_into_the_first_one_s(pair, faces, tmp_path):
    content = load_checkpoint(pair[0])
    classes = list(content["classes"])
    order = list(reversed(range(len(classes))))
    head = next(n for n in content["model"] if n.startswith("head") and n.endswith("weight"))
    state = dict(content["model"])
    for name in (head, head.replace("weight", "bias")):
        state[name] = state[name][order]
    turned = changed(
        pair[0], tmp_path / "turned.pt", classes=[classes[i] for i in order], model=state, ema=None
    )
    expected = load_model(pair[0]).probabilities(faces)
    torch.testing.assert_close(
        load_model([pair[0], turned]).probabilities(faces), expected, atol=2e-6, rtol=0
    )


def test_what_does_not_fit_together_is_refused(pair, tmp_path):
    other = changed(pair[0], tmp_path / "o.pt", classes=["a", "b", "c", "d", "e", "f", "g"])
    with pytest.raises(CheckpointError, match="classes"):
        load_model([pair[0], other])
    cropped = load_checkpoint(pair[0])["preprocessing"] | {"resize_px": 60}
    with pytest.raises(CheckpointError, match="same part"):
        load_model([pair[0], changed(pair[0], tmp_path / "c.pt", preprocessing=cropped)])
    with pytest.raises(CheckpointError, match="3 weights for 2"):
        load_model(pair, weights=[1, 1, 1])
    with pytest.raises(ConfigError, match="ensemble is made of checkpoints"):
        load_model([pair[0], "x.onnx"])


def test_evaluation_scores_the_mean_and_notes_the_look_at_test_in_every_run(pair, tmp_path):
    runs = []
    for number, path in enumerate(pair):
        run = tmp_path / str(number)
        shutil.copytree(path.rsplit("/checkpoints", 1)[0], run)
        runs.append(str(run))
    a, b = (evaluate(run, quiet=True, with_faces=True) for run in runs)
    both = evaluate(runs, quiet=True, with_faces=True)
    mean = sum(
        torch.tensor(r["faces"]["logits"]).div(r["temperature"] or 1).softmax(1) for r in (a, b)
    )
    hits = mean.argmax(1) == torch.tensor(a["faces"]["labels"])
    assert both["accuracy"] == pytest.approx(float(hits.float().mean()), abs=1.5 / len(hits))
    assert both["n"] == a["n"] and both["calibrated"] == (a["calibrated"] and b["calibrated"])
    before = [len(accesses(run)) for run in runs]  # of these copies: other tests look at test too
    scored = evaluate(runs, split="test", quiet=True)
    assert scored["test_evaluations"] == max(before) + 1
    assert [len(accesses(run)) for run in runs] == [n + 1 for n in before]
    assert all(accesses(run)[-1]["ensemble"] == ",".join(runs) for run in runs)


def test_a_member_that_was_trained_on_other_data_notes_no_look_at_test(pair, tmp_path):
    runs = [tmp_path / "own", tmp_path / "other"]
    for run in runs:
        shutil.copytree(pair[0].rsplit("/checkpoints", 1)[0], run)
    best = runs[1] / "checkpoints" / "best.pt"
    content = load_checkpoint(best)
    other = {
        "config": {**content["config"], "data": "demo:140"},
        "data": {**content["data"], "fingerprint": "0" * 64, "val_fingerprint": "0" * 64},
    }
    with best.open("wb") as file:
        write_checkpoint({**content, **other}, file)
    before = [len(accesses(run)) for run in runs]
    evaluate([str(run) for run in runs], split="test", quiet=True, tta="none")
    assert [len(accesses(run)) for run in runs] == [before[0] + 1, before[1]]


@pytest.mark.slow
def test_two_processes_score_an_ensemble_as_one_does(pair):
    one, two = (evaluate(pair, quiet=True, nproc=n, tta="none") for n in (1, 2))
    assert one["confusion_matrix"] == two["confusion_matrix"]
    assert one["loss"] == pytest.approx(two["loss"], abs=1e-9)


def test_weights_are_found_on_val(pair):
    weights = fit_ensemble_weights(",".join(pair), quiet=True)
    assert sum(weights) == pytest.approx(1) and min(weights) >= 0
    best = evaluate(pair, weights=[max(w, 1e-6) for w in weights], quiet=True)
    for other in ([1, 1], [9, 1], [1, 9]):
        # NLL of calibrated probabilities is what the weights minimise
        assert best["loss"] <= evaluate(pair, weights=other, quiet=True)["loss"] + 1e-4
    with pytest.raises(ConfigError, match="one checkpoint"):
        fit_ensemble_weights(pair[0])


def test_find_weights_finds_the_better_network():
    labels_N = torch.arange(4).repeat(50)
    good = torch.full((200, 4), 0.1).scatter(1, labels_N.view(-1, 1), 0.7)
    bad = torch.full((200, 4), 0.25)
    weights = find_weights([bad, good], labels_N)
    assert weights[1] > 0.99
    assert find_weights([good, good], labels_N) == pytest.approx([0.5, 0.5])


def test_compare_takes_an_ensemble(pair):
    result = compare(",".join(pair), pair[0], quiet=True)
    assert result["n"] == result["a"]["n"] and -1 <= result["difference"] <= 1


def test_the_commands_take_ensembles_and_weights(cli, pair, tmp_path):
    from PIL import Image

    names = ",".join(pair)
    Image.fromarray(draw_faces(1, seed=3)[0][0, :, :, 0]).save(tmp_path / "face.png")
    said = cli("evaluate", names, "--weights", "0.6,0.4", "--json", "-")
    assert said.code == 0 and json.loads(said.out)["checkpoint"].count("=") == 2
    said = cli("evaluate", names, "--weights", "val")
    assert said.code == 0 and "weights found on val: --weights" in said.err
    said = cli("predict", names, tmp_path / "face.png", "--weights", "1,2")
    assert said.code == 0 and "face.png" in said.out
    for command in ("evaluate", "predict"):
        extra = (tmp_path / "face.png",) if command == "predict" else ()
        said = cli(command, names, *extra, "--weights", "0.6")
        assert said.code == CheckpointError.exit_code and "1 weights for 2" in said.err
        said = cli(command, pair[0], *extra, "--weights", "0.6")
        assert said.code == 2 and "is one checkpoint" in said.err
        said = cli(command, names, *extra, "--weights", "a,b")
        assert said.code == 2 and "no list of numbers above 0" in said.err


@pytest.mark.slow
def test_an_ensemble_is_exported_as_one_file(cli, pair, faces, tmp_path):
    pytest.importorskip("onnxruntime")
    out = tmp_path / "both.onnx"
    said = cli("export", ",".join(pair), "--weights", "2,1", "--out", out, "--tta", "none")
    assert said.code == 0, said.err
    expected = load_model(pair, weights=[2, 1], precision="fp32").probabilities(faces)
    answers = load_model(out).probabilities(faces.numpy())
    np.testing.assert_allclose(answers, expected.numpy(), atol=1e-4)
    assert "Ensemble of 2" in (tmp_path / "both.onnx.md").read_text()
    said = cli("export", ",".join(pair), "--format", "safetensors")
    assert said.code == 2 and "an ensemble" in said.err


@pytest.mark.slow
def test_seeds_give_the_ensemble_s_figures(cli, tiny_flags):
    said = cli("train", *tiny_flags, "--seeds", "0,1", "--json")
    assert said.code == 0, said.err
    result = json.loads(said.out)
    assert set(result["ensemble"]) == {"val", "test"}
    again = evaluate(result["folders"], quiet=True)
    assert result["ensemble"]["val"]["accuracy"] == again["accuracy"]
    assert "val   ensemble of 2: accuracy" in said.err


def test_titles_of_networks():
    assert network_title("runs/a/best.pt") == "best.pt"
    assert network_title("a.pt=1,b.pt=2") == "ensemble of 2 networks"
    assert ensemble_name(["a.pt"], [0.3]) == "a.pt"


def test_the_service_answers_with_an_ensemble(pair):
    pytest.importorskip("fastapi")
    from fer_ignite.apps.serve.batcher import Batcher
    from fer_ignite.inference.predictor import open_predictor

    batcher = Batcher(open_predictor(",".join(pair)), faces="never")
    try:
        (found,) = batcher.submit([draw_faces(1, seed=3)[0][0, :, :, 0]]).result(timeout=60)
        assert set(found[0].probabilities) == set(load_model(pair).classes)
    finally:
        batcher.close()


@pytest.mark.parametrize(
    ("settings", "named", "test_too"),
    [({"folds": 2, "fold": 1}, "folds, fold", False), ({"split_seed": 7}, "split_seed", True)],
)
def test_members_of_other_splits_are_warned_of_and_given_no_weights(
    pair, tmp_path, settings, named, test_too
):
    """Val holds faces that such a member was trained on; folds leave test alone."""
    first = changed(pair[0], tmp_path / "first.pt")
    other = of_another_split(first, tmp_path / "other.pt", **settings)
    warning = evaluate([first, other], quiet=True)["warning"]
    assert f"trained on another split of this data ({named})" in warning and "val" in warning
    assert evaluate([first, first], quiet=True)["warning"] is None
    assert evaluate([first, other], split="train", quiet=True)["warning"] is None
    test = evaluate([first, other], split="test", quiet=True)["warning"]
    assert (test is not None) == test_too
    with pytest.raises(ConfigError, match=rf"different splits of .*\({named}\)"):
        fit_ensemble_weights(f"{first},{other}", quiet=True)


def test_other_split_settings_with_the_same_val_are_no_other_split(pair, tmp_path):
    """Data with splits of its own has the same val under every seed."""
    content = load_checkpoint(pair[0])
    config = {**content["config"], "split_seed": 7}
    other = changed(pair[0], tmp_path / "other.pt", config=config)
    assert evaluate([pair[0], other], quiet=True)["warning"] is None


def test_the_same_val_is_no_excuse_for_another_test(pair, tmp_path):
    """Val is dealt from one end and test from the other: 80/10/10 and 70/10/20 have one val and two tests."""
    first = changed(pair[0], tmp_path / "first.pt")
    content = load_checkpoint(first)
    data = {**content["data"], "fingerprint": "1" * 64}
    config = {**content["config"], "split": [0.7, 0.1, 0.2]}
    other = changed(first, tmp_path / "other.pt", config=config, data=data)
    assert evaluate([first, other], quiet=True)["warning"] is None
    assert (
        "split of this data (split)"
        in evaluate([first, other], split="test", quiet=True)["warning"]
    )


def test_a_test_of_the_data_s_own_is_one_under_all_split_settings(finished_run):
    network = load_model(finished_run)
    config = network.config.model_copy(update={"split_seed": 7})
    dataset = replace(open_dataset(network.config, find_cache(network.config)[0]), fingerprint="1")
    for note, found in (
        ("train/val/test: 80/10/10 %, seed 0", ["split_seed"]),
        ("train, test: as the source says; val: 10 % of train", []),
    ):
        own = replace(dataset, facts={"splits": note})
        given = {"networks": [network], "split": "test"}
        assert differing_split_settings(config, own, **given) == found
    # The source of a union are its parts, whose splits may have been dealt.
    union = config.model_copy(update={"data": f"{config.data},demo:140"})
    assert differing_split_settings(union, own, **given) == ["split_seed"]


def test_members_of_finished_tensors_and_of_images_are_refused_in_any_order(pair, tmp_path):
    finished = load_checkpoint(pair[0])["preprocessing"] | {"finished_tensors": True}
    other = changed(pair[0], tmp_path / "finished.pt", preprocessing=finished)
    for members in ([pair[0], other], [other, pair[0]]):
        with pytest.raises(CheckpointError, match=r"trained on float tensors.*another on images"):
            load_model(members)


def test_a_fold_s_run_is_warned_of_on_a_copy_of_its_data(tiny, tmp_path):
    """Under another name the data is dealt no folds: its val holds faces that the fold's run has learned."""
    pixels_NHWC, labels_N = draw_faces(140, seed=0)
    rows = "".join(
        f"{label % 7},{' '.join(map(str, image.reshape(-1)))},{'Training' if i < 100 else 'PublicTest'}\n"
        for i, (image, label) in enumerate(zip(pixels_NHWC, labels_N, strict=True))
    )
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("emotion,pixels,Usage\n" + rows)
    data = str(tmp_path / "a.csv")
    run = train(tiny(data=data, epochs=1, folds=2, fold=0, score_test=False))["folder"]
    assert evaluate(run, quiet=True)["warning"] is None
    moved = evaluate(run, data=str(tmp_path / "b.csv"), quiet=True)["warning"]
    assert moved.startswith("the network was trained on another split of this data (folds, fold)")
