import json

import numpy as np
import pytest
import torch
from ignite.engine import Events

from fer_ignite.data.loader import EvalLoader, Preprocessing, Targets
from fer_ignite.inference.scoring import score_report, score_split
from fer_ignite.training.components import loss_terms
from fer_ignite.training.losses import build_loss

CPU = torch.device("cpu")
COUNT = 11


class Faces:
    """Face i is filled with the value i."""

    def batches(self, requests):
        for request in requests:
            yield torch.from_numpy(
                np.tile(request.indices_B[:, None, None, None].astype(np.uint8), (1, 4, 4, 1))
            )


class Remainder(torch.nn.Module):
    """Says i mod 3 for face i, and is sure of it."""

    def forward(self, images_BCHW):
        values_B = (images_BCHW[:, 0, 0, 0] * 255).round().long()
        return torch.nn.functional.one_hot(values_B % 3, 3).float() * 50


def loader(labels, order=None):
    places = np.arange(COUNT) if order is None else np.array(order)
    return EvalLoader(
        Faces(),
        places,
        Targets(np.array(labels), 3),
        Preprocessing(4, 4, 1, (0.0,), (1.0,)),
        CPU,
        4,
    )


def scored(labels, **changes):
    return score_split(
        Remainder(),
        loss_terms(build_loss("ce")),
        loader=loader(labels, changes.pop("order", None)),
        num_classes=3,
        device=CPU,
        precision="fp32",
        tta=changes.pop("tta", "none"),
        **changes,
    )


def test_every_face_is_scored_once_and_rows_stand_in_the_data_s_order():
    labels = np.arange(COUNT) % 3
    found = scored(labels, order=list(range(COUNT))[::-1])
    assert found.indices_N.tolist() == list(range(COUNT))
    assert (
        found.labels_N.tolist() == labels.tolist()
        and found.logits_NK.argmax(1).tolist() == labels.tolist()
    )
    assert found.metrics["accuracy"] == 1 and found.metrics["loss"] == pytest.approx(0, abs=1e-6)
    assert found.seconds > 0


def test_a_report_is_plain_and_has_the_names_of_the_interface():
    labels = np.arange(COUNT) % 3
    labels[0] = 1  # one mistake: true 1, said 0
    report = score_report(scored(labels), ["a", "b", "c"])
    assert {
        "n",
        "loss",
        "accuracy",
        "uar",
        "macro_f1",
        "weighted_f1",
        "tta",
        "per_class",
        "class_names",
        "confusion_matrix",
    } <= set(report)
    assert report["n"] == 11 and report["accuracy"] == pytest.approx(10 / 11)
    assert report["confusion_matrix"] == [[3, 0, 0], [1, 4, 0], [0, 0, 3]]
    assert (
        report["per_class"]["b"]["recall"] == pytest.approx(4 / 5)
        and report["per_class"]["b"]["support"] == 5
    )
    json.dumps(report)


def test_views_are_averaged_when_requested():
    assert scored(np.arange(COUNT) % 3, tta="flip").tta == "flip"


def test_handlers_may_be_attached_to_the_evaluator():
    seen = []
    scored(
        np.arange(COUNT) % 3,
        handlers=[
            lambda e: e.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append(1))
        ],
    )
    assert len(seen) == 3  # 11 faces in batches of 4
