"""A checkpoint of each released version, and what it must still do in every later one.

``python tests/golden/golden.py`` trains the small run and writes this version's folder: ``step-32.pt``, taken in
mid-epoch, and ``expected.json`` with the next five losses, their faces in order, and the checkpoint's scores. The faces
are made of integers, so that every machine and version of numpy draws the same; losses may differ by rounding.
"""

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parents[1]))

from ignite.engine import Engine, Events  # noqa: E402

import fer_ignite  # noqa: E402
from fer_ignite import evaluate, train  # noqa: E402
from fer_ignite.config import check  # noqa: E402
from fer_ignite.training.session import Session  # noqa: E402

# of 6 iterations an epoch: the five losses stand on both sides of an epoch's end
SAVED_AT, NEXT = (32, 5)
SIDE_PX, SPLITS = 48, (("Training", 45), ("PublicTest", 21))


def write_faces(path: Path) -> Path:
    """A csv in FER2013's form: stripes as wide as the class's number, in noise out of SHA-256."""
    lines = ["emotion,pixels,Usage"]
    usages = [usage for usage, count in SPLITS for _ in range(count)]
    for number, usage in enumerate(usages):
        label = number * 5 % 7
        noise = hashlib.shake_256(str(number).encode()).digest(SIDE_PX * SIDE_PX)
        pixels = [
            value // 2 + 127 * (place % SIDE_PX // (label + 1) % 2)
            for place, value in enumerate(noise)
        ]
        lines.append(f"{label},{' '.join(map(str, pixels))},{usage}")
    path.write_text("\n".join(lines) + "\n")
    return path


def settings(faces: Path, out: Path, **changed: Any) -> dict[str, Any]:
    """As much of a checkpoint's content as one run can have: average, warm-up, patience, augmentation."""
    return {
        "data": str(faces),
        "out": str(out),
        "name": "run",
        "epochs": 7,
        "batch_size": 8,
        "seed": 7,
        "save_iterations": 4,
        "model": "fer48",
        "model_args": {"widths": [8, 8], "blocks": [0, 0]},
        "norm": "group",
        "opt": "adam",
        "lr": 0.03,
        "sched": "cosine",
        "warmup_epochs": 0.5,
        "model_ema": True,
        "model_ema_decay": 0.5,
        "nesterov": False,
        "monitor": "loss",
        "patience": 7,
        "precision": "fp32",
        "device": "cpu",
        "threads": 1,
        "plots": False,
        "tensorboard": False,
        "quiet": True,
        **changed,
    }


def noted(seen: dict[int, dict[str, Any]]) -> Any:
    """A handler that keeps each iteration's mean loss and the places of its faces."""

    def setup(session: Session) -> None:
        @session.trainer.on(Events.ITERATION_COMPLETED)
        def note(engine: Engine) -> None:
            output = engine.state.output
            loss = float(output["losses"]["loss"].double().sum()) / output["count"]
            seen[engine.state.iteration] = {
                "loss": loss,
                "faces": engine.state.batch.indices_B.tolist(),
            }

    return setup


def scores(checkpoint: Path, faces: Path) -> dict[str, Any]:
    """What the checkpoint makes of the validation faces."""
    found = evaluate(checkpoint, data=str(faces), quiet=True, device="cpu")
    return {
        name: found[name] for name in ("n", "loss", "accuracy", "class_names", "confusion_matrix")
    }


def resumed(checkpoint: Path, faces: Path, out: Path) -> dict[int, dict[str, Any]]:
    """The iterations that the run continues with, see ``noted``."""
    seen: dict[int, dict[str, Any]] = {}
    train(check({**settings(faces, out), "resume": str(checkpoint)}), handlers=[noted(seen)])
    return seen


def make(folder: Path) -> None:
    """Trains, keeps the checkpoint, and writes down what follows it."""
    with tempfile.TemporaryDirectory() as temporary:
        out, seen = Path(temporary), {}
        faces = write_faces(out / "faces.csv")
        folder.mkdir(exist_ok=True)

        def keep(session: Session) -> None:
            point = out / "run" / "checkpoints" / f"step-{SAVED_AT}.pt"
            after = Events.GET_BATCH_STARTED(
                event_filter=lambda engine, _: engine.state.iteration == SAVED_AT
            )
            session.trainer.add_event_handler(after, lambda: shutil.copy(point, folder))

        train(check(settings(faces, out)), handlers=[noted(seen), keep])
        expected = {
            "next": {number: seen[number] for number in range(SAVED_AT + 1, SAVED_AT + NEXT + 1)},
            "scores": scores(folder / f"step-{SAVED_AT}.pt", faces),
        }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    make(HERE / fer_ignite.__version__)
