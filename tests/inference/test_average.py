"""--keep-best and fer-ignite average."""

import json
import shutil

import pytest
import torch

from fer_ignite import evaluate, load_model, train
from fer_ignite.checkpoint.format import load_checkpoint, write_checkpoint
from fer_ignite.errors import CheckpointError, ConfigError
from fer_ignite.inference.average import average_checkpoints
from tests.conftest import TINY


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run's folder that kept its three best epochs."""
    from fer_ignite.config import check

    out = tmp_path_factory.mktemp("kept")
    train(
        check(
            {**TINY, "out": str(out), "data": "demo:700", "epochs": 8, "lr": 0.003, "keep_best": 3}
        )
    )
    return out / "run"


def tops(run):
    return sorted((run / "checkpoints").glob("best-*.pt"))


def test_the_best_epochs_are_kept_and_the_best_is_among_them(kept):
    history = [json.loads(line) for line in (kept / "history.jsonl").read_text().splitlines()]
    scores = sorted((line["val_accuracy"] for line in history), reverse=True)
    found = {int(path.stem.removeprefix("best-")) for path in tops(kept)}
    by_iteration = {line["iteration"]: line["val_accuracy"] for line in history}
    assert sorted((by_iteration[i] for i in found), reverse=True) == scores[:3]
    best = load_checkpoint(kept / "checkpoints" / "best.pt")
    assert any(
        all(torch.equal(best["model"][n], t) for n, t in load_checkpoint(path)["model"].items())
        for path in tops(kept)
    )


def test_a_greedy_average_is_no_worse_on_val_than_its_best_part(kept, tmp_path):
    result = average_checkpoints(tops(kept), tmp_path / "soup.pt", quiet=True)
    alone = [member["accuracy"] for member in result["members"]]
    assert result["accuracy"] >= max(alone) and len(alone) == 3
    again = evaluate(tmp_path / "soup.pt", quiet=True)
    assert again["accuracy"] == result["accuracy"] and again["calibrated"]
    with pytest.raises(ConfigError, match="exists"):
        average_checkpoints(tops(kept), tmp_path / "soup.pt", quiet=True)


def test_a_uniform_average_has_the_mean_weights_and_statistics_of_its_own(kept, tmp_path):
    average_checkpoints(tops(kept), tmp_path / "mean.pt", method="uniform", quiet=True)
    found = load_checkpoint(tmp_path / "mean.pt")["model"]
    parts = [load_checkpoint(path)["model"] for path in tops(kept)]
    for name, tensor in found.items():
        mean = torch.stack([part[name].float() for part in parts]).mean(0)
        if "running_" not in name and "num_batches" not in name:
            torch.testing.assert_close(tensor, mean, atol=1e-6, rtol=1e-5)
        elif "running_" in name:
            assert not torch.allclose(tensor, mean, rtol=1e-6)
    assert load_model(tmp_path / "mean.pt").classes


def test_what_can_t_be_averaged_is_refused(kept, tiny, tmp_path):
    with pytest.raises(ConfigError, match="at least two"):
        average_checkpoints(tops(kept)[:1], tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="--method"):
        average_checkpoints(tops(kept), tmp_path / "a.pt", method="median")
    train(tiny(data="demo:700", epochs=1, model_args={"widths": [8, 16], "blocks": [0, 0]}))
    other = tmp_path / "run" / "checkpoints" / "best.pt"
    with pytest.raises(CheckpointError, match="another network"):
        average_checkpoints([tops(kept)[0], other], tmp_path / "a.pt", quiet=True)
    content = load_checkpoint(tops(kept)[1])
    content["config"]["model_args"] = {**content["config"]["model_args"], "activation": "silu"}
    with (tmp_path / "silu.pt").open("wb") as file:
        write_checkpoint(content, file)
    with pytest.raises(CheckpointError, match="another network"):
        average_checkpoints([tops(kept)[0], tmp_path / "silu.pt"], tmp_path / "a.pt", quiet=True)
    with pytest.raises(CheckpointError, match=r"m\.onnx is an exported file"):
        average_checkpoints([tops(kept)[0], "m.onnx"], tmp_path / "a.pt", quiet=True)


def test_networks_of_other_regularisation_are_averaged(kept, tmp_path):
    content = load_checkpoint(tops(kept)[1])
    content["config"]["model_args"] = {**content["config"]["model_args"], "dropout": 0.3}
    with (tmp_path / "dropout.pt").open("wb") as file:
        write_checkpoint(content, file)
    parts = [tops(kept)[0], tmp_path / "dropout.pt"]
    assert len(average_checkpoints(parts, tmp_path / "a.pt", quiet=True)["members"]) == 2


def test_checkpoints_of_other_splits_or_preprocessing_are_not_averaged(kept, tmp_path):
    """All are scored on the first one's val, with the first one's preprocessing."""
    content = load_checkpoint(tops(kept)[0])
    fold = {
        "config": {**content["config"], "folds": 2, "fold": 1},
        "data": {**content["data"], "val_fingerprint": "0" * 64},
    }
    scaled = {"preprocessing": {**content["preprocessing"], "image_px": 40, "resize_px": 40}}
    for name, changes in (("fold", fold), ("scaled", scaled)):
        with (tmp_path / f"{name}.pt").open("wb") as file:
            write_checkpoint({**content, **changes}, file)
    with pytest.raises(ConfigError, match=r"different splits of .* \(folds, fold\)"):
        average_checkpoints([tops(kept)[0], tmp_path / "fold.pt"], tmp_path / "a.pt", quiet=True)
    with pytest.raises(CheckpointError, match=r"another preprocessing .*image_px, resize_px"):
        average_checkpoints([tops(kept)[0], tmp_path / "scaled.pt"], tmp_path / "a.pt", quiet=True)
    assert not (tmp_path / "a.pt").exists()


def test_the_command(cli, kept):
    said = cli("average", *tops(kept), "--out", "soup.pt")
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert len(lines) == 4 and lines[-1].endswith("on val, soup.pt")
    said = cli("average", *tops(kept), "--out", "soup.pt", "--exist-ok", "--json")
    assert json.loads(said.out)["file"] == "soup.pt"
    said = cli("average", tops(kept)[0], "nothing.pt", "--out", "x.pt")
    assert said.code == 2 and "nothing.pt" in said.err and not shutil.which("x.pt")


@pytest.mark.slow
def test_the_statistics_of_frozen_normalisations_stay_in_the_average(tiny, tmp_path):
    train(tiny(epochs=2, keep_best=2, monitor="loss", lr=1e-4, freeze="*norm*"))
    average_checkpoints(tops(tmp_path / "run"), tmp_path / "soup.pt", method="uniform", quiet=True)
    part, soup = (
        load_checkpoint(p)["model"] for p in (tops(tmp_path / "run")[0], tmp_path / "soup.pt")
    )
    statistics = [name for name in part if name.endswith(("running_mean", "running_var"))]
    assert statistics and all(torch.equal(part[name], soup[name]) for name in statistics)
