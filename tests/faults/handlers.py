"""What the fault tests attach to runs, and transforms for the loader; named on command lines as module:function."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import growth
import numpy as np
import torch
from ignite.engine import Engine, Events

from fer_ignite.checkpoint.plain import state_digest
from fer_ignite.training.events import RunEvents, StepEvents
from fer_ignite.training.session import Session
from fer_ignite.training.step import attach_gradient_norm

WHERE = "FER_TEST_FOLDER"  # where handlers leave what the test reads


def folder() -> Path:
    return Path(os.environ[WHERE])


def note_losses(session: Session) -> None:
    """One line per iteration and process: sum of the losses, faces and their places in the data."""
    path = folder() / f"losses-{session.rank}.jsonl"

    @session.trainer.on(Events.ITERATION_COMPLETED)
    def note(engine: Engine) -> None:
        output, batch = engine.state.output, engine.state.batch
        entry = {
            "iteration": engine.state.iteration,
            "loss": float(output["losses"]["loss"].double().sum()).hex(),
            "count": output["count"],
            "faces": batch.indices_B.tolist(),
        }
        with path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


class Diary:
    """State of a user's: draws from the global generators, which a resume must bring back too."""

    def __init__(self) -> None:
        self.steps, self.total = 0, 0.0
        random.seed(11)
        np.random.seed(12)

    def __call__(self, engine: Engine) -> None:
        self.steps += 1
        self.total += random.random() + float(np.random.random()) + float(torch.rand(()))

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.total = state["steps"], state["total"]


def keep_diary(session: Session) -> Diary:
    diary = Diary()
    session.trainer.add_event_handler(Events.ITERATION_COMPLETED, diary)
    session.trainer.add_event_handler(
        Events.ITERATION_COMPLETED(every=3),
        lambda engine: session.log("diary", diary.total, reduce="last"),
    )
    return diary


class Ballast:
    """State of a user's, so large that a save takes a while: 200 MB."""

    def state_dict(self) -> dict[str, Any]:
        return {"ballast": torch.ones(50_000_000)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert len(state["ballast"]) == 50_000_000


def carry_ballast(session: Session) -> Ballast:
    return Ballast()


def shaken(image: Any) -> Any:
    """A per-sample transform of three libraries' randomness."""
    pixels_HW = np.asarray(image, dtype=np.float32)
    noise = random.uniform(-9, 9) + np.random.uniform(-9, 9) + 9 * float(torch.rand(()))
    return (pixels_HW + noise).clip(0, 255).astype(np.uint8)


def kill_at(session: Session) -> None:
    """FER_TEST_KILL=target:iteration:ms: SIGKILL to launcher, 0, 1 or all, so long after that iteration began.

    What the run was doing then is left in ``phase.txt``.
    """
    target, iteration, delay_ms = os.environ["FER_TEST_KILL"].split(":")
    phase = ["start"]
    for engine, event, name in (
        (session.trainer, Events.ITERATION_STARTED, "training"),
        (session.evaluator, Events.STARTED, "validation"),
        (session.evaluator, Events.COMPLETED, "saving the best"),
        (session.trainer, RunEvents.VALIDATED, "end of an epoch"),
        (session.trainer, RunEvents.RESUME_POINT, "saving"),
    ):
        engine.add_event_handler(event, lambda _, name=name: phase.__setitem__(0, name))
    if session.rank != int(target == "1"):
        return

    def kill() -> None:
        time.sleep(float(delay_ms) / 1000)
        (folder() / "phase.txt").write_text(f"{session.trainer.state.iteration} {phase[0]}")
        me, launcher = os.getpid(), os.getppid()
        others = (
            Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
            if target == "all"
            else []
        )
        victims = {
            "launcher": [launcher],
            "all": [launcher, *(int(pid) for pid in others if int(pid) != me), me],
        }
        for victim in victims.get(target, [me]):
            os.kill(victim, signal.SIGKILL)

    session.trainer.add_event_handler(
        Events.ITERATION_STARTED(once=int(iteration)),
        lambda: threading.Thread(target=kill, daemon=True).start(),
    )


def keep_snapshots(session: Session) -> None:
    """A copy of the run's folder, in at/<iteration>, whenever the next iteration begins: what SIGKILL would leave there."""

    @session.trainer.on(Events.GET_BATCH_STARTED)
    def copy(engine: Engine) -> None:
        if session.rank == 0:
            shutil.copytree(session.folder.path, folder() / "at" / str(engine.state.iteration))


def signal_at(session: Session) -> None:
    """FER_TEST_SIGNAL=target:iteration:signal to launcher, rank 0, rank 1, group or single, when that iteration begins."""
    target, iteration, name = os.environ["FER_TEST_SIGNAL"].split(":")
    if session.rank != int(target == "rank 1"):
        return

    def send() -> None:
        number = signal.Signals[name]
        (folder() / "signalled").write_text(repr(time.time()))
        if target == "launcher":
            os.kill(os.getppid(), number)
        elif target == "group":  # that of the launcher, which a terminal or a batch system signals
            group = os.getpgid(os.getppid()) if session.world > 1 else os.getpgid(0)
            assert group > 1  # 0 and 1 would mean others than this run
            code = f"import os; os.killpg({group}, {int(number)})"
            subprocess.run([sys.executable, "-S", "-c", code], check=True, start_new_session=True)
        else:
            os.kill(os.getpid(), number)

    session.trainer.add_event_handler(Events.ITERATION_STARTED(once=int(iteration)), send)


def note_growth(session: Session) -> None:
    """One line in growth.jsonl per epoch: memory, descriptors, threads, children, the largest child's own memory."""
    loaders = [0.0]

    @session.trainer.on(Events.ITERATION_COMPLETED(every=7))
    def look_at_loaders(engine: Engine) -> None:
        loaders[0] = max(
            [growth.copied_mb(pid) for pid in growth.children_of(os.getpid())], default=0.0
        )

    @session.trainer.on(Events.EPOCH_COMPLETED)
    def note(engine: Engine) -> None:
        line = {
            "resident": growth.resident_mb(),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "threads": threading.active_count(),
            "children": len(growth.children_of(os.getpid())),
            "loader": loaders[0],
        }
        with (folder() / "growth.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def wait_in_validation(session: Session) -> None:
    """Half a second in the first validation, so that a signal can fall there."""

    def wait() -> None:
        (folder() / "validating").touch()
        time.sleep(0.5)

    session.evaluator.add_event_handler(Events.ITERATION_STARTED(once=1), wait)


def hang_at_nine(session: Session) -> None:
    def hang() -> None:
        (folder() / "hanging").touch()
        time.sleep(1000)

    session.trainer.add_event_handler(Events.ITERATION_STARTED(once=9), hang)


def watch_exceptions(session: Session) -> None:
    """A user's own listener, which makes plain Ignite swallow the error."""
    session.trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error: None)
    session.evaluator.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error: None)


