"""Speed on the GPU: the trainer against the bare step and Lightning, and what each means of the step brings."""

# Dimensions: B images, C channels, H W pixels.

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
from common import Check, Row, judged, postponed
from ignite.engine import Engine, Events
from torch import nn

from fer_ignite import build_session
from fer_ignite.config import check as check_config
from fer_ignite.models.registry import build_model
from fer_ignite.training.precision import autocast, resolve_precision

CLASSES, ROUNDS = 7, 3
LEAST_SHARE = 0.95  # of the bare step's speed


def trainer_against_bare_step(check: Check) -> Iterator[Row]:
    """Images per second end to end (augmentation, metrics, guards) and of the step on one batch in memory."""
    cases = [("fer48", 48, 128), ("fer48", 48, 512), ("emotionnet", 224, 64)]
    for name, side, count in cases[: 1 if check.tiny else None]:
        if check.left_s() < 30:
            yield postponed(f"{name} at {side} px, batches of {count}")
            continue
        batch = 16 if check.tiny else count
        bare, ours = [], []
        for _ in range(1 if check.tiny else ROUNDS):
            bare.append(bare_step(check, name, side, batch))
            ours.append(our_steps(check, name, side, batch))
        share = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
        memory = torch.cuda.max_memory_allocated() / 2**30 if check.cuda else 0.0
        yield judged(
            f"{name} at {side} px, batches of {batch}: share of the bare step's speed",
            share >= LEAST_SHARE or not check.cuda,
            f"{share:.2f} ({statistics.median(ours):,.0f} of {statistics.median(bare):,.0f} images/s; "
            f"peak memory {memory:.2f} GiB)",
        )


def bare_step(check: Check, name: str, side: int, count: int, **means: Any) -> float:
    """Images per second of forward, backward and fused AdamW on one batch that lies on the device."""
    step = make_step(check, name, side, count, **means)
    return count * rate(check, step)


def rate(check: Check, step: Callable[[], object]) -> float:
    """Calls per second, after a warm-up."""
    for _ in range(1 if check.tiny else 12):
        step()
    calls = 2 if check.tiny else 60
    check.synchronize()
    started = time.perf_counter()
    for _ in range(calls):
        step()
    check.synchronize()
    return calls / (time.perf_counter() - started)


def make_step(
    check: Check,
    name: str,
    side: int,
    count: int,
    *,
    precision: str = "auto",
    last: bool = True,
    compiled: bool = False,
    graphed: bool = False,
    **model_args: Any,
) -> Callable[[], object]:
    """A function that makes one optimizer step."""
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    device, layout = check.device, torch.channels_last if last else torch.contiguous_format
    model = build_model(name, num_classes=CLASSES, in_channels=1, model_args=model_args)
    model = model.to(device, memory_format=layout)  # type: ignore[call-overload]
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True, capturable=graphed)
    loss_of_batch = nn.CrossEntropyLoss(label_smoothing=0.1)
    images_BCHW = torch.randn(count, 1, side, side, device=device).to(memory_format=layout)
    labels_B = torch.randint(0, CLASSES, (count,), device=device)
    resolved = resolve_precision(precision, device)

    def step() -> None:
        with autocast(device, resolved):
            loss = loss_of_batch(forward(images_BCHW), labels_B)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=not graphed)

    if not graphed:
        return step
    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side_stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


class _Enough(Exception):
    """Ends a session once its steps have been timed."""


def our_steps(check: Check, name: str, side: int, count: int, **changed: Any) -> float:
    """Images per second of the trainer, from batch order to optimizer step, every built-in handler attached."""
    large = {"image_size": side, "resize": 256, "normalize": "imagenet"} if side > 48 else {}
    settings = check.settings(
        data=check.data,
        model=name,
        batch_size=count,
        epochs=100,
        name="speed",
        exist_ok=True,
        rotate=10,
        scale=0.1,
        translate=0.1,
        save_minutes=1000,
        save_epochs=1000,
        tta="none",
        channels="gray",
        **large,
        **changed,
    )
    if not check.tiny or name != "fer48":
        settings.pop("model_args", None)
    warm, calls = (1, 2) if check.tiny else (30, 100)
    clock = {}
    with build_session(check_config(settings)) as session:

        @session.trainer.on(Events.ITERATION_COMPLETED)
        def watch(engine: Engine) -> None:
            if engine.state.iteration == warm:
                check.synchronize()
                clock["start"] = time.perf_counter()
            elif engine.state.iteration == warm + calls:
                check.synchronize()
                clock["seconds"] = time.perf_counter() - clock["start"]
                raise _Enough

        with contextlib.suppress(_Enough):
            session.run()
    return count * calls / clock["seconds"]


