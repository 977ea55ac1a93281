"""The GPU check runs every part on the CPU at tiny sizes, writes after each row, and continues what is missing."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
CHECK = ROOT / "scripts" / "gpu_parts" / "check.py"


def check(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(CHECK), *words], capture_output=True, text=True)


@pytest.mark.slow
def test_every_part_runs_on_the_cpu_at_tiny_sizes(tmp_path):
    out = tmp_path / "found.json"
    words = ("--tiny", "--device", "cpu", "--out", str(out), "--work", str(tmp_path / "work"))
    ended = check(*words, "--minutes", "10")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    parts = json.loads(out.read_text())["parts"]
    assert all(part["finished"] and part["rows"] for part in parts.values())
    rows = {row["name"]: row["status"] for part in parts.values() for row in part["rows"]}
    assert rows["killed at iteration 10 and resumed, fp32: the same weights, bit for bit"] == "ok"
    assert rows["no synchronisation in the step"] == "skipped"
    again = check(*words)  # nothing is missing, so nothing is run
    assert again.returncode == 0 and again.stdout.strip().startswith("0 rows fail")


@pytest.mark.slow
def test_a_part_without_time_is_left_for_the_next_check(tmp_path):
    out = tmp_path / "found.json"
    words = ("--tiny", "--device", "cpu", "--out", str(out), "--work", str(tmp_path / "work"))
    assert check(*words, "--minutes", "0", "--parts", "batches").returncode == 0
    assert json.loads(out.read_text())["parts"]["batches"]["finished"] is False
    assert "ok      " in check(*words, "--parts", "batches").stdout
    assert json.loads(out.read_text())["parts"]["batches"]["finished"] is True


@pytest.mark.slow
def test_unknown_parts_and_a_machine_without_a_gpu_are_refused(tmp_path):
    assert "there is no part 'x'; choose from resume" in check("--parts", "x").stderr
    ended = check("--device", "cpu")
    assert ended.returncode == 2 and "--tiny runs every part's code on the CPU" in ended.stderr
    if not torch.cuda.is_available():
        ended = check("--device", "cuda")
        assert ended.returncode == 2
        assert "--tiny --device cpu runs every part's code on the CPU" in ended.stderr


def test_a_part_of_which_a_row_is_postponed_is_not_finished(tmp_path):
    sys.path[:0] = [str(CHECK.parent)]
    import check as program
    import common

    out, found = tmp_path / "found.json", {"parts": {}}
    work = common.Check(torch.device("cpu"), True, "demo:210", tmp_path, time.monotonic() + 60)
    done, late = common.judged("a", True, ""), common.postponed("b")
    for rows, finished in (([done], True), ([done, late], False)):
        program.PARTS["resume"] = lambda _, rows=rows: iter(rows)
        program.run_part("resume", work, found, out)
        assert json.loads(out.read_text())["parts"]["resume"]["finished"] is finished
