"""Row F1: what can't be meant ends with code 2 and one line that names it, before anything is written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fer_ignite

PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "faces.png"

NONSENSE = [
    ("--lr", "0"),
    ("--lr", "-1"),
    ("--lr", "nan"),
    ("--lr", "inf"),
    ("--lr", "1e400"),
    ("--lr", "abc"),
    ("--lr", ""),
    ("--epochs", "0"),
    ("--epochs", "-1"),
    ("--epochs", "1e9"),
    ("--epochs", "2.5"),
    ("--batch-size", "0"),
    ("--batch-size", "-1"),
    ("--batch-size", "shift18"),
    ("--nproc", "0"),
    ("--nproc", "-1"),
    ("--nproc", "999"),
    ("--workers", "-1"),
    ("--seed", "-1"),
    ("--seed", "4294967296"),
    ("--seed", "x"),
    ("--patience", "-1"),
    ("--min-delta", "-0.1"),
    ("--momentum", "1"),
    ("--weight-decay", "-1"),
    ("--dropout", "1"),
    ("--smoothing", "1"),
    ("--hflip", "1.5"),
    ("--rotate", "181"),
    ("--image-size", "1"),
    ("--image-size", "4096"),
    ("--val-fraction", "0"),
    ("--val-fraction", "1"),
    ("--split", "0.5,0.5"),
    ("--split", "a,b,c"),
    ("--betas", "0.9"),
    ("--max-time", "soon"),
    ("--max-time", "0"),
    ("--precision", "fp8"),
    ("--device", "tpu"),
    ("--opt", "lion"),
    ("--sched", "linear"),
    ("--tta", "always"),
    ("--monitor", ""),
    ("--model", "resnet5000"),
    ("--model", "no_such_module_x:Net"),
    ("--model-args", "[1, 2]"),
    ("--model-args", "{a: "),
    ("--model-args", "{no_such_argument: 1}"),
    ("--loss", "hinge"),
    ("--loss", "0*ce"),
    ("--monitor", "acuracy"),
    ("--class-weights", "absent.csv"),
    ("--freeze", "no_such_layer"),
    ("--init-from", "absent.pt"),
    ("--data", "absent_folder"),
    ("--data", ""),
    ("--data", "demo:x"),
    ("--data", "kaggle:noslash"),
    ("--votes", "absent.csv"),
    ("--config", "absent.yaml"),
    ("--recipe", "absent"),
    ("--set", "lr"),
    ("--set", "lrr=1"),
    ("--set", "=3"),
    ("--handlers", "no_such_module_x:f"),
    ("--handlers", "./absent.py:f"),
    ("--handlers", "print"),
    ("--resume", "absent.pt"),
    ("--name", "a/b"),
    ("--name", ".."),
    ("--gpus", "a"),
    ("--master-port", "70000"),
    ("--dist-timeout", "0"),
    ("--clip-grad", "0"),
    ("--grad-accum-steps", "5"),
    ("--classes", "angry,nobody"),
    ("--max-train-samples", "0"),
    ("--keep-checkpoints", "1"),
    ("--milestones", "x"),
    ("--pct-start", "1"),
    ("--node-rank", "1"),
    ("--warmup-epochs", "1"),
    ("--sample-transform", "no_such_module_x:f"),
    ("--collate-fn", "nope"),
    ("--batch-transform", "collections:absent"),
    ("--no-such-flag",),
    ("--epoch", "3"),
    ("surplus",),
    ("--lr",),
    ("--lr", "0.1", "--lr", "0.2"),
    ("--lr=0.1", "--lr=0.2"),
    ("--augment", "--no-augment"),
    ("--lr", "0.1", "--set", "lr=0.2"),
    ("--resize", "32", "--image-size", "48"),
    ("--sched", "multistep"),
    ("--momentum", "0", "--opt", "sgd"),
    ("--nnodes", "2", "--nproc", "1"),
    ("--seeds", "0,²"),
    ("--seeds", "1,01"),
    ("--seeds", "0,"),
    ("--max-time", "1.2.3s"),
    ("--max-time", "²s"),
]


@pytest.mark.parametrize("arguments", NONSENSE, ids=lambda arguments: " ".join(arguments)[:50])
def test_nonsense_is_refused_in_one_line_and_nothing_is_written(cli, arguments):
    tiny = () if "--data" in arguments else ("--data", "demo:140")
    ended = cli("train", *tiny, "--quiet", *arguments)
    assert ended.code == 2
    lines = [line for line in ended.err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("fer-ignite: "), ended.err
    named = arguments[0].partition("=")[0].lstrip("-").replace("-", "[-_ ]")
    said = {
        "surplus": "surplus",
        "epoch": "epoch",
        "augment": "augment",
        "momentum": "momentum|nesterov",
        "nnodes": "master",
        "set": "set|lrr|lr",
    }
    assert re.search(said.get(arguments[0].lstrip("-"), named), lines[0]), lines[0]
    assert "Traceback" not in ended.err and ended.out == ""
    assert list(ended.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate"], "CKPT"),
        (["evaluate", "absent.pt"], "absent.pt"),
        (["evaluate", "."], "neither a checkpoint nor a run's folder"),
        (["predict", "absent.pt"], "nothing to look at"),
        (["predict", "absent.pt", "x.png"], "x.png|absent.pt"),
        (["pack"], "DATA"),
        (["pack", "absent"], "absent"),
        (["pack", "demo:7", "--lr", "3"], "--lr"),
        (["info", "absent"], "absent"),
        (["trian"], "did you mean 'train'"),
        (["zzz"], "there are train"),
        (["--zzz"], "--zzz"),
        (["evaluate", "x.pt", "--split", "every"], "--split"),
        (["evaluate", "x.pt", "--nproc", "0"], "--nproc"),
        (["tune", "s.yaml", "--timeout", "1.2.3s"], "--timeout 1.2.3s: give a time"),
        (["tune", "s.yaml", "--timeout", "²"], "--timeout ²"),
        (
            ["predict", "x.png", "--faces", "--margin", "nan"],
            "--margin.*nan is no finite number; give -0.4 to 2",
        ),
        (["predict", "x.png", "--faces", "--smooth-seconds", "nan"], "--smooth-seconds"),
        (["predict", "x.png", "--faces", "--margin", "3"], "--margin"),
        (
            ["predict", "x.png", "--faces", "--smooth-seconds", "inf"],
            "--smooth-seconds.*inf is no finite number; give 0 or more",
        ),
        (["audit", "demo:70", "--drop-above", "nan"], "--drop-above"),
        (["find-lr", "--data", "demo:70", "--end-lr", "nan"], "--end-lr"),
        (["predict", "x.pt", "y", "--topk", "0"], "--topk"),
        (["predict", str(PICTURE), "--weights", "0.5,0.5"], "--weights: no checkpoint is named"),
        (["demo", "--weights", "0.5,0.5"], "--weights: no checkpoint is named"),
        (["serve", "--weights", "0.5,0.5"], "--weights: no checkpoint is named"),
        (["train", "--model", "zzz", "--data", "demo:70"], "'fer-ignite info --full' lists all"),
        (["predict", "x.pt", "y", "--format", "xml"], "--format"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_other_commands_refuse_nonsense_too(cli, arguments, said):
    ended = cli(*arguments)
    assert ended.code == 2 and re.search(said, ended.err), ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert list(ended.folder.iterdir()) == []


def test_an_output_folder_that_can_t_be_is_refused(cli):
    (cli("info", "absent").folder / "file").write_text("")
    ended = cli("train", "--data", "demo:140", "--quiet", "--out", "file")
    assert ended.code == 2 and "--out" in ended.err and "file" in ended.err
    assert len(ended.err.strip().splitlines()) == 1


def test_a_folder_that_holds_a_run_is_left_alone(cli, tiny_flags):
    assert cli("train", *tiny_flags, "--quiet").code == 0
    before = {
        path: path.stat().st_mtime_ns
        for path in (cli("info").folder / "runs").rglob("*")
        if path.is_file()
    }
    ended = cli("train", *tiny_flags, "--quiet")
    assert ended.code == 5
    assert "--resume auto" in ended.err and "--exist-ok" in ended.err
    after = {
        path: path.stat().st_mtime_ns
        for path in (ended.folder / "runs").rglob("*")
        if path.is_file()
    }
    assert {p.name for p in before if before[p] != after.get(p)} <= {"run.lock"}
    assert cli("train", *tiny_flags, "--quiet", "--exist-ok").code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [["--lr", "nan"], ["--model", "resnet5000"], ["--data", "absent"], ["--frobnicate"]],
)
def test_the_program_itself_ends_with_code_2_within_three_seconds(tmp_path, arguments):
    ended = subprocess.run(
        [sys.executable, "-m", "fer_ignite", "train", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(fer_ignite.__file__).parents[1])},
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1 and "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []
