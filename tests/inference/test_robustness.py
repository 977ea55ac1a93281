import json
import math

import numpy as np
import pytest
import torch

from fer_ignite import evaluate, train
from fer_ignite.inference import robustness
from fer_ignite.inference.scoring import ScoredSplit


@pytest.mark.slow
def test_the_table_s_means_and_calibration(finished_run):
    result = evaluate(finished_run, robustness=True, quiet=True, tta="none")
    table = result["robustness"]
    assert table["clean"]["accuracy"] == result["accuracy"]
    assert table["clean"]["loss"] == pytest.approx(result["loss"])
    assert table["clean"]["ece"] == pytest.approx(result["ece_calibrated"])
    assert "gray" not in table["corruptions"] and len(table["corruptions"]) == 11
    for figure in ("accuracy", "uar", "loss", "ece"):
        kinds = [
            sum(row[figure] for row in part.values()) / len(part)
            for part in table["corruptions"].values()
        ]
        assert table["mean"][figure] == pytest.approx(sum(kinds) / len(kinds))
    assert table["mean"]["accuracy"] < table["clean"]["accuracy"]
    again = evaluate(finished_run, robustness=True, quiet=True, tta="none", batch_size=7)
    assert again["robustness"]["corruptions"]["noise"]["20"]["accuracy"] == pytest.approx(
        table["corruptions"]["noise"]["20"]["accuracy"]
    )


@pytest.mark.slow
def test_two_processes_give_the_table_of_one(finished_run):
    one, two = (
        evaluate(finished_run, robustness=True, quiet=True, nproc=n)["robustness"] for n in (1, 2)
    )
    for kind, part in one["corruptions"].items():
        for severity, row in part.items():
            assert two["corruptions"][kind][severity]["accuracy"] == row["accuracy"], (
                kind,
                severity,
            )


@pytest.mark.slow
def test_the_command_prints_it_and_writes_it(cli, finished_run):
    said = cli("evaluate", finished_run, "--robustness", "--json", "out.json", "--tta", "none")
    assert said.code == 0, said.err
    for row in ("clean", "crop offset 15 %", "jpeg 10", "occlusion 1/4", "mean of the kinds"):
        assert any(line.startswith(row) for line in said.out.splitlines()), row
    table = json.loads((said.folder / "out.json").read_text())["robustness"]
    assert f"{100 * table['mean']['accuracy']:7.2f}%" in said.out


@pytest.mark.slow
def test_a_temperature_that_was_fitted_under_corruptions_lowers_their_calibration_error(tiny):
    results = {}
    for kind in ("val", "robust"):
        summary = train(tiny(data="demo:700", epochs=8, calibrate=kind, name=kind, tta="none"))
        results[kind] = evaluate(summary["folder"], robustness=True, quiet=True)
    plain, robust = (results[kind]["robustness"] for kind in ("val", "robust"))
    assert plain["mean"]["accuracy"] == robust["mean"]["accuracy"]  # no decision changes
    assert robust["temperature"] != plain["temperature"]
    # val has 70 faces, fewer than 1,000: all of them were used, so it is the table's own temperature
    assert robust["temperature"] == pytest.approx(robust["robust_temperature"], rel=1e-3)
    assert robust["mean"]["loss"] == plain["mean"]["loss"]  # of raw logits
    assert robust["mean"]["ece"] < plain["mean"]["ece"]


def test_the_table_is_restricted_to_the_classes_of_the_data_too(monkeypatch):
    """Two faces of class 0 that a network takes for class 1, which the data has not."""
    scored = ScoredSplit(
        {"accuracy": 0.0, "uar": 0.0, "loss": 9.0},
        torch.tensor([[1.0, 3.0, 0.0], [2.0, 3.0, 1.0]]),
        torch.tensor([0, 0]),
        torch.arange(2),
        "none",
        1.0,
    )
    conditions = {("clean", ""): scored, ("noise", "20"): scored}
    monkeypatch.setattr(robustness, "score_conditions", lambda score, loader: conditions)
    present_K = np.array([True, False, True])
    table = robustness.robustness_table(None, None, temperature=1.0, present_K=present_K)
    assert table["clean"]["accuracy"] == table["mean"]["accuracy"] == 1
    # softmax over classes 0 and 2, whose logits differ by 1 in both rows
    assert table["clean"]["loss"] == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-6)
    table = robustness.robustness_table(None, None, temperature=1.0)
    assert table["clean"]["accuracy"] == 0
