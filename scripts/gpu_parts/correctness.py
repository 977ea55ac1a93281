"""Correctness on the GPU: resume, loss scaling, prefetch, the cache on the device, CUDA against CPU."""

import itertools
import json
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from common import Check, Row, as_flags, judged, run_command
from ignite.engine import Engine, Events

from fer_ignite import StepEvents, build_session, evaluate, load_model
from fer_ignite.apps.export.exporter import export_checkpoint
from fer_ignite.checkpoint.format import load_checkpoint
from fer_ignite.config import check as check_config
from fer_ignite.data.cache.format import open_cache
from fer_ignite.data.cache.lookup import open_or_build
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.data.fetchers import CacheFetcher, IndexBatch
from fer_ignite.data.prefetch import prefetch_on_stream

PRECISIONS = ("fp32", "bf16", "fp16")
# Largest difference of a probability, CUDA against CPU: both compute in fp32, TF32 off.
LARGEST_DIFFERENCE = 1e-4


def resume(check: Check) -> Iterator[Row]:
    """A killed and resumed run against an uninterrupted one, per precision; the processes of a step run side by side."""
    precisions = [name for name in PRECISIONS if check.cuda or name != "fp16"]
    settings = {
        name: check.settings(
            precision=name,
            deterministic=True,
            epochs=3,
            grad_accum_steps=2,
            model_ema=True,
            mixup=0.2,
            rotate=10,
            save_iterations=5,
            score_test=False,
            tta="none",
        )
        for name in precisions
    }
    for name in precisions:
        for kind in ("whole", "killed"):
            shutil.rmtree(check.work / f"{kind}-{name}", ignore_errors=True)
    at = 10 if check.tiny else 25

    def train(kind: str, name: str, *more: str, **environment: str) -> Any:
        flags = as_flags({**settings[name], "name": f"{kind}-{name}"})
        return run_command("train", *flags, *more, **environment)

    with ThreadPoolExecutor(2 * len(precisions)) as pool:
        whole = {name: pool.submit(train, "whole", name) for name in precisions}
        fault = f"after-rename:0:{at}"
        killed = {name: pool.submit(train, "killed", name, FER_FAULT=fault) for name in precisions}
        codes = {name: killed[name].result().returncode for name in precisions}
        resumed = {
            name: pool.submit(train, "killed", name, "--resume", "auto") for name in precisions
        }
        for name in precisions:
            row = f"killed at iteration {at} and resumed, {name}: the same weights, bit for bit"
            ended = [whole[name].result(), resumed[name].result()]
            if codes[name] != -9 or any(one.returncode for one in ended):
                said = " | ".join(one.stderr.strip()[-300:] for one in ended if one.returncode)
                yield Row(row, "fails", f"kill: exit code {codes[name]}; {said}")
                continue
            folders = [check.work / f"{kind}-{name}" for kind in ("whole", "killed")]
            digests = [
                json.loads((folder / "summary.json").read_text())["weights_sha256"]
                for folder in folders
            ]
            yield judged(row, digests[0] == digests[1], digests[0][:12])
            if name == "fp16":
                scalers = [
                    dict(load_checkpoint(folder / "checkpoints" / "last.pt")["scaler"])
                    for folder in folders
                ]
                yield judged(
                    "fp16: the scaler's state comes through the resume",
                    scalers[0] == scalers[1] and scalers[0].get("scale", 0) > 0,
                    f"scale {scalers[0].get('scale')}",
                )


def overflow(check: Check) -> Iterator[Row]:
    """fp16 with a loss scale that is far too high: the steps are skipped and the scale is halved until one fits."""
    name = "fp16: overflowing steps are skipped, weights unchanged, then training continues"
    if not check.cuda:
        yield Row(name, "skipped", "needs CUDA")
        return
    wrong: list[int] = []
    before: dict[str, Any] = {}
    with build_session(
        check_config(
            check.settings(
                precision="fp16", epochs=2, nonfinite_patience=30, name="overflow", exist_ok=True
            )
        )
    ) as session:
        trainer = session.trainer
        session.scaler.load_state_dict({**session.scaler.state_dict(), "scale": 2.0**30})

        @trainer.on(StepEvents.GRADIENTS_READY)
        def remember(engine: Engine) -> None:
            before["weights"] = [p.detach().clone() for p in session.model.parameters()]

        @trainer.on(StepEvents.OPTIMIZER_STEPPED)
        def compare(engine: Engine) -> None:
            same = all(map(torch.equal, before["weights"], session.model.parameters()))
            if same == bool(engine.state.step_taken):
                wrong.append(engine.state.iteration)

        session.run()
        skipped, steps = int(trainer.state.skipped_steps), trainer.state.optimizer_steps
    yield judged(name, not wrong and 0 < skipped < steps, f"{skipped} of {steps} steps skipped")


