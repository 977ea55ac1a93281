import csv
import json
from pathlib import Path

import pytest
import torch
from ignite.engine import Events

from fer_ignite import StepEvents, build_session, evaluate, train
from fer_ignite.checkpoint.format import load_checkpoint, write_checkpoint
from fer_ignite.runs.finalize import best_network, build_split_loader, finish, time_to_accuracy


@pytest.fixture
def made(tiny):
    sessions = []

    def make(handlers=(), **settings):
        sessions.append(build_session(tiny(**settings), handlers=handlers))
        return sessions[-1]

    yield make
    for session in sessions:
        session.close()


def test_the_summary_has_the_names_that_scripts_rely_on(made):
    session = made()
    session.run()
    summary = session.summary
    assert json.loads(session.folder.summary.read_text()) == json.loads(json.dumps(summary))
    assert (
        summary["status"] == "completed"
        and summary["epochs"] == 2
        and summary["iterations"] == summary["optimizer_steps"] == 8
    )
    for split in ("val", "test"):
        assert {"n", "loss", "accuracy", "macro_f1", "uar", "tta"} <= set(
            summary[split]
        ) and summary[split]["n"] == 14
    assert len(summary["weights_sha256"]) == 64 and summary["data"]["trained_on"] == 112


def test_the_best_epoch_s_weights_are_scored_and_not_the_last_ones(made):
    session = made()
    session.run()
    stored = load_checkpoint(session.folder.checkpoints / "best.pt")["model"]
    best, path = best_network(session)
    assert path == session.folder.checkpoints / "best.pt"
    assert all(torch.equal(value, stored[name]) for name, value in best.state_dict().items())
    for parameter in session.model.parameters():
        parameter.data.zero_()
    assert any(p.abs().sum() > 0 for p in best.parameters())


@pytest.mark.slow
def test_test_is_looked_at_once_and_the_look_is_noted(made):
    session = made()
    session.run()
    (line,) = [json.loads(text) for text in session.folder.test_access.read_text().splitlines()]
    assert line["by"] == "train" and line["split"] == "test" and line["n"] == 14


def test_a_run_that_was_interrupted_does_not_look_at_test(made):
    session = made(epochs=5)
    session.coordinator.signal_number = lambda: 15
    session.run()
    summary = session.summary
    assert summary["status"] == "interrupted" and "test" not in summary and "val" not in summary
    assert not session.folder.test_access.exists()


@pytest.mark.slow
def test_a_run_that_its_handler_stopped_is_scored(made):
    def watch(session):
        session.trainer.add_event_handler(
            StepEvents.OPTIMIZER_STEPPED(once=5), lambda engine: session.stop()
        )

    session = made([watch], epochs=9)
    session.run()
    summary = session.summary
    assert (
        summary["status"] == "early_stopped"
        and summary["iterations"] == 6
        and summary["test"]["n"] == 14
    )