def means(check: Check) -> Iterator[Row]:
    """What precision, memory layout, torch.compile and CUDA graphs bring to the bare step of the default network."""
    base: dict[str, Any] = {"precision": "bf16"}
    cases: dict[str, dict[str, Any]] = {
        "fp32": {"precision": "fp32"},
        "fp16": {"precision": "fp16"},
        "contiguous layout": {"last": False},
        "CUDA graphs": {"graphed": True},
        "torch.compile": {"compiled": True},
    }
    shapes: list[tuple[int, dict[str, Any]]] = [
        (128, {}),
        (256, {"width_factor": 4.0, "blocks": [1, 1, 2, 2]}),
    ]
    for count, model_args in shapes[: 1 if check.tiny else None]:
        label = f"bare step, {'4 x width, ' if model_args else ''}batches of {count}"
        batch = 8 if check.tiny else count
        first = bare_step(check, "fer48", 48, batch, **base, **model_args)
        yield Row(f"{label}: bf16, channels_last", "ok", f"{first:,.0f} images/s")
        for name, changed in cases.items():
            if check.left_s() < 20:
                yield postponed(f"{label}: {name}")
                continue
            if not check.cuda and name in ("fp16", "CUDA graphs"):
                yield Row(f"{label}: {name}", "skipped", "needs CUDA")
                continue
            if check.tiny and name == "torch.compile":
                yield Row(f"{label}: {name}", "skipped", "takes longer than the tiny check")
                continue
            try:
                got = bare_step(check, "fer48", 48, batch, **{**base, **changed}, **model_args)
            except Exception as error:  # a means that this machine lacks, such as a compiler
                yield Row(
                    f"{label}: {name}",
                    "fails",
                    f"{type(error).__name__}: {str(error).splitlines()[0][:120]}",
                )
                continue
            yield Row(f"{label}: {name}", "ok", f"{got / first:.2f} times ({got:,.0f} images/s)")


def against_lightning(check: Check) -> Iterator[Row]:
    """The default network in Lightning: a TensorDataset of normalised floats in host memory, no augmentation at all."""
    name = "fer48 at 48 px, batches of 128: against Lightning without augmentation"
    if find_spec("lightning") is None:
        yield Row(name, "skipped", "lightning is not installed")
        return
    import logging
    import warnings

    import lightning
    from torch.utils.data import DataLoader, TensorDataset

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    count, warm, calls = (16, 1, 2) if check.tiny else (128, 30, 100)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = build_model("fer48", num_classes=CLASSES, in_channels=1)

        def training_step(self, batch: Any, index: int) -> Any:
            images_BCHW, labels_B = batch
            return nn.functional.cross_entropy(
                self.model(images_BCHW), labels_B, label_smoothing=0.1
            )

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-4)

    class Clock(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == warm:
                check.synchronize()
                self.start = time.perf_counter()
            elif trainer.global_step == warm + calls:
                check.synchronize()
                self.seconds = time.perf_counter() - self.start
                trainer.should_stop = True

    def lightning_rate() -> float:
        images = torch.randn(count * 40, 1, 48, 48)
        data = TensorDataset(images, torch.randint(0, CLASSES, (len(images),)))
        clock = Clock()
        trainer = lightning.Trainer(
            accelerator="gpu" if check.cuda else "cpu",
            devices=1,
            precision="bf16-mixed",
            max_steps=warm + calls,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[clock],
            default_root_dir=str(check.work),
        )
        trainer.fit(
            Module(),
            DataLoader(data, batch_size=count, shuffle=True, drop_last=True, pin_memory=check.cuda),
        )
        return count * calls / clock.seconds

    theirs, ours = [], []
    for _ in range(1 if check.tiny else ROUNDS):
        theirs.append(lightning_rate())
        ours.append(our_steps(check, "fer48", 48, count))
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    yield judged(
        name,
        ratio >= 1 or not check.cuda,
        f"{ratio:.2f} times ({statistics.median(theirs):,.0f} images/s)",
    )
