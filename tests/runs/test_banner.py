"""What a run prints at its end: every line is true, every printed command runs."""

import json
import os
import re
import shlex
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from ignite.engine import Events

from fer_ignite import Config, train
from fer_ignite.checkpoint.run_dir import RunDir
from fer_ignite.distributed import Outcome
from fer_ignite.errors import FerError, Interrupted
from fer_ignite.runs import banner
from fer_ignite.runs.banner import result_lines, with_continuation
from fer_ignite.runs.prepare import RunSpec

CODE = """
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.head = nn.Linear(in_channels, num_classes)

    def forward(self, images_BCHW):
        return self.head(images_BCHW.mean(dim=(2, 3)))


def watch(session):
    session.trainer.state.watched = True
"""


def printed(err, name):
    return [line.split(None, 1)[1] for line in err.splitlines() if line.startswith(f"{name} ")]


@pytest.fixture
def runs(cli, tiny_flags):
    """(*flags, without=flags) -> the ended program, run with the tiny flags but for those."""
    Path("my.py").write_text(CODE)

    def make(*flags, without=()):
        left = iter(tiny_flags)
        kept = []
        for flag in left:
            words = [flag] if flag.startswith("--no-") else [flag, next(left)]
            kept += [] if flag in without else words
        ended = cli("train", *kept, *flags)
        assert ended.code == 0, ended.err
        return ended

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "without"),
    [
        ((), ()),
        (("--plots",), ("--no-plots",)),
        (("--max-train-samples", "50", "--tta", "none"), ()),
        (("--out", "a folder"), ()),
        (("--cache", "packs here"), ()),
        (("--folds", "3", "--fold", "1"), ()),
        (("--no-score-test", "--monitor", "loss"), ()),
        (("--model", "./my.py:Net"), ("--model-args",)),
    ],
)
def test_every_printed_next_command_runs_and_every_named_file_exists(cli, runs, flags, without):
    ended = runs(*flags, without=without)
    commands = printed(ended.err, "next")
    files = [
        line.split(None, 2)[2] for line in ended.err.splitlines() if line.startswith("look at ")
    ]
    assert len(files) == 1 and all(Path(file).is_file() for file in files)
    assert len(commands) == 1
    val = next(line for line in ended.err.splitlines() if line.startswith("val "))
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "fer-ignite"
        again = cli(*words)
        assert again.code == 0, again.err
        # the command scores what the line above it says
        assert (
            re.search(r"accuracy ([\d.]+ %)", again.out)[1]
            == re.search(r"accuracy ([\d.]+ %)", val)[1]
        )


@pytest.mark.slow
def test_printed_commands_begin_with_the_script_that_started_the_program(runs, monkeypatch):
    monkeypatch.setenv("FER_IGNITE_PROGRAM", "scripts/fer-ignite")
    (command,) = printed(runs().err, "next")
    assert command.startswith("scripts/fer-ignite evaluate ")


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--out", "a folder"),
        ("--model", "./my.py:Net"),
        ("--handlers", "./my.py:watch"),
        ("--folds", "3", "--fold", "1"),
    ],
)
def test_the_printed_continue_command_continues_the_run(cli, runs, flags):
    without = ("--model-args",) if "--model" in flags else ()
    ended = runs(
        *flags, "--set", "epochs=400", "--max-time", "0.4s", without=(*without, "--epochs")
    )
    (command,) = printed(ended.err, "continue")
    program, *words = shlex.split(command)
    assert program == "fer-ignite"
    again = cli(*words, "--max-time", "0.2s")
    assert again.code == 0, again.err
    assert re.search(r"^continues .*step-|^continues .*last", again.err, re.M)
    assert "demo:140" in again.err


@pytest.fixture
def stopped(tiny, tmp_path):
    """(store=None, handlers=(), **settings) -> the words of the command that continues a stopped run."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-4.pt").touch()

    def words(*, store=None, handlers=(), world=1, **settings):
        config = tiny(**{"threads": None, "device": "auto", **settings})
        session = SimpleNamespace(config=config, folder=RunDir(tmp_path), world=world)
        run_spec = RunSpec({}, str(tmp_path), None, store=store, handlers=handlers)
        return banner._continue(session, run_spec)

    return words


def test_the_continue_command_has_what_no_checkpoint_brings_back(stopped, tmp_path):
    flags = f"fer-ignite train --resume auto --name {tmp_path.name} --out {tmp_path.parent}"
    assert stopped() == flags
    assert (
        stopped(nproc=2, device="cuda", gpus=(0, 2), threads=3, dist_timeout=90)
        == f"{flags} --nproc 2 --device cuda --gpus 0,2 --threads 3 --dist-timeout 90.0"
    )
    assert stopped(sync_bn=True, lr=0.5) == flags  # the checkpoint's
    assert stopped(nproc=2, world=2) == f"{flags} --nproc 2"
    launched = stopped(world=2)  # by torchrun or srun, which set no setting
    assert launched.startswith("under the same launcher") and launched.endswith(
        flags.replace("fer-ignite", "-m fer_ignite")
    )
    in_store = stopped(store=f"s3://bucket/runs/{tmp_path.name}")
    assert in_store.endswith(" --out s3://bucket/runs")


def test_the_python_call_that_continues_can_be_evaluated(stopped, tmp_path):
    text = stopped(nproc=2, device="cpu", gpus=(1,), handlers=(print,))
    call = text.partition("train(")[2].removesuffix(", ...)")
    assert eval(call, {"Config": Config}) == Config(
        name=tmp_path.name,
        out=str(tmp_path.parent),
        resume="auto",
        nproc=2,
        device="cpu",
        gpus=(1,),
    )


def test_the_header_counts_the_faces_that_are_trained_on(runs):
    err = runs("--max-train-samples", "20").err
    assert "train 20 of 112, val 14, test 14" in err
    assert "1 epochs x 1 optimizer steps of at most 20 images" in err


def test_best_val_and_test_are_in_per_cent_with_their_split_and_views():
    scores = {"accuracy": 0.625, "uar": 0.5, "macro_f1": 0.4375, "n": 80}
    lines = result_lines(
        {
            "status": "completed",
            "epochs": 3,
            "seconds": 4.2,
            "best": {"metric": "accuracy", "value": 0.6125, "epoch": 2},
            "val": {**scores, "tta": "shift10"},
            "test": {**scores, "tta": "none"},
        }
    )
    assert lines[1:] == [
        "best        accuracy 61.25 % on val with 1 view, epoch 2",
        "val         accuracy 62.50 %, UAR 50.00 %, macro F1 43.75 % on 80 faces with 10 views",
        "test        accuracy 62.50 %, UAR 50.00 %, macro F1 43.75 % on 80 faces with 1 view",
    ]


def test_quiet_prints_the_result_and_nothing_else(runs):
    ended = runs("--quiet")
    assert [line.split()[0] for line in ended.err.splitlines()] == [
        "completed",
        "best",
        "val",
        "test",
    ]
    assert ended.out == ""


def test_quiet_json_stays_json(runs):
    assert json.loads(runs("--quiet", "--json").out)["status"] == "completed"


@pytest.mark.slow
@pytest.mark.parametrize("epochs", ["2", "3"])  # nothing left to do; something left
def test_quiet_still_warns_of_a_damaged_resume_point(cli, runs, epochs):
    folder = (
        runs("--set", "epochs=2", without=("--epochs",)).folder / "runs" / "run" / "checkpoints"
    )
    newest = max(folder.glob("step-*.pt"), key=lambda file: int(file.stem.split("-")[1]))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    ended = cli("train", "--resume", "auto", "--name", "run", "--epochs", epochs, "--quiet")
    assert ended.code == 0 and f"{newest.name} is damaged and passed over" in ended.err


@pytest.mark.parametrize(
    ("signum", "kind"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, FerError)]
)
def test_an_interrupted_run_says_where_it_was_and_how_it_continues(tiny, tmp_path, signum, kind):
    def send(session):
        session.trainer.add_event_handler(
            Events.ITERATION_COMPLETED(once=2), lambda: os.kill(os.getpid(), signum)
        )

    with pytest.raises(kind) as raised:
        train(tiny(), handlers=[send])
    found = re.fullmatch(
        rf"the run in .*run was interrupted by {signum.name} at iteration (\d+); "
        r"train\((Config\(.*\)), \.\.\.\) with the same objects and handlers continues it\.",
        str(raised.value),
    )
    assert int(found[1]) >= 2 and raised.value.exit_code == 128 + signum
    assert train(eval(found[2], {"Config": Config}))["status"] == "completed"


def test_a_run_that_is_interrupted_before_it_could_save_says_so():
    outcome = with_continuation(Outcome(130, "interrupted", "Interrupted by SIGINT."), Config())
    assert outcome.message.startswith("the run was interrupted by SIGINT before it could save;")
    failed = Outcome(1, "failed", "wrong")
    assert with_continuation(failed, Config()) is failed
