import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import fer_ignite
from fer_ignite.checkpoint.failpoints import Fault, parse_faults, reach

ROOT = str(Path(fer_ignite.__path__[0]).parent)


def test_a_fault_belongs_to_one_attempt():
    text = "mid-write:0:7,during-resume:1:9:1"
    assert list(parse_faults(text, attempt=0)) == [Fault("mid-write", 0, 7)]
    assert list(parse_faults(text, attempt=1)) == [Fault("during-resume", 1, 9)]


@pytest.mark.parametrize("text", ["nowhere:0:1", "mid-write", "mid-write:x:1"])
def test_a_fault_that_would_never_happen_is_refused(text: str):
    with pytest.raises(ValueError):
        list(parse_faults(text, attempt=0))


def test_nothing_happens_without_the_variable():
    reach("mid-write", rank=0, iteration=10**9)


def test_the_named_process_dies_at_the_point_and_not_before_the_iteration():
    code = (
        "from fer_ignite.checkpoint.failpoints import reach; reach('mid-write', rank=0, iteration=6); "
        "reach('mid-write', rank=1, iteration=7); reach('after-write', rank=0, iteration=7); "
        "print('alive', flush=True); reach('mid-write', rank=0, iteration=8); print('not dead')"
    )
    environment = os.environ | {"FER_FAULT": "mid-write:0:7", "PYTHONPATH": ROOT}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert result.returncode == -signal.SIGKILL and result.stdout == "alive\n"
