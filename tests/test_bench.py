"""The benchmark runs and measures; what it finds is never tested, only that it is found."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = Path(__file__).parents[1] / "scripts" / "bench_parts" / "measure.py"


def measure(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(MEASURE), *words], capture_output=True, text=True)


@pytest.mark.slow
def test_training_is_raced_against_the_bare_step_and_the_tutorials_loop(tmp_path):
    said = measure(
        "--data",
        "demo:1400",
        "--parts",
        "views,train48",
        "--rounds",
        "1",
        "--steps",
        "4",
        "--json",
        str(tmp_path / "found.json"),
    )
    assert said.returncode == 0, said.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    race = found["found"]["train fer48 48 px"]
    assert {"bare step", "fer_ignite", "tutorial"} <= set(race)
    for contender in race.values():
        assert contender["images_per_s"]["median"] == pytest.approx(
            4 * 128 / contender["rounds"][0], rel=1e-3
        )
    pair = race["tutorial"]["rounds"][0] / race["fer_ignite"]["rounds"][0]
    assert race["fer_ignite"]["x tutorial"]["median"] == pytest.approx(pair, rel=1e-3)
    assert 0 < race["fer_ignite"]["data_share"]["median"] < 1
    assert "| fer48 48 px: end to end, of the bare step's speed |" in said.stdout


@pytest.mark.slow
def test_an_unknown_part_is_refused_by_name():
    said = measure("--parts", "step,stairs")
    assert said.returncode == 2
    assert "there is no part 'stairs'; choose from step, train48" in said.stderr


def test_what_the_scripts_install_is_ignored_by_git():
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        pytest.skip("not a git checkout")
    for folder in (".venv/x", ".venv-lightning/pyvenv.cfg"):
        assert subprocess.run(["git", "check-ignore", "-q", folder], cwd=root).returncode == 0, (
            folder
        )


@pytest.mark.slow
def test_packing_is_raced_against_the_decoders_alone(tmp_path):
    found = tmp_path / "found.json"
    said = measure("--data", "demo:140", "--parts", "pack", "--rounds", "1", "--json", str(found))
    assert said.returncode == 0, said.stderr
    races = json.loads(found.read_text())["found"]
    assert set(races) == {"pack 126 small PNGs", "pack 630 small PNGs", "pack 126 224 px JPEGs"}
    for race in races.values():
        assert {"pack", "Pillow"} <= set(race)
        for other in set(race) - {"pack"}:
            for unit, name in (("clock", f"x {other}"), ("cpu", f"x {other} (CPU time)")):
                ratio = race[other]["rounds"][unit][0] / race["pack"]["rounds"][unit][0]
                assert race["pack"][name]["median"] == pytest.approx(ratio, rel=1e-3)
    assert "torchvision" in races["pack 126 224 px JPEGs"]
    assert "of torchvision's decoder alone on all cores, by CPU time |" in said.stdout
