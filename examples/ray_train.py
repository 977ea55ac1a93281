"""Train with Ray: workers of a TorchTrainer are the processes of one fer_ignite run.

    pip install ".[ray]"
    python examples/ray_train.py --workers 2 --storage /shared/ray -- --data fer2013.csv --epochs 16

Ray starts the workers, makes their process group and restarts them when one dies; ``fer_ignite.train`` joins that group. Every
epoch is reported to Ray with its resume point. A restarted run continues from the newest one that Ray has, on whatever machine
it then runs, and ends with the weights of an undisturbed run. What stands behind ``--`` are flags of ``fer-ignite train``.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

import ray.train
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from fer_ignite import Config, RunEvents, train
from fer_ignite.cli.train import read_flags
from fer_ignite.config import check
from fer_ignite.errors import FerError


def report_to_ray(session):
    """Reports each epoch's figures and resume point; all workers report, the main one brings the checkpoint."""
    reported = set()

    def report(engine):
        metrics = {name: float(value) for name, value in session.history_line().items()}
        epoch = int(metrics["epoch"])
        last = session.folder.checkpoints / "last.pt"
        if epoch in reported or engine.state.iteration % len(session.train_loader) != 0:
            return  # a resume point within an epoch
        reported.add(epoch)
        with tempfile.TemporaryDirectory() as name:
            checkpoint = None
            if session.rank == 0:
                shutil.copy(last, Path(name, "last.pt"))
                checkpoint = Checkpoint.from_directory(name)
            ray.train.report(metrics, checkpoint=checkpoint)

    session.trainer.add_event_handler(RunEvents.RESUME_POINT, report)
    session.register_last(
        "report_to_ray", session.trainer, event=RunEvents.RESUME_POINT, handler=report
    )


def work(settings):
    """One worker's part, in the process group that Ray has made."""
    settings = {**settings, "out": tempfile.mkdtemp(prefix="fer-ignite-ray-"), "name": "run"}
    newest = ray.train.get_checkpoint()
    if newest is not None:
        settings["resume"] = os.path.join(newest.to_directory(), "last.pt")
    extra = settings.pop("test_handlers", ())
    train(Config(**settings), handlers=[report_to_ray, *extra])


def fit(settings, *, workers, storage, failures=3, name="fer_ignite"):
    """Runs the workers to their end; returns Ray's result, whose checkpoint is the last epoch's resume point."""
    trainer = TorchTrainer(
        work,
        train_loop_config=settings,
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=settings.get("device") == "cuda"),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=failures),
        ),
    )
    return trainer.fit()


def main():
    """The command line: what Ray needs, and behind ``--`` the flags of ``fer-ignite train``."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--storage", default=os.path.abspath("ray"))
    parser.add_argument(
        "flags",
        nargs="*",
        metavar="-- --flag value",
        help="flags of fer-ignite train, but --out and --name",
    )
    given = parser.parse_args()
    try:
        settings = read_flags(given.flags)
        check(settings)  # here, where a wrong value costs no worker
    except FerError as error:
        parser.error(str(error))
    if {"out", "name"} & set(settings):
        parser.error("--out and --name: Ray keeps the run in --storage; leave them out.")
    result = fit(settings, workers=given.workers, storage=given.storage)
    print(result.metrics, result.checkpoint)


if __name__ == "__main__":
    main()
