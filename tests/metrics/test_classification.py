# Dimensions: B images, K expressions; confusion_KK has true rows and predicted columns.

import math

import ignite.metrics
import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Accuracy, ConfusionMatrix, Precision, Recall
from torch import nn

from fer_ignite.metrics.classification import (
    SCORES,
    MeanLoss,
    TorchMetric,
    attach_metrics,
    per_class,
    scores,
)

CPU = torch.device("cpu")
# Rows true, columns predicted. Supports 4, 6, 0; predicted 5, 4, 1.
SMALL_KK = torch.tensor([[3, 1, 0], [2, 3, 1], [0, 0, 0]])


def outputs(count=50, num_classes=4, seed=0, batch=7):
    random = torch.Generator().manual_seed(seed)
    logits_BK = torch.randn(count, num_classes, generator=random)
    labels_B = torch.randint(num_classes, (count,), generator=random)
    losses_B = nn.functional.cross_entropy(logits_BK, labels_B, reduction="none")
    made = []
    for start in range(0, count, batch):
        part = slice(start, start + batch)
        made.append(
            {"y_pred": logits_BK[part], "y": labels_B[part], "losses": {"loss": losses_B[part]}}
        )
    return made, logits_BK, labels_B


def evaluated(batches, num_classes=4, extra=None):
    evaluator = Engine(lambda engine, batch: batch)
    attach_metrics(evaluator, num_classes=num_classes, device=CPU)
    for name, metric in (extra or {}).items():
        metric.attach(evaluator, name)
    return evaluator.run(batches, epoch_length=len(batches)).metrics


def test_scores_of_a_small_matrix_are_those_worked_out_by_hand():
    table = per_class(SMALL_KK)
    assert table["precision"].tolist() == pytest.approx([3 / 5, 3 / 4, 0])
    assert table["recall"].tolist() == pytest.approx([3 / 4, 1 / 2, 0])
    # F1 = 2 hits / (support + predicted): 6/9, 6/10, 0/1
    assert table["f1"].tolist() == pytest.approx([2 / 3, 3 / 5, 0])
    assert table["support"].tolist() == [4, 6, 0]
    found = scores(SMALL_KK)
    assert found["accuracy"] == pytest.approx(6 / 10)
    assert found["uar"] == pytest.approx((3 / 4 + 1 / 2) / 2)  # over the expressions that occur
    assert found["macro_f1"] == pytest.approx((2 / 3 + 3 / 5) / 2)
    assert found["weighted_f1"] == pytest.approx((4 * 2 / 3 + 6 * 3 / 5) / 10)


def test_nothing_scored_scores_nothing():
    assert set(scores(torch.zeros(3, 3, dtype=torch.int64)).values()) == {0.0}


def test_a_perfect_and_a_constant_network_get_the_scores_that_they_deserve():
    perfect = scores(torch.diag(torch.tensor([10, 20, 5])))
    assert all(perfect[name] == pytest.approx(1) for name in SCORES)
    constant = scores(torch.tensor([[10, 0], [30, 0]]))
    assert constant["accuracy"] == pytest.approx(0.25) and constant["uar"] == pytest.approx(0.5)
    assert constant["macro_f1"] == pytest.approx((2 * 10 / 50 + 0) / 2)


def test_attached_metrics_agree_with_ignite_s_own():
    batches, logits_BK, labels_B = outputs()
    own = {
        "i_accuracy": Accuracy(),
        "i_matrix": ConfusionMatrix(4),
        "i_recall": Recall(average=False),
        "i_precision": Precision(average=False),
        "i_macro_recall": Recall(average="macro"),
    }
    for metric in own.values():
        metric._output_transform = lambda out: (out["y_pred"], out["y"])
    found = evaluated(batches, extra=own)
    assert found["accuracy"] == pytest.approx(found["i_accuracy"])
    assert found["uar"] == pytest.approx(found["i_macro_recall"])
    assert torch.equal(found["confusion_matrix"], found["i_matrix"])
    table = per_class(found["confusion_matrix"])
    assert torch.allclose(table["recall"].float(), found["i_recall"].float())
    assert torch.allclose(table["precision"].float(), found["i_precision"].float())
    assert found["loss"] == pytest.approx(
        nn.functional.cross_entropy(logits_BK, labels_B).item(), rel=1e-6
    )


def test_rows_are_true_and_columns_predicted():
    batch = {
        "y_pred": torch.eye(3)[[2, 2]],
        "y": torch.tensor([0, 1]),
        "losses": {"loss": torch.ones(2)},
    }
    matrix = evaluated([batch], num_classes=3)["confusion_matrix"]
    assert matrix.dtype == torch.int64
    assert matrix.tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]


def test_batches_may_be_empty_and_of_any_size():
    batches, _, _ = outputs()
    empty = {
        "y_pred": torch.zeros(0, 4),
        "y": torch.zeros(0, dtype=torch.int64),
        "losses": {"loss": torch.zeros(0)},
    }
    whole, _, _ = outputs(batch=50)
    first, second = evaluated([empty, *batches, empty]), evaluated(whole)
    assert torch.equal(first["confusion_matrix"], second["confusion_matrix"])
    assert all(first[name] == second[name] for name in ("loss", *SCORES))


def test_a_loss_over_nothing_is_no_number():
    loss = MeanLoss()
    loss.update(torch.zeros(0))
    assert math.isnan(loss.compute())