def test_same_weights_have_the_same_digest_and_others_another(tiny):
    digests = [
        train(tiny(name=f"n{i}", seed=seed))["weights_sha256"] for i, seed in enumerate((0, 0, 1))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_the_summary_tells_each_class_of_val_and_test(tiny):
    summary = train(tiny())
    for split, n in (("val", 14), ("test", 14)):
        rows = summary[split]["per_class"]
        assert sum(row["support"] for row in rows.values()) == n
        recalls = [row["recall"] for row in rows.values()]
        assert summary[split]["uar"] == pytest.approx(sum(recalls) / len(recalls))
        assert "per_class" not in summary[split]["single_view"]


def test_the_best_value_of_a_loss_is_reported_as_a_loss(tiny):
    summary = train(tiny(monitor="loss"))
    assert summary["best"]["metric"] == "loss" and summary["best"]["value"] > 0


def test_the_first_epoch_that_passes_a_threshold_is_noted():
    history = [
        {"epoch": i, "val_accuracy": score, "elapsed_seconds": 3.0 * i}
        for i, score in ((1, 0.4), (2, 0.56), (3, 0.51))
    ]
    assert time_to_accuracy(history) == {
        "50": {"epoch": 2, "seconds": 6.0},
        "55": {"epoch": 2, "seconds": 6.0},
    }
    assert time_to_accuracy([]) == {}


def test_another_split_is_prepared_as_val_is(made):
    session = made()
    loader = build_split_loader(session.dataset, "test", like=session.val_loader)
    assert loader.preprocessing is session.val_loader.preprocessing
    assert sorted(i for batch in loader for i in batch.indices_B.tolist()) == sorted(
        session.dataset.indices["test"].tolist()
    )


def calibrated_by(temperature, monkeypatch):
    monkeypatch.setattr(
        "fer_ignite.runs.finalize.fit_temperature", lambda logits_NK, labels_N: temperature
    )


def test_all_splits_have_the_temperature_that_was_fitted_on_val(tiny, finished_run):
    summary = json.loads((finished_run / "summary.json").read_text())
    val, test = summary["val"], summary["test"]
    assert val["calibrated"] and 0.05 <= val["temperature"] <= 20
    assert val["temperature"] == test["temperature"] == val["single_view"]["temperature"] != 1
    assert (
        load_checkpoint(finished_run / "checkpoints" / "best.pt")["temperature"]
        == val["temperature"]
    )
    assert val["ece_calibrated"] != val["ece"]


def test_a_network_at_chance_is_not_calibrated_and_its_checkpoint_stores_no_temperature(tiny):
    summary = train(tiny(epochs=1, lr=1e-6))
    for report in (summary["val"], summary["test"], summary["val"]["single_view"]):
        assert (report["temperature"], report["calibrated"]) == (1.0, False) and report[
            "ece_calibrated"
        ] == report["ece"]
    assert "temperature" not in load_checkpoint(Path(summary["folder"]) / "checkpoints" / "best.pt")


def test_a_temperature_of_an_earlier_end_goes_where_the_next_end_finds_none(made, monkeypatch):
    session = made()
    reason = session.run()
    for fitted in (0.5, None):
        calibrated_by(fitted, monkeypatch)
        finish(session, reason)
        assert load_checkpoint(session.folder.checkpoints / "best.pt").get("temperature") == fitted


def test_the_best_network_of_a_future_that_was_left_is_not_scored(tiny, capfd, monkeypatch):
    calibrated_by(0.5, monkeypatch)

    def scored_by(accuracy_of):
        def setup(session):
            @session.evaluator.on(Events.COMPLETED)
            def give(engine):
                engine.state.metrics["accuracy"] = accuracy_of(session.trainer.state.epoch)

        return setup

    settings = {"epochs": 3, "save_iterations": 4, "keep_checkpoints": 9}
    folder = Path(train(tiny(**settings), handlers=[scored_by(lambda epoch: epoch / 10)])["folder"])
    assert load_checkpoint(folder / "checkpoints" / "best.pt")["trainer"]["iteration"] == 12
    stored = load_checkpoint(folder / "checkpoints" / "best.pt")["temperature"]
    calibrated_by(0.7, monkeypatch)
    early = folder / "checkpoints" / "step-4.pt"
    summary = train(tiny(**settings, resume=str(early)), handlers=[scored_by(lambda epoch: 0.0)])
    assert "went back behind" in capfd.readouterr().err and summary["best"]["epoch"] == 1
    left = load_checkpoint(folder / "checkpoints" / "best.pt")
    # not that of a network that isn't in it
    assert left["trainer"]["iteration"] == 12 and left["temperature"] == stored == 0.5


@pytest.mark.slow
def test_a_picture_that_fails_costs_no_figures(tiny, monkeypatch):
    monkeypatch.setattr("fer_ignite.runs.finalize.draw_confusion", lambda *_, **__: 1 / 0)
    summary = train(tiny(plots=True))
    assert summary["status"] == "completed" and summary["test"]["n"] == 14


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "validate",
        "best",
        "history",
        "resume_points",
        "report",
        "sync_epoch",
        "optimizer_step",
        "update_metrics",
    ],
)
def test_a_run_without_a_built_in_handler_ends_with_a_summary(tiny, name):
    def take_off(session):
        session.handles[name].remove()

    summary = train(tiny(epochs=1, plots=True, tta="none"), handlers=[take_off])
    assert summary["status"] == "completed" and 0 <= summary["val"]["accuracy"] <= 1


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def other_network(path):
    content = load_checkpoint(path)
    content["model"] = {name: value.reshape(-1)[:1] for name, value in content["model"].items()}
    with path.open("wb") as file:
        write_checkpoint(content, file)


def folder_in_its_place(path):
    path.unlink()
    path.mkdir()


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [flip, Path.unlink, other_network, folder_in_its_place, lambda path: path.write_bytes(b"")],
)
def test_a_run_whose_best_checkpoint_was_damaged_while_it_trained_scores_the_last_network(
    tiny, damage, capfd
):
    def setup(session):
        @session.evaluator.on(Events.COMPLETED)
        def give(engine):
            engine.state.metrics["accuracy"] = 1.0 - session.trainer.state.epoch / 10

        @session.trainer.on(Events.EPOCH_STARTED(once=2))
        def harm():
            damage(session.folder.checkpoints / "best.pt")

    summary = train(tiny(), handlers=[setup])
    assert summary["status"] == "completed" and summary["test"]["n"] == 14
    said = capfd.readouterr().err
    assert "best.pt" in said and "the last network is scored" in said and "last.pt" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", [flip, Path.unlink, folder_in_its_place, lambda path: path.write_bytes(b"")]
)
@pytest.mark.parametrize("epochs", [2, 4])
def test_a_run_that_continues_with_a_damaged_best_checkpoint_says_so_and_chooses_again(
    tiny, damage, epochs, capfd
):
    folder = Path(train(tiny())["folder"])
    best = folder / "checkpoints" / "best.pt"
    damage(best)
    (folder / "summary.json").unlink()
    summary = train(tiny(epochs=epochs, resume="auto"))
    said = capfd.readouterr().err
    assert (
        summary["status"] == "completed"
        and summary["epochs"] == epochs
        and summary["test"]["n"] == 14
    )
    assert "best.pt" in said and "chosen among the epochs from here on" in said
    if epochs == 2:  # nothing was left to train
        assert "the last network is scored" in said and not best.exists()
    else:
        assert (
            summary["best"]["epoch"] in (3, 4)
            and load_checkpoint(best)["trainer"]["iteration"] == 4 * summary["best"]["epoch"]
        )
        assert evaluate(best, quiet=True)["n"] == 14


def test_predictions_of_val_and_test_are_written_on_request(tiny, tmp_path):
    summary = train(tiny(epochs=1, predictions=True, tta="none"))
    for split in ("val", "test"):
        text = (tmp_path / "run" / f"predictions_{split}.csv").read_text(encoding="utf-8")
        rows = list(csv.DictReader(text.splitlines()))
        hits = sum(row["label"] == row["predicted"] for row in rows)
        assert len(rows) == 14 and hits / 14 == pytest.approx(summary[split]["accuracy"])
        assert {row["split"] for row in rows} == {split}
