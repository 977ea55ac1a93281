"""What has to happen in a process of its own: full disks, kills, and the order of system calls.

saving_child.py save FOLDER          three resume points and two bests
saving_child.py limit FOLDER         disk full at 20 random places, by the limit on a file's size
saving_child.py fill FOLDER          the same by filling a small file system
saving_child.py kill FOLDER          a child killed at each fault point of the third save
"""

import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events

from fer_ignite.checkpoint import failpoints
from fer_ignite.checkpoint.atomic_io import clean_temporary
from fer_ignite.checkpoint.format import SCHEMA, load_checkpoint, newest_valid
from fer_ignite.checkpoint.handler import AtomicSaver, PlainState, attach_best, attach_resume_points
from fer_ignite.errors import StorageError

WIDTH = 100  # about 40 KB of weights


def wire(folder: Path, *, width: int = WIDTH):
    trainer, evaluator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
    model = torch.nn.Linear(width, width)
    values = {
        "kind": "step",
        "classes": ["a", "b"],
        "world_size": 1,
        "outcome": "running",
        "elapsed": 0.0,
        "history": "",
        "temperature": 1.0,
    }
    states = {
        name: PlainState({} if dict in entry.types else values[name])
        for name, entry in SCHEMA.items()
        if name != "format"
    }
    to_save = states | {
        "model": model,
        "trainer": PlainState(lambda: {"iteration": trainer.state.iteration}),
    }
    saver = AtomicSaver(folder)
    points = attach_resume_points(
        trainer, to_save, saver=saver, event=Events.ITERATION_COMPLETED, keep=2
    )
    best = attach_best(
        evaluator, to_save, saver=saver, score=lambda engine: engine.state.score, trainer=trainer
    )
    return trainer, evaluator, points, best


def save(folder: Path, *, iterations: int = 3) -> None:
    trainer, evaluator, _, _ = wire(folder)

    @trainer.on(Events.ITERATION_STARTED(every=2))
    def evaluate(engine: Engine) -> None:
        evaluator.state.score = engine.state.iteration
        evaluator.run([0])

    trainer.run(range(iterations), max_epochs=1)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "ballast")


def fails_once_then_works(folder: Path, *, block, unblock) -> str:
    """One full disk: what must hold in it and after it. Returns the error's text."""
    trainer, _, points, _ = wire(folder)
    trainer.run(range(2), max_epochs=1)
    assert names(folder) == ["last.pt", "step-1.pt", "step-2.pt"]
    trainer.state.iteration = 3
    block()
    try:
        points(trainer)
        text = "saved"
    except StorageError as error:
        text = str(error)
    unblock()
    assert names(folder) == ["last.pt", "step-1.pt", "step-2.pt"], names(folder)
    assert newest_valid(folder).path.name == "step-2.pt"
    assert points.last_checkpoint == folder / "step-2.pt" and points.saver.pending == []
    points(trainer)
    assert names(folder) == ["last.pt", "step-2.pt", "step-3.pt"]
    assert load_checkpoint(folder / "last.pt")["trainer"]["iteration"] == 3
    return text


def limit_file_bytes(most: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def limit(folder: Path) -> None:
    texts, draws = [], random.Random(3)
    for trial in range(20):
        here = folder / str(trial)
        here.mkdir()
        most = draws.randrange(1, 4 * WIDTH * WIDTH)
        texts.append(
            fails_once_then_works(
                here,
                block=lambda most=most: limit_file_bytes(most),
                unblock=lambda: limit_file_bytes(resource.RLIM_INFINITY),
            )
        )
    print(json.dumps(texts))


def fill(folder: Path) -> None:
    texts, draws, ballast = [], random.Random(4), folder / "ballast"

    def block() -> None:
        left = draws.randrange(4 * WIDTH * WIDTH)
        status = os.statvfs(folder)
        ballast.write_bytes(bytes(max(status.f_bavail * status.f_frsize - left, 0)))

    for _ in range(20):
        texts.append(fails_once_then_works(folder, block=block, unblock=ballast.unlink))
        for path in folder.iterdir():
            path.unlink()
    print(json.dumps(texts))


def kill(folder: Path) -> None:
    found = {}
    for point in failpoints.POINTS[:-2]:
        here = folder / point
        here.mkdir()
        child = os.fork()
        if child == 0:
            os.environ["FER_FAULT"] = f"{point}:0:3"
            importlib.reload(failpoints)
            save(here, iterations=6)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        newest = newest_valid(here)
        found[point] = {
            "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
            "newest": newest.mapping["trainer"]["iteration"],
            "skipped": len(newest.skipped),
            "temporary": len(clean_temporary(here)),
            "after": names(here),
        }
        for name in found[point]["after"]:
            load_checkpoint(here / name)
        shutil.rmtree(here)
    print(json.dumps(found))


def pair(folder: Path) -> None:
    children = []
    for rank in range(2):
        if (child := os.fork()) == 0:
            one_of_two(folder, rank)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]


def one_of_two(folder: Path, rank: int) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )

    def agree(text: str | None) -> str | None:
        texts: list[str | None] = [None, None]
        dist.all_gather_object(texts, text)
        return next(filter(None, texts), None)

    (folder / "run").mkdir(exist_ok=True)
    trainer, _, points, _ = wire(folder / "run")
    points.saver.agree = agree
    trainer.run(range(3), max_epochs=1)
    trainer.state.iteration = 4
    if rank == 0:
        limit_file_bytes(9999)
    heard, record = "", points.last_checkpoint
    try:
        points(trainer)
    except StorageError as error:
        heard = str(error)
    assert points.last_checkpoint == record
    if rank == 0:
        limit_file_bytes(resource.RLIM_INFINITY)
    points(trainer)
    dist.barrier()
    answer = {
        "heard": heard,
        "record": [item.filename for item in points._saved],
        "files": names(folder / "run"),
    }
    (folder / f"{rank}.json").write_text(json.dumps(answer))
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"save": save, "limit": limit, "fill": fill, "pair": pair, "kill": kill}[sys.argv[1]](
        Path(sys.argv[2])
    )
