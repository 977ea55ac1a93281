"""Handlers of your own, five kinds: copy what you need into a file and name it with --handlers.

    fer-ignite train --handlers examples/handlers.py:count_faces --handlers examples/handlers.py:watch_gradients

A handler's ``setup(session)`` runs in every process, after the engines are wired. ``session.trainer`` and
``session.evaluator`` are Ignite engines: attach whatever you like, to Ignite's events or to the events of a step.
"""

import json
import os
import urllib.request
from pathlib import Path

import torch
from ignite.engine import Events
from ignite.metrics import MetricsLambda

from fer_ignite import RunEvents, StepEvents


def count_faces(session):
    """1. A plain Ignite handler, with a state that a resumed run restores.

    What ``setup`` returns is kept in every resume point if it has ``state_dict`` and ``load_state_dict``.
    """
    counter = FaceCounter()

    @session.trainer.on(Events.ITERATION_COMPLETED)
    def count(engine):
        batch = engine.state.batch
        # over all processes: what is kept is what all have in common
        counter.faces += batch.step_size if batch.is_last_micro else 0

    @session.trainer.on(Events.EPOCH_COMPLETED)
    def note(engine):
        session.log("faces_seen", counter.faces, on="epoch", reduce="last")

    return counter


class FaceCounter:
    """How many faces the run has trained on since it began."""

    def __init__(self):
        self.faces = 0

    def state_dict(self):
        return {"faces": self.faces}

    def load_state_dict(self, state):
        self.faces = state["faces"]


def watch_gradients(session):
    """2. A handler on an event of the step: the largest gradient of every tenth optimizer step."""

    @session.trainer.on(StepEvents.GRADIENTS_READY(every=10))
    def note_largest(engine):
        gradients = [p.grad.abs().max() for p in session.model.parameters() if p.grad is not None]
        # a tensor: the step doesn't wait for it
        session.log("largest_gradient", torch.stack(gradients).max(), bar=True)


def send_webhook(session):
    """3. A message to the address in WEBHOOK_URL when the run ends; a message that fails is only reported."""
    url = os.environ.get("WEBHOOK_URL")
    if not url or session.rank != 0:  # side effects on one process only
        return

    @session.trainer.on(Events.COMPLETED)
    def send(engine):
        best = session.best_checkpoint.best
        message = {
            "run": session.folder.path.name,
            "epochs": engine.state.epoch,
            "best": best["value"],
        }
        request = urllib.request.Request(
            url, json.dumps(message).encode(), {"Content-Type": "application/json"}
        )
        try:
            urllib.request.urlopen(request, timeout=10).close()
        except OSError as error:
            print(f"the webhook could not be reached: {error}")


def log_to_file(session):
    """4. A logger of your own: one line of text per epoch, with everything that the epoch's line holds.

    ``RunEvents.REPORT`` fires when all that was logged in the epoch is reduced over processes.
    """
    if session.rank != 0:
        return
    path = Path(session.folder.path) / "epochs.txt"

    @session.trainer.on(RunEvents.REPORT)
    def write(engine):
        line = session.history_line()
        with path.open("a", encoding="utf-8") as file:
            file.write("  ".join(f"{name}={value:.4g}" for name, value in line.items()) + "\n")


def worst_recall(session):
    """5. A metric that chooses best.pt and stops early: --monitor worst_recall --patience 5.

    The recall of the expression that is recognised worst, made out of the confusion matrix that is there already.
    """

    def lowest(confusion_KK):
        support_K = confusion_KK.sum(dim=1)
        recall_K = confusion_KK.diagonal() / support_K.clamp_min(1)
        return recall_K[support_K > 0].min().item()

    matrix = session.metrics["confusion_matrix"]
    MetricsLambda(lowest, matrix).attach(session.evaluator, "worst_recall")
