"""Code of the user's own, named on the command line: data, transforms, networks, losses, handlers."""

import json

import pytest
from PIL import Image

CODE = """
import numpy as np
import torch
from PIL import Image
from torch import nn


class Squares(torch.utils.data.Dataset):
    classes = ("dark", "light")

    def __init__(self, split):
        self.count = {"train": 40, "val": 10, "test": 10}[split]
        self.targets = [i % 2 for i in range(self.count)]

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return Image.new("L", (24, 24), 40 + 160 * (i % 2) + i % 7), i % 2


class Nothing:
    classes = ("a", "b")

    def __init__(self, split): ...

    def __len__(self):
        return 0


def mirrored(image):
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def as_tensor(image):
    return torch.from_numpy(np.asarray(image, dtype=np.float32)[None] / 255)


def fails(image):
    raise RuntimeError("my own transform")


def brighter(images_BCHW, generator):
    return images_BCHW + float(generator.random())


def stack(samples):
    return torch.stack([torch.from_numpy(np.array(s[0] if isinstance(s, tuple) else s))[..., None] for s in samples])


def dark(samples):
    return stack(samples).float().permute(0, 3, 1, 2) / 1000


class Net(nn.Sequential):
    def __init__(self, num_classes, in_channels, width=4):
        super().__init__(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * in_channels, width), nn.Linear(width, num_classes))


def ones(num_classes, in_channels):
    return nn.Identity()


class Unused(Net):
    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels)
        self[1].aux = nn.Linear(2, 2)


def squared(logits_BK, targets_BK):
    return ((logits_BK.softmax(1) - targets_BK) ** 2).sum(1)


def a_mean(logits_BK, targets_BK):
    return squared(logits_BK, targets_BK).mean()


def setup(session):
    session.trainer.state.mine = 1


def broken_setup(session):
    raise ValueError("in my setup")


class Later:
    def __call__(self, session):
        from ignite.engine import Events
        @session.trainer.on(Events.ITERATION_COMPLETED(once=2))
        def my_failing_handler(engine):
            raise ValueError("in my handler")

later = Later()
"""


@pytest.fixture
def mine(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(CODE)
    return lambda name: f"{file}:{name}"


@pytest.fixture
def trained(cli, tiny_flags):
    """(*arguments) -> the ended program, and its summary where there is one."""

    def run(*arguments):
        taken = {argument for argument in arguments if argument.startswith("--")}
        kept = []
        for flag, value in [
            *zip(tiny_flags[0:14:2], tiny_flags[1:14:2], strict=True),
            ("--name", "run"),
        ]:
            if flag not in taken and not (flag == "--model-args" and "--model" in taken):
                kept += [flag, value]
        ended = cli("train", *kept, "--no-plots", "--no-tensorboard", "--quiet", *arguments)
        file = ended.folder / "runs" / "run" / "summary.json"
        ended.summary = json.loads(file.read_text()) if file.exists() else None
        return ended

    return run


def test_a_data_set_of_the_user_s_is_trained_on_and_scored(trained, mine, cli):
    ended = trained("--data", mine("Squares"), "--epochs", "4", "--lr", "0.01", "--no-augment")
    assert ended.code == 0, ended.err
    assert (
        ended.summary["data"]["counts"] == {"train": 40, "val": 10, "test": 10}
        and ended.summary["test"]["n"] == 10
    )
    best = ended.folder / "runs" / "run" / "checkpoints" / "best.pt"
    refused = cli("evaluate", best)
    assert refused.code == 2 and f"--data {mine('Squares')}" in refused.err
    assert cli("evaluate", best, "--data", mine("Squares"), "--split", "test").code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--sample-transform", "mirrored"),
        ("--batch-transform", "brighter"),
        ("--collate-fn", "stack"),
        ("--model", "Net"),
        ("--loss", "squared"),
        ("--handlers", "setup"),
    ],
)
def test_a_piece_of_the_user_s_takes_part(trained, mine, flags):
    ended = trained(flags[0], mine(flags[1]))
    assert ended.code == 0, ended.err
    assert ended.summary["status"] == "completed" and ended.summary["iterations"] == 4


