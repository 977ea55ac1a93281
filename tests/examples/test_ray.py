"""examples/ray_train.py with two real Ray workers: one is killed, Ray restarts the group, the weights are the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fer_ignite import train
from fer_ignite.checkpoint.format import load_checkpoint, state_digest
from fer_ignite.config import check

pytestmark = pytest.mark.slow
pytest.importorskip("ray.train")

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, os, sys
import ray, ray_train, kill_once

folder, cache = sys.argv[1:3]
paths = os.pathsep.join(sys.path[:1] + [os.environ["PYTHONPATH"]])
environment = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "FER_IGNITE_CACHE": cache, "KILL_FOLDER": folder}
ray.init(
    num_cpus=2,
    include_dashboard=False,
    object_store_memory=100_000_000,
    runtime_env={"env_vars": environment},
)
settings = json.loads(sys.argv[3])
settings["test_handlers"] = (kill_once.kill_once,)
result = ray_train.fit(settings, workers=2, storage=f"{folder}/storage", failures=2)
assert result.error is None, result.error
print("FOUND " + json.dumps({"checkpoint": result.checkpoint.path, "metrics": result.metrics}))
"""
KILL = '''
import os, signal
from pathlib import Path
from ignite.engine import Events


def kill_once(session):
    """The second worker dies in the third epoch of the first attempt."""
    mark = Path(os.environ["KILL_FOLDER"], "killed")

    @session.trainer.on(Events.ITERATION_COMPLETED(once=10))
    def kill(engine):
        if session.rank == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
'''


SETTINGS = {
    "data": "demo:140",
    "epochs": 4,
    "batch_size": 32,
    "precision": "fp32",
    "threads": 1,
    "device": "cpu",
    "model_args": {"widths": [8, 8], "blocks": [0, 0]},
    "plots": False,
    "tensorboard": False,
    "quiet": True,
    "mixup": 0.3,
    "model_ema": True,
}


def test_a_killed_worker_costs_no_weight(tmp_path):
    """Compared with two processes of the package's own launcher: the launcher doesn't show in the weights."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "kill_once.py").write_text(KILL)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "examples"), str(ROOT), str(tmp_path)]),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    script = [sys.executable, tmp_path / "script.py", tmp_path, os.environ["FER_IGNITE_CACHE"]]
    ended = subprocess.run(
        [*script, json.dumps(SETTINGS)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout.split("FOUND ")[1].splitlines()[0])
    assert (tmp_path / "killed").exists()  # a worker did die
    whole = train(check({**SETTINGS, "out": str(tmp_path), "name": "whole"}), nproc=2)
    files = (Path(found["checkpoint"]), Path(whole["folder"], "checkpoints"))
    restarted, undisturbed = (load_checkpoint(folder / "last.pt") for folder in files)
    assert restarted["trainer"]["iteration"] == 16 and found["metrics"]["epoch"] == 4
    for part in ("model", "ema", "optimizer"):
        assert state_digest(restarted[part]) == state_digest(undisturbed[part]), part
    line = json.loads(Path(whole["folder"], "history.jsonl").read_text().splitlines()[-1])
    for name in ("val_loss", "train_loss", "val_accuracy"):
        assert found["metrics"][name] == line[name]
