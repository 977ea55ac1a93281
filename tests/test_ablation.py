"""The ablation runs its variants, continues where it was stopped, and never scores test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ABLATE = Path(__file__).parents[1] / "scripts" / "ablation_parts" / "ablate.py"


def ablate(*words):
    return subprocess.run([sys.executable, str(ABLATE), *words], capture_output=True, text=True)


@pytest.mark.slow
def test_each_variant_is_a_run_judged_on_val_and_is_not_repeated(tmp_path):
    words = (
        "--data",
        "demo:140",
        "--epochs",
        "1",
        "--out",
        str(tmp_path / "runs"),
        "--json",
        str(tmp_path / "found.json"),
    )
    said = ablate(*words, "--only", "no augmentation")
    assert said.returncode == 0, said.stderr
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["quick", "no augmentation"]
    summaries = [
        json.loads(path.read_text()) for path in sorted(tmp_path.glob("runs/*/summary.json"))
    ]
    assert len(summaries) == 2 and not any("test" in summary for summary in summaries)
    assert sorted(100 * summary["val"]["accuracy"] for summary in summaries) == pytest.approx(
        sorted(row["shift10"] for row in rows), abs=0.01
    )
    assert ablate(*words, "--only", "no augmentation").stdout == said.stdout


@pytest.mark.slow
def test_an_unknown_variant_is_refused_by_name():
    said = ablate("--data", "demo:140", "--only", "no data")
    assert (
        said.returncode == 2 and "there is no variant 'no data'; choose from quick; " in said.stderr
    )
