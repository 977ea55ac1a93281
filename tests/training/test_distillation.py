import json
from pathlib import Path

import pytest
import torch

from fer_ignite import build_session, load_model, train
from fer_ignite.checkpoint.format import load_checkpoint, write_checkpoint
from fer_ignite.errors import CheckpointError, FerError
from fer_ignite.training.distillation import Distillation
from fer_ignite.training.events import StepEvents


def distillation(log_probabilities_BK, **settings):
    teacher = torch.nn.Module()
    teacher.forward = lambda images: log_probabilities_BK
    return Distillation(teacher, device=torch.device("cpu"), precision="fp32", **settings)


def test_the_loss_is_the_weighted_sum_of_labels_and_divergence():
    torch.manual_seed(0)
    teacher_BK, logits_BK = torch.randn(5, 7).log_softmax(1), torch.randn(5, 7)
    term = distillation(teacher_BK, weight=0.3, temperature=2.0)
    found = term({"loss": torch.arange(5.0)}, logits_BK, images_BCHW=torch.empty(0))
    expected_B = 4 * torch.nn.functional.kl_div(
        (logits_BK / 2).log_softmax(1),
        (teacher_BK / 2).log_softmax(1),
        log_target=True,
        reduction="none",
    ).sum(1)
    torch.testing.assert_close(found["distill_loss"], expected_B)
    torch.testing.assert_close(found["loss"], 0.7 * torch.arange(5.0) + 0.3 * expected_B)
    same = distillation(logits_BK.log_softmax(1), weight=1.0, temperature=3.0)
    zero = same({"loss": torch.ones(5)}, logits_BK, images_BCHW=torch.empty(0))["loss"]
    torch.testing.assert_close(zero, torch.zeros(5), atol=1e-6, rtol=0)


def test_a_teacher_s_term_stands_in_the_history_and_the_teacher_sees_the_batch(tiny, finished_run):
    seen = []

    def watch(session):
        @session.trainer.on(StepEvents.LOSS_READY)
        def compare(engine):
            if not seen:
                batch, output = engine.state.batch, engine.state.output
                teacher = load_model(finished_run, precision="fp32")
                with torch.no_grad():
                    # the run's normalisation is another than the teacher's: 140 faces, not 700
                    raw = session.preprocessing.unnormalise(batch.images_BCHW)
                    mean, std = (
                        torch.tensor(v).view(1, -1, 1, 1)
                        for v in (teacher.preprocessing.mean, teacher.preprocessing.std)
                    )
                    known_BK = (
                        teacher.model((raw - mean) / std) / teacher.temperature
                    ).log_softmax(1)
                own_BK = output["y_pred"]
                expected_B = 4 * (
                    (known_BK / 2).softmax(1)
                    * ((known_BK / 2).log_softmax(1) - (own_BK / 2).log_softmax(1))
                ).sum(1)
                seen.append((output["losses"]["distill_loss"], expected_B))

    with build_session(
        tiny(teacher=(str(finished_run),), mixup=0.4, epochs=1), handlers=[watch]
    ) as session:
        session.run()
        lines = Path(session.folder.path, "history.jsonl").read_text().splitlines()
    torch.testing.assert_close(*seen[0], atol=1e-4, rtol=1e-3)
    line = json.loads(lines[0])
    total = 0.5 * line["train_label_loss"] + 0.5 * line["train_distill_loss"]
    assert line["train_loss"] == pytest.approx(total, abs=1e-6)


def test_a_teacher_of_other_classes_is_refused(tiny, finished_run, tmp_path):
    content = load_checkpoint(finished_run / "checkpoints" / "best.pt")
    other = tmp_path / "other.pt"
    with other.open("wb") as file:
        write_checkpoint({**content, "classes": [*content["classes"][:6], "contempt"]}, file)
    with pytest.raises(FerError, match=r"--teacher: .*same classes"):
        train(tiny(teacher=(str(other),)))
    with pytest.raises(CheckpointError, match="--teacher: "):
        train(tiny(teacher=(str(tmp_path / "none.pt"),)))


def test_a_teacher_of_another_split_of_the_same_data_is_warned_of(tiny, finished_run):
    settings = {"data": "demo:700", "teacher": (str(finished_run),), "epochs": 1}
    for name, split in (("same", {}), ("other", {"split_seed": 7})):
        summary = train(tiny(**settings, name=name, **split))
        log = Path(summary["folder"], "log.txt").read_text()
        assert ("another split of this data" in log) == (name == "other")