def fail_at(session: Session) -> None:
    """FER_TEST_FAIL=rank or both:event:exception, the event of the trainer, or of the evaluator after its name."""
    rank, event, kind = os.environ["FER_TEST_FAIL"].split(":")
    engine = session.evaluator if event.startswith("evaluator.") else session.trainer
    error = {"ValueError": ValueError, "KeyboardInterrupt": KeyboardInterrupt}[kind]

    def handler_that_fails() -> None:
        if (
            "ITERATION" not in event and "BATCH" not in event
        ) or session.trainer.state.iteration >= 5:
            raise error("the handler's own words")

    if rank in ("both", str(session.rank)):
        engine.add_event_handler(Events[event.removeprefix("evaluator.")], handler_that_fails)


def spoil(session: Session) -> None:
    """FER_TEST_SPOIL=rank or both:first:loss or gradients[:last]: NaN in those iterations; notes the weights from then on."""
    rank, first, what, *last = os.environ["FER_TEST_SPOIL"].split(":")
    until = int(last[0]) if last else 10**9

    def now() -> bool:
        return int(first) <= session.trainer.state.iteration <= until

    def break_images(engine: Engine) -> None:
        if now() and len(engine.state.batch.images_BCHW):
            engine.state.batch.images_BCHW[0] = float("nan")

    def break_gradients(engine: Engine) -> None:
        if now():
            next(session.model.parameters()).grad.view(-1)[0] = float("inf")

    def note_weights(engine: Engine) -> None:
        if now():
            with (folder() / f"weights-{session.rank}.txt").open("a") as file:
                file.write(state_digest(session.model.state_dict()) + "\n")

    if what == "loss" and rank in ("both", str(session.rank)):
        session.trainer.add_event_handler(Events.ITERATION_STARTED, break_images)
    if what == "gradients":  # they are equal on all processes when the window closes
        session.handles["gradient_norm"].remove()
        session.trainer.add_event_handler(StepEvents.GRADIENTS_READY, break_gradients)
        attach_gradient_norm(
            session.trainer, session.model, optimizer=session.optimizer, scaler=session.scaler
        )
    session.trainer.add_event_handler(Events.ITERATION_COMPLETED, note_weights)


def score(session: Session) -> None:
    """FER_TEST_SCORES: the metric ``made_up`` of each validation."""
    scores = json.loads(os.environ["FER_TEST_SCORES"])

    def put(engine: Engine) -> None:
        engine.state.metrics["made_up"] = scores[session.trainer.state.epoch - 1]

    session.evaluator.add_event_handler(Events.COMPLETED, put)


def kill_a_loader_process(session: Session) -> None:
    def kill(engine: Engine) -> None:
        workers = [
            int(pid)
            for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        ]
        (folder() / "victim.txt").write_text(str(workers[0]))
        os.kill(workers[0], signal.SIGKILL)

    if session.rank == 0:
        session.trainer.add_event_handler(Events.ITERATION_STARTED(once=4), kill)


def count_collectives(session: Session) -> None:
    """Leaves in collectives-<rank>.json how many there are in one iteration of the trainer and of the evaluator."""
    counts = {}
    for name, engine in (("trainer", session.trainer), ("evaluator", session.evaluator)):
        profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])

        def stop(_: Engine, name: str = name, profiler: torch.profiler.profile = profiler) -> None:
            profiler.stop()
            counts[name] = sum(
                event.name.startswith(("c10d::", "gloo:")) for event in profiler.events()
            )
            (folder() / f"collectives-{session.rank}.json").write_text(json.dumps(counts))

        # Around the process function alone: the votes of the trainer's other handlers are no part of it.
        engine.add_event_handler(
            Events.ITERATION_STARTED(once=1), lambda _, profiler=profiler: profiler.start()
        )
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), stop)


def note_confusion(session: Session) -> None:
    """The validation's confusion matrix, as each process has it."""

    @session.trainer.on(RunEvents.VALIDATED)
    def note(engine: Engine) -> None:
        matrix = session.evaluator.state.metrics["confusion_matrix"].tolist()
        (folder() / f"confusion-{session.rank}.json").write_text(json.dumps(matrix))


def wait_to_be_released(session: Session) -> None:
    """Iteration 8 lasts until the test has made the file ``go``."""

    @session.trainer.on(Events.ITERATION_COMPLETED(once=8))
    def wait(engine: Engine) -> None:
        while not (folder() / "go").exists():
            time.sleep(0.05)