def test_the_mean_of_losses_does_not_depend_on_how_they_are_shared_out():
    values = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 1e4
    results = set()
    for size in (1, 7, 64, 1000):
        loss = MeanLoss()
        for start in range(0, 1000, size):
            loss.update(values[start : start + size])
        results.add(loss.compute())
    assert len(results) == 1


class HitRate:
    """What torchmetrics' classification metrics offer: reset, update(preds, target), compute() -> scalar tensor."""

    def reset(self):
        self.hits, self.count = 0, 0

    def update(self, preds, target):
        self.hits += int((preds.argmax(dim=1) == target).sum())
        self.count += len(target)

    def compute(self):
        return torch.tensor(self.hits / self.count)


def test_a_torchmetrics_metric_is_attached_through_the_adapter():
    batches, _, _ = outputs()
    adapter = TorchMetric(HitRate(), output_transform=lambda out: (out["y_pred"], out["y"]))
    found = evaluated(batches, extra={"hit_rate": adapter})
    assert found["hit_rate"] == pytest.approx(found["accuracy"])
    assert isinstance(found["hit_rate"], float)
    # reset at every evaluation
    assert evaluated(batches, extra={"hit_rate": adapter})["hit_rate"] == found["hit_rate"]


def test_the_adapter_takes_class_indices_where_the_output_is_transformed():
    torchmetrics = pytest.importorskip("torchmetrics")
    batches, _, _ = outputs()
    metric = torchmetrics.Accuracy(task="multiclass", num_classes=4, average="micro")
    found = evaluated(
        batches,
        extra={"m": TorchMetric(metric, output_transform=lambda out: (out["y_pred"], out["y"]))},
    )
    assert found["m"] == pytest.approx(found["accuracy"])


def classification_metrics(classes):
    """All of Ignite's metrics for one label per sample, as a user makes them: with nothing but their required arguments."""
    matrix = {f"matrix {number}": ignite.metrics.ConfusionMatrix(classes) for number in range(9)}
    made = iter(list(matrix.values()))
    return {
        "Accuracy": ignite.metrics.Accuracy(),
        "Loss": ignite.metrics.Loss(torch.nn.functional.cross_entropy),
        "Precision": ignite.metrics.Precision(),
        "Recall": ignite.metrics.Recall(average="macro"),
        "Fbeta": ignite.metrics.Fbeta(1.0),
        "TopK": ignite.metrics.TopKCategoricalAccuracy(2),
        "Report": ignite.metrics.ClassificationReport(metrics_result_mode="named"),
        "CohenKappa": ignite.metrics.CohenKappa(
            output_transform=lambda out: (out["y_pred"].argmax(1), out["y"])
        ),
        "Entropy": ignite.metrics.Entropy(),
        "MutualInformation": ignite.metrics.MutualInformation(),
        "EpochMetric": ignite.metrics.EpochMetric(
            lambda y_pred, y: float((y_pred.argmax(1) == y).float().mean())
        ),
        "Rate": ignite.metrics.Average(
            output_transform=lambda out: (out["y_pred"].argmax(1) == out["y"]).double().mean()
        ),
        "ConfusionMatrix": next(made),
        "cmAccuracy": ignite.metrics.confusion_matrix.cmAccuracy(next(made)),
        "cmPrecision": ignite.metrics.confusion_matrix.cmPrecision(next(made)),
        "cmRecall": ignite.metrics.confusion_matrix.cmRecall(next(made)),
        "IoU": ignite.metrics.IoU(next(made)),
        "mIoU": ignite.metrics.mIoU(next(made)),
        "Dice": ignite.metrics.DiceCoefficient(next(made)),
        "Jaccard": ignite.metrics.JaccardIndex(next(made)),
    }


@pytest.mark.parametrize("settings", [{}, {"mixup": 0.5}, {"precision": "bf16"}])
def test_all_of_ignite_s_classification_metrics_attach_to_both_engines(tiny, settings):
    from fer_ignite import build_session

    with build_session(tiny(epochs=1, max_train_samples=64, **settings)) as session:
        K, seen = len(session.dataset.classes), {"trainer": [], "evaluator": []}
        for name, engine in (("trainer", session.trainer), ("evaluator", session.evaluator)):
            for title, metric in classification_metrics(K).items():
                metric.attach(engine, title)
            engine.add_event_handler(
                Events.ITERATION_COMPLETED,
                lambda engine, name=name: seen[name].append(dict(engine.state.output)),
            )
        session.run()
        for name, engine in (("trainer", session.trainer), ("evaluator", session.evaluator)):
            y_pred, y, targets = (
                torch.cat([out[key] for out in seen[name]]) for key in ("y_pred", "y", "targets")
            )
            assert y_pred.dtype == torch.float32 and y_pred.shape == targets.shape == (len(y), K)
            assert y.dtype == torch.int64 and torch.equal(targets.argmax(1), y)
            # logits, not log-probabilities
            assert not torch.allclose(y_pred.exp().sum(1), torch.ones(len(y)))
            found = engine.state.metrics
            accuracy = (y_pred.argmax(1) == y).double().mean().item()
            assert found["Accuracy"] == found["cmAccuracy"] == pytest.approx(accuracy)
            assert found["EpochMetric"] == pytest.approx(accuracy)
            assert found["Loss"] == pytest.approx(
                torch.nn.functional.cross_entropy(y_pred, y).item(), rel=1e-4
            )
            assert set(classification_metrics(K)) <= set(found)
        line = next(iter(session.folder.read_history()))
        assert line["train_accuracy"] == pytest.approx(session.trainer.state.metrics["Accuracy"])
