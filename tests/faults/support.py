"""The small run that the fault tests kill, stop and repeat: 201 train, 61 val and 20 test faces, 7 iterations an epoch.

Numbers are odd on purpose: slices of two processes differ, and the last batch of an epoch holds 9 faces.
"""

import json
import math
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fer_ignite.checkpoint.format import load_checkpoint
from fer_ignite.checkpoint.plain import state_digest
from fer_ignite.config import Config, check
from fer_ignite.data.drawn_faces import draw_faces

HERE = Path(__file__).parent
TRAIN, VAL, TEST = 201, 61, 20
PER_EPOCH, EPOCHS = 7, 3
STEPS = PER_EPOCH * EPOCHS

# What an interruption may change: clocks.
TIMES = ("epoch_seconds", "elapsed_seconds", "images_per_second")
# What a resume must bring back to the bit.
STATE = (
    *(
        "model",
        "ema",
        "optimizer",
        "scheduler",
        "plateau",
        "scaler",
        "trainer",
        "early_stopping",
        "best",
        "sums",
    ),
    *("handlers", "outcome"),
)


# Rounding differs between one and two processes, as between one thread and two. Where a maximum chooses pixels, training
# blows that up (2 threads: 2e-2 after 200 steps, 2 processes: 5e-2), and so does Adam where gradients are nearly 0. So 200
# steps are compared on a network without a maximum, by SGD.
SMOOTH = {
    "model_args": {"widths": [8], "blocks": [0], "activation": "gelu", "pooling": "avg"},
    "opt": "sgd",
    "lr": 0.05,
    "momentum": 0.9,
    "weight_decay": 5e-4,
}


def write_faces(path: Path, *, train: int = TRAIN, val: int = VAL, test: int = TEST) -> Path:
    """A csv in FER2013's form with drawn faces."""
    images_NHW1, labels_N = draw_faces(train + val + test, seed=3)
    usages = ["Training"] * train + ["PublicTest"] * val + ["PrivateTest"] * test
    lines = ["emotion,pixels,Usage"]
    for image_HW1, label, usage in zip(images_NHW1, labels_N.tolist(), usages, strict=True):
        lines.append(f"{label},{' '.join(map(str, image_HW1.ravel().tolist()))},{usage}")
    path.write_text("\n".join(lines) + "\n")
    return path


def settings(data: Path | str, out: Path, **changed: Any) -> dict[str, Any]:
    """Those of the small run: Adam, warm-up and cosine, an average of the weights, augmentation."""
    values: dict[str, Any] = {
        "data": str(data),
        "out": str(out),
        "name": "run",
        "epochs": EPOCHS,
        "batch_size": 32,
        "seed": 5,
        "model": "fer48",
        "model_args": {"widths": [8, 8], "blocks": [0, 0]},
        "norm": "group",
        "opt": "adam",
        "lr": 0.01,
        "sched": "cosine",
        "warmup_epochs": 0.5,
        "model_ema": True,
        "model_ema_decay": 0.9,
        "nesterov": False,
        "weight_decay": 0.05,
        "eval_batch_size": 16,
        "precision": "fp32",
        "device": "cpu",
        "threads": 1,
        "plots": False,
        "quiet": True,
        "tensorboard": False,
        "log_every": 2,
    }
    return {**values, **changed}


def config_of(data: Path | str, out: Path, **changed: Any) -> Config:
    return check(settings(data, out, **changed))


def newest(run: Path) -> Path:
    """The run's newest resume point."""
    return max((run / "checkpoints").glob("step-*.pt"), key=lambda path: int(path.stem[5:]))


def digest(checkpoint: Path) -> str:
    """SHA-256 over everything in a checkpoint that a resume must bring back."""
    content = load_checkpoint(checkpoint)
    return state_digest({name: content.get(name) for name in STATE})


def final(run: Path) -> dict[str, Any]:
    """All that two runs must agree in, times aside."""
    last, best = newest(run), load_checkpoint(run / "checkpoints" / "best.pt")
    summary = json.loads((run / "summary.json").read_text())
    return {
        "file": last.name,
        "state": digest(last),
        "best": state_digest({name: best.get(name) for name in ("model", "ema", "trainer")}),
        "top": sorted(path.name for path in (run / "checkpoints").glob("best-*.pt")),
        "history": history(run),
        "results": results(run),
        "scalars": sorted(scalars(run)),
        "status": summary["status"],
        "weights": summary["weights_sha256"],
        "test": summary.get("test"),
    }


def without_temperature(checkpoint: Path) -> str:
    """SHA-256 over all of best.pt but what the end of a run adds to it."""
    return state_digest(
        {
            name: value
            for name, value in load_checkpoint(checkpoint).items()
            if name != "temperature"
        }
    )


def history(run: Path) -> list[str]:
    """history.jsonl's lines without the clocks' readings."""
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [
        json.dumps({name: value for name, value in line.items() if name not in TIMES})
        for line in lines
    ]


def results(run: Path) -> list[list[str]]:
    """results.csv without the clocks' columns."""
    rows = [line.split(",") for line in (run / "results.csv").read_text().splitlines()]
    kept = [place for place, name in enumerate(rows[0]) if name not in TIMES]
    return [[row[place] for place in kept] for row in rows]


def scalars(run: Path) -> Iterator[tuple[str, int, str]]:
    """(tag, step, value) of every TensorBoard scalar and curve, clocks aside."""
    from tensorboardX.proto.event_pb2 import Event

    for file in (run / "tensorboard").glob("events.*"):
        content, place = file.read_bytes(), 0
        while place < len(content):
            (size,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + size])
            place += 16 + size
            for value in event.summary.value:
                if value.tag.rpartition("/")[2] not in TIMES:
                    points = value.tensor.float_val or [value.simple_value]
                    yield value.tag, event.step, " ".join(float(point).hex() for point in points)


def build_loss_from_config(path: Path) -> dict[int, tuple[float, float]]:
    """Per iteration (sum of losses, faces) over all processes, from the files that ``note_losses`` left in ``path``."""
    sums: dict[int, tuple[float, float]] = {}
    for file in path.glob("losses-*.jsonl"):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            total, count = sums.get(entry["iteration"], (0.0, 0.0))
            sums[entry["iteration"]] = (
                total + float.fromhex(entry["loss"]),
                count + entry["count"],
            )
    return sums


def last_iterations(path: Path) -> list[int]:
    """The last iteration of each process, as ``note_losses`` saw it."""
    return [
        json.loads(file.read_text().splitlines()[-1])["iteration"]
        for file in sorted(path.glob("losses-*.jsonl"))
    ]


def greatest_difference(
    one: Mapping[int, tuple[float, float]], other: Mapping[int, tuple[float, float]]
) -> float:
    """Largest distance of two runs' mean losses at any iteration."""
    assert one.keys() == other.keys()
    assert all(one[key][1] == other[key][1] for key in one)
    return max(math.fabs(one[key][0] / one[key][1] - other[key][0] / other[key][1]) for key in one)


def as_killed_after(snapshots: Path, iteration: int, to: Path) -> Path:
    """A copy of the run's folder as SIGKILL after ``iteration`` would have left it."""
    return Path(shutil.copytree(snapshots / str(iteration), to / "run"))