@pytest.mark.slow
def test_a_network_with_an_unused_parameter_is_refused_with_several_processes(trained, mine):
    flags = ("--model", mine("Unused"), "--epochs", "1", "--nproc", "2")
    ended = trained(*flags)
    assert ended.code == 2 and "Traceback" not in ended.err
    assert "--freeze 1, " in ended.err
    assert trained(*flags, "--freeze", "1").summary["status"] == "completed"


def test_a_transform_gets_the_images_of_a_data_set_without_their_labels(trained, mine):
    ended = trained(
        "--data", mine("Squares"), "--sample-transform", mine("mirrored"), "--epochs", "1"
    )
    assert ended.code == 0, ended.err


def test_a_transform_that_would_pass_by_the_preparation_of_val_is_refused(trained, mine):
    for workers in ("0", "1"):
        ended = trained("--sample-transform", mine("as_tensor"), "--workers", workers)
        assert (
            ended.code == 2
            and "--batch-transform" in ended.err
            and len(ended.err.splitlines()) == 1
        )
        assert not (ended.folder / "runs" / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_batches_of_the_user_s_making_are_made_so_in_evaluate_too(trained, mine, cli):
    ended = trained("--collate-fn", mine("dark"))
    assert ended.code == 0, ended.err
    best = ended.folder / "runs" / "run" / "checkpoints" / "best.pt"
    refused = cli("evaluate", best)
    assert refused.code == 2 and f"--collate-fn {mine('dark')}" in refused.err
    absent = cli("evaluate", best, "--collate-fn", "nowhere:f")
    assert (
        absent.code == 2 and "no module 'nowhere'" in absent.err and "#configuration" in absent.err
    )
    scored = cli("evaluate", best, "--collate-fn", mine("dark"), "--json", "-")
    assert json.loads(scored.out)["loss"] == pytest.approx(ended.summary["val"]["loss"], abs=1e-6)
    Image.new("L", (48, 48), 90).save(ended.folder / "face.png")
    assert "has no part in this" in cli("predict", best, ended.folder / "face.png").err
    assert cli("info", best).err == ""  # it gives no answers


def test_pieces_work_together_and_a_loss_may_be_one_of_several_terms(trained, mine):
    ended = trained(
        "--model",
        mine("Net"),
        "--model-args",
        "{width: 8}",
        "--loss",
        f"ce+0.5*{mine('squared')}",
        "--sample-transform",
        mine("mirrored"),
        "--batch-transform",
        mine("brighter"),
        "--mixup",
        "0.4",
    )
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--data", "Nothing"), "gave no data"),
        (("--data", "absent"), "has no 'absent'"),
        (("--model", "ones"), "must give logits"),
        (("--loss", "a_mean"), "one value per image"),
        (("--handlers", "absent"), "has no 'absent'"),
        (("--model", "CODE"), "has no 'CODE'"),
    ],
)
def test_a_piece_that_doesn_t_fit_is_refused_in_one_line(trained, mine, flags, said):
    ended = trained(flags[0], mine(flags[1]))
    assert ended.code == 2 and said in ended.err, ended.err
    assert len(ended.err.strip().splitlines()) == 1 and list(ended.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--sample-transform", "fails"), "my own transform"),
        (("--handlers", "broken_setup"), "in my setup"),
        (("--handlers", "later"), "my_failing_handler"),
    ],
)
def test_an_error_in_the_user_s_code_is_shown_with_its_traceback(trained, mine, flags, said):
    ended = trained(flags[0], mine(flags[1]))
    assert ended.code == 1
    assert "Traceback" in ended.err and said in ended.err


def test_weights_are_taken_up_and_parts_frozen_from_the_command_line(trained, finished_run):
    best = str(finished_run / "checkpoints" / "best.pt")
    ended = trained("--init-from", best, "--freeze", "head")
    assert ended.code == 0, ended.err
    log = (ended.folder / "runs" / "run" / "log.txt").read_text()
    assert (
        "loaded" in log
        and "backbone" in log
        and "head" not in log.split("group")[-1].split("\n")[0]
    )
