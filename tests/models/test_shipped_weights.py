"""The network in the box: it works before any training, and its card says what was measured."""

import json
from pathlib import Path

import pytest

from fer_ignite.inference.loaded_model import load_model
from fer_ignite.weights import shipped_checkpoint

CARD = shipped_checkpoint().with_suffix(".md")
MEASURED = json.loads(
    (Path(__file__).parents[2] / "docs" / "runs" / "quick" / "summary.json").read_text()
)


def test_the_shipped_checkpoint_is_the_measured_run_and_small():
    assert shipped_checkpoint().stat().st_size < 2_500_000
    network = load_model(shipped_checkpoint(), device="cpu")
    assert network.config.model == "fer48" and len(network.classes) == 7
    assert network.temperature == pytest.approx(MEASURED["test"]["temperature"])
    assert network.checkpoint["data"]["fingerprint"] == MEASURED["data"]["fingerprint"]


def test_its_card_states_the_measured_figures():
    card = CARD.read_text(encoding="utf-8")
    for figure in (
        MEASURED["test"]["accuracy"],
        MEASURED["test"]["uar"],
        MEASURED["val"]["accuracy"],
    ):
        assert f"{100 * figure:.2f} %" in card
    for word in ("FER2013", "Intended use", "Limits", "not a feeling"):
        assert word in card
