"""The network in the box: it works before any training, and its card says what was measured."""

import json
from pathlib import Path

import pytest
import torch

from fer_ignite.inference.loaded_model import load_model
from fer_ignite.weights import shipped_checkpoint

CARD = shipped_checkpoint().with_suffix(".md")
RUN = Path(__file__).parents[2] / "docs" / "runs" / "robust"
MEASURED = json.loads((RUN / "summary.json").read_text())
TEST = json.loads((RUN / "test.json").read_text())  # of the shipped file itself
ROBUSTNESS = json.loads((RUN / "robustness.json").read_text())["robustness"]


def test_the_shipped_checkpoint_is_the_measured_run_and_small():
    assert shipped_checkpoint().stat().st_size < 5_000_000
    network = load_model(shipped_checkpoint(), device="cpu")
    assert network.config.model == "fer48" and len(network.classes) == 7
    assert network.temperature == pytest.approx(TEST["shift10"]["temperature"])
    assert network.checkpoint["data"]["fingerprint"] == MEASURED["data"]["fingerprint"]


def test_its_weights_are_stored_in_half_and_used_in_single_precision():
    network = load_model(shipped_checkpoint(), device="cpu")
    stored = network.checkpoint["model"].values()
    assert {tensor.dtype for tensor in stored if tensor.is_floating_point()} == {torch.float16}
    assert {tensor.dtype for tensor in network.model.parameters()} == {torch.float32}


def test_it_names_no_folder_of_the_machine_that_trained():
    checkpoint = load_model(shipped_checkpoint(), device="cpu").checkpoint
    texts = [*checkpoint["config"].values(), checkpoint["data"]["source"]]
    assert not [text for text in texts if isinstance(text, str) and "/" in text]


def test_its_card_states_the_measured_figures():
    card = CARD.read_text(encoding="utf-8")
    for figure in (
        *(
            TEST[views][name]
            for views in TEST
            if views != "checkpoint"
            for name in ("accuracy", "uar", "macro_f1")
        ),
        TEST["shift10"]["without_train_duplicates"]["accuracy"],
        ROBUSTNESS["mean"]["accuracy"],
        ROBUSTNESS["clean"]["accuracy"],
    ):
        assert f"{100 * figure:.2f} %" in card
    for word in ("FER2013", "Intended use", "Limits", "not a feeling"):
        assert word in card
