"""Runs judged by a fold, and runs that leave test alone."""

import json

import pytest

from fer_ignite import train
from fer_ignite.api import build_session
from fer_ignite.config import check
from fer_ignite.errors import ConfigError, DataError
from fer_ignite.metrics.intervals import mean_and_spread
from fer_ignite.runs.execute import launch_seeds, launch_training


@pytest.mark.slow
def test_one_run_per_fold_and_their_mean_and_spread(tiny, tmp_path):
    result = train(tiny(folds=3, epochs=1))
    assert result["folds"] == [0, 1, 2] and "test" not in result
    folders = [tmp_path / f"run-fold{fold}" for fold in range(3)]
    assert result["folders"] == [str(folder) for folder in folders]
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    # 112 train and 14 val faces, 18 of each class: 42 in each fold, and 84 to train on.
    assert [(summary["val"]["n"], summary["data"]["trained_on"]) for summary in summaries] == [
        (42, 84)
    ] * 3
    assert not any(
        "test" in summary or (folder / "test_access.jsonl").exists()
        for summary, folder in zip(summaries, folders, strict=True)
    )
    assert result["val"]["accuracy"] == list(
        mean_and_spread([summary["val"]["accuracy"] for summary in summaries])
    )
    assert json.loads((tmp_path / "run-folds.json").read_text()) == result

    again = launch_training(
        tiny(folds=3, epochs=1, resume="auto"), given={"folds": 3, "resume": "auto"}
    )
    assert again.result == result  # all are complete: nothing is trained again
    moved = {"folds": 3, "fold": 1, "name": "run-fold0", "resume": "auto"}
    with pytest.raises(ConfigError, match=r"another run's settings: fold \(0 -> 1\)"):
        launch_training(tiny(epochs=1, **moved), given=moved)


def test_a_fold_s_network_is_judged_by_its_own_fold_and_knows_no_test(tiny, tmp_path):
    from fer_ignite.inference.evaluate import evaluate

    summary = train(tiny(folds=3, fold=2, epochs=1, tta="none"))
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    assert evaluate(best, device="cpu", quiet=True)["accuracy"] == summary["val"]["accuracy"]
    with pytest.raises(DataError, match="has no faces in test"):
        evaluate(best, split="test", device="cpu", quiet=True)


def test_test_is_left_alone_where_it_is_not_to_be_scored(tiny, tmp_path):
    summary = train(tiny(epochs=1, score_test=False))
    assert (
        "val" in summary
        and "test" not in summary
        and not (tmp_path / "run" / "test_access.jsonl").exists()
    )


def test_settings_that_make_no_sense_together_are_refused(tiny):
    with pytest.raises(ConfigError, match="fold: 3 of folds 3"):
        check({"folds": 3, "fold": 3})
    with pytest.raises(ConfigError, match="give --folds K"):
        check({"fold": 0})
    with pytest.raises(ConfigError, match="give one of them"):
        launch_seeds(tiny(folds=2), given={"folds": 2}, seeds=[0, 1])
    with pytest.raises(ConfigError, match="say which one with --fold"):
        build_session(tiny(folds=2))
