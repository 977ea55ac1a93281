"""Trainer for facial-expression recognition on PyTorch-Ignite; every step and decision is an event.

Public names are imported on first use, so that ``fer-ignite --help`` needs no torch.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

# For type checkers and editors, which don't run __getattr__.
if TYPE_CHECKING:
    from ignite.engine import Events

    from fer_ignite.api import build_session, train
    from fer_ignite.config import Config
    from fer_ignite.inference.comparison import compare
    from fer_ignite.inference.evaluate import evaluate
    from fer_ignite.inference.loaded_model import load_model
    from fer_ignite.inference.predictor import predict
    from fer_ignite.training.events import RunEvents, StepEvents
    from fer_ignite.training.session import Session
    from fer_ignite.training.trainer import create_evaluator, create_trainer

__version__ = "0.1.0"

_HOMES = {
    "Config": "fer_ignite.config",
    "Events": "ignite.engine",
    "RunEvents": "fer_ignite.training.events",
    "Session": "fer_ignite.training.session",
    "StepEvents": "fer_ignite.training.events",
    "build_session": "fer_ignite.api",
    "create_evaluator": "fer_ignite.training.trainer",
    "create_trainer": "fer_ignite.training.trainer",
    "compare": "fer_ignite.inference.comparison",
    "evaluate": "fer_ignite.inference.evaluate",
    "load_model": "fer_ignite.inference.loaded_model",
    "predict": "fer_ignite.inference.predictor",
    "train": "fer_ignite.api",
}

__all__ = [
    "Config",
    "Events",
    "RunEvents",
    "Session",
    "StepEvents",
    "build_session",
    "compare",
    "create_evaluator",
    "create_trainer",
    "evaluate",
    "load_model",
    "predict",
    "train",
]


# Names that nobody has used yet are not in the module's dictionary, and so not in Tab completion.
def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fer_ignite' has no attribute {name!r}")
    from fer_ignite.terminal import status

    # A script is silent until its first line of ours, which torch's import delays by seconds.
    loaded = name == "Config" or "torch" in sys.modules
    with status("loading torch", quiet=loaded or _is_worker()):
        return getattr(import_module(_HOMES[name]), name)


def _is_worker() -> bool:
    # Workers import the user's script again, all onto one terminal.
    import multiprocessing

    return multiprocessing.parent_process() is not None or os.environ.get("LOCAL_RANK", "0") != "0"