def batches(check: Check) -> Iterator[Row]:
    """Batches with and without the side stream, and out of device memory and host memory."""
    settings = check.settings(name="batches", exist_ok=True, rotate=10, mixup=0.2, brightness=0.2)
    with build_session(check_config(settings)) as session:
        loader, count = session.train_loader, 12

        def take(source: Any) -> list[Any]:
            found = []
            for batch in itertools.islice(source, count):
                if check.cuda:
                    torch.cuda._sleep(1_000_000)  # the step that the side stream works beside
                found.append((batch.images_BCHW.clone(), batch.targets_BK.clone()))
            check.synchronize()
            return found

        plain, ahead = take(loader), take(prefetch_on_stream(loader, session.device))
    same = all(torch.equal(a[i], b[i]) for a, b in zip(plain, ahead, strict=True) for i in (0, 1))
    yield judged(f"{count} batches with and without prefetching: equal, bit for bit", same, "")
    dataset_cache = open_cache(open_or_build(CacheSpec(data=settings["data"]), progress=False))
    requests = [
        IndexBatch(np.arange(start, start + 32), 0, 0, np.arange(32)) for start in range(0, 128, 32)
    ]
    resident, host = (
        list(CacheFetcher(dataset_cache, check.device, resident_bytes=size).batches(requests))
        for size in (4 << 30, 0)
    )
    check.synchronize()
    same = all(map(torch.equal, resident, host))
    yield judged("dataset cache on the device and in host memory: equal batches", same, "")


def synchronisations(check: Check) -> Iterator[Row]:
    """Host synchronisations that torch reports while an epoch's steps run, handlers included."""
    name = "no synchronisation in the step"
    if not check.cuda:
        yield Row(name, "skipped", "needs CUDA")
        return
    settings = check.settings(
        epochs=2, name="sync", exist_ok=True, log_every=100_000, precision="bf16", mixup=0.2
    )
    with (
        build_session(check_config(settings)) as session,
        warnings.catch_warnings(record=True) as seen,
    ):
        trainer, steps = session.trainer, [0]
        trainer.add_event_handler(
            Events.EPOCH_STARTED(once=2), lambda: torch.cuda.set_sync_debug_mode("warn")
        )

        @trainer.on(Events.ITERATION_COMPLETED)
        def count(engine: Engine) -> None:
            steps[0] += 1
            if engine.state.iteration == 2 * engine.state.epoch_length - 1:
                torch.cuda.set_sync_debug_mode("default")

        warnings.simplefilter("always")
        try:
            session.run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found = [str(one.message) for one in seen if "synchronizing CUDA operation" in str(one.message)]
    places = sorted(
        {
            f"{one.filename.rsplit('fer_ignite/')[-1]}:{one.lineno}"
            for one in seen
            if str(one.message) in found
        }
    )
    yield judged(name, not found, f"{len(found)} in {steps[0] // 2 - 1} steps {' '.join(places)}")


def refusals(check: Check) -> Iterator[Row]:
    """Two processes on one device."""
    name = "--nproc 2 with one GPU is refused in one sentence"
    if check.cuda and torch.cuda.device_count() > 1:
        yield Row(name, "skipped", "needs a machine with one GPU")
        return
    ended = run_command(
        "train", "--data", "demo:140", "--device", "cuda", "--nproc", "2", "--out", str(check.work)
    )
    lines = ended.stderr.strip().splitlines()
    yield judged(name, ended.returncode == 2 and len(lines) == 1, lines[-1][:160] if lines else "")


def against_cpu(check: Check) -> Iterator[Row]:
    """One checkpoint, scored and exported on the device and on the CPU."""
    settings = check.settings(epochs=4, name="trained", exist_ok=True, precision="auto")
    if (check.work / "trained").exists():
        shutil.rmtree(check.work / "trained")
    ended = run_command("train", *as_flags(settings))
    if ended.returncode:
        yield Row("train on the device", "fails", ended.stderr.strip()[-200:])
        return
    best = check.work / "trained" / "checkpoints" / "best.pt"
    torch.backends.cudnn.allow_tf32 = False  # convolutions in fp32 use it otherwise
    scores = {
        kind: evaluate(best, device=kind, precision="fp32", quiet=True)
        for kind in ("cpu", check.device.type)
    }
    gap = abs(scores["cpu"]["loss"] - scores[check.device.type]["loss"])
    yield judged("evaluate: loss on the device against the CPU, fp32", gap < 1e-3, f"{gap:.1e}")
    images_BHWC = torch.randint(0, 256, (64, 48, 48, 1), dtype=torch.uint8)
    on = {}
    for kind in ("cpu", check.device.type):
        model = load_model(best, device=kind, precision="fp32")
        on[kind] = model.probabilities(images_BHWC.to(model.device), tta="flip").cpu()
    gap = float((on["cpu"] - on[check.device.type]).abs().max())
    yield judged(
        "predict: largest difference of a probability, fp32", gap < LARGEST_DIFFERENCE, f"{gap:.1e}"
    )
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        yield Row(
            "export of a checkpoint that was trained on the device",
            "skipped",
            "needs the extra export",
        )
        return
    result = export_checkpoint(best, out=str(check.work / "trained.onnx"), exist_ok=True)
    agreement = result["check"]
    yield judged(
        "export of a checkpoint that was trained on the device",
        agreement["largest_difference"] < LARGEST_DIFFERENCE,
        f"largest difference of a probability {agreement['largest_difference']:.1e}",
    )
