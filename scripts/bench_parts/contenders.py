"""What is measured: our trainer, the bare step that it can't beat, a tutorial's loop, and PyTorch Lightning; one network for all.

    python contenders.py KIND SETTINGS_AS_JSON

Each is written the way its users write it. The tutorial's loop: ImageFolder, torchvision transforms on single images, a
DataLoader with workers, fp32, ``loss.item()`` every step. Settings: model, image_px, batch_size, images (a folder with
train/ and val/), data (the same faces for us), threads, workers.
"""

import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch
from pacing import Pacer
from torch import nn

Settings = dict[str, Any]
CLASSES = 7


def network(settings: Settings) -> nn.Module:
    from fer_ignite.models.registry import build_model

    torch.manual_seed(0)
    return build_model(settings["model"], num_classes=CLASSES, in_channels=1)


# -- the bare step: one batch that lies in memory


def resident(
    settings: Settings,
    *,
    keep: bool = True,
    compiled: bool = False,
    precision: str = "auto",
    last: bool = True,
) -> None:
    """The step alone, with every means that our trainer uses."""
    from fer_ignite.distributed.machine import keep_freed_memory
    from fer_ignite.training.precision import autocast, resolve_precision

    torch.set_num_threads(settings["threads"])
    if keep:
        keep_freed_memory()
    device = torch.device("cpu")
    layout = torch.channels_last if last else torch.contiguous_format
    model = network(settings).to(memory_format=layout)
    step_model = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    build_loss_from_config = nn.CrossEntropyLoss(label_smoothing=0.1)
    side = settings["image_px"]
    images = torch.randn(settings["batch_size"], 1, side, side).to(memory_format=layout)
    labels = torch.randint(0, CLASSES, (settings["batch_size"],))
    pacer = Pacer()
    while True:
        with autocast(device, resolve_precision(precision, device)):
            loss = build_loss_from_config(step_model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        pacer.step()


# -- ours


def config_of(settings: Settings, **more: Any) -> Any:
    from fer_ignite import Config

    large = {
        "image_size": 224,
        "resize": 256,
        "normalize": "imagenet",
        "rotate": 10,
        "scale": 0.1,
        "translate": 0.1,
    }
    return Config(
        data=settings["data"],
        model=settings["model"],
        batch_size=settings["batch_size"],
        threads=settings["threads"],
        channels="gray",
        out=tempfile.mkdtemp(),
        quiet=True,
        epochs=100,
        save_minutes=1000,
        tta="none",
        nproc=settings.get("nproc", 1),
        **(large if settings["image_px"] == 224 else {}),
        **more,
    )


def pace(session: Any) -> None:
    """A handler like any user's; the first process is paced, the others wait for it."""
    from ignite.engine import Events

    if session.rank:
        return
    pacer = Pacer()
    clock = {"t": 0.0}

    @session.trainer.on(Events.GET_BATCH_STARTED)
    def start_clock(engine: Any) -> None:
        clock["t"] = time.perf_counter()

    @session.trainer.on(Events.GET_BATCH_COMPLETED)
    def got(engine: Any) -> None:
        pacer.add("data_s", time.perf_counter() - clock["t"])

    session.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: pacer.step())


def ours(settings: Settings) -> None:
    from fer_ignite import train

    train(config_of(settings), handlers=[pace])


def ours_evaluating(settings: Settings) -> None:
    """The evaluator that validates during training, over the whole val split."""
    from fer_ignite import build_session
    from fer_ignite.distributed.machine import configure_process

    configure_process(settings["threads"])
    session = build_session(config_of(settings))
    pacer = Pacer()
    while True:
        session.validate()
        pacer.step()


# -- the tutorial's way


def transforms_of(settings: Settings, *, train: bool) -> Any:
    from torchvision import transforms as T

    side = settings["image_px"]
    gray = [T.Grayscale(1)]
    end = [T.ToTensor(), T.Normalize([0.5], [0.25])]
    if side == 48:
        change = [
            T.RandomHorizontalFlip(),
            T.RandomAffine(15, translate=(0.15, 0.15), scale=(0.85, 1.15)),
        ]
        return T.Compose([*gray, *(change if train else []), *end])
    change = [
        T.Resize((256, 256)),
        T.RandomCrop(side),
        T.RandomHorizontalFlip(),
        T.RandomRotation(10),
        T.RandomAffine(0, translate=(0.1, 0.1), scale=(0.9, 1.1)),
    ]
    return T.Compose([*gray, *(change if train else [T.Resize((side, side))]), *end])


def loader_of(settings: Settings, split: str) -> Any:
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    data = ImageFolder(
        os.path.join(settings["images"], split), transforms_of(settings, train=split == "train")
    )
    return DataLoader(
        data,
        batch_size=settings["batch_size"],
        shuffle=split == "train",
        num_workers=settings["workers"],
    )


def endless(loader: Any) -> Iterator[Any]:
    for _ in itertools.count():
        yield from loader


def tutorial(settings: Settings) -> None:
    torch.set_num_threads(settings["threads"])
    model, criterion = network(settings), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = loader_of(settings, "train")
    pacer = Pacer()
    running = correct = 0.0
    model.train()
    for images, labels in endless(loader):
        optimizer.zero_grad()
        logits = model(images)
        loss = criterion(logits, labels)
        loss.backward()
        optimizer.step()
        running += loss.item() * len(labels)
        correct += (logits.argmax(1) == labels).sum().item()
        pacer.step()


def tutorial_evaluating(settings: Settings) -> None:
    torch.set_num_threads(settings["threads"])
    model, criterion = network(settings).eval(), nn.CrossEntropyLoss()
    loader = loader_of(settings, "val")
    pacer = Pacer()
    while True:
        total = correct = 0.0
        with torch.no_grad():
            for images, labels in loader:
                logits = model(images)
                total += criterion(logits, labels).item() * len(labels)
                correct += (logits.argmax(1) == labels).sum().item()
        pacer.step()


# -- PyTorch Lightning's way


def lightning_parts(settings: Settings) -> tuple[Any, Any, Any]:
    import lightning

    class Task(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.criterion = network(settings), nn.CrossEntropyLoss()

        def training_step(self, batch: Any, number: int) -> Any:
            loss = self.criterion(self.model(batch[0]), batch[1])
            self.log("train_loss", loss, prog_bar=True)
            return loss

        def validation_step(self, batch: Any, number: int) -> None:
            logits = self.model(batch[0])
            self.log("val_loss", self.criterion(logits, batch[1]))
            self.log("val_accuracy", (logits.argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    class Paced(lightning.Callback):
        def __init__(self) -> None:
            self.pacer: Pacer | None = None

        def on_train_batch_end(self, *args: Any) -> None:
            if self.pacer is None:
                self.pacer = Pacer()
            self.pacer.step()

    torch.set_num_threads(settings["threads"])
    paced = Paced()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=100,
        precision=settings.get("precision", "32-true"),
        callbacks=[paced],
        logger=False,
        enable_checkpointing=False,
        limit_val_batches=1.0 if settings.get("evaluate") else 0,
        enable_model_summary=False,
    )
    return Task(), trainer, paced


def lightning(settings: Settings) -> None:
    task, trainer, _ = lightning_parts(settings)
    trainer.fit(task, loader_of(settings, "train"))


def lightning_evaluating(settings: Settings) -> None:
    task, trainer, _ = lightning_parts({**settings, "evaluate": True})
    loader, pacer = loader_of(settings, "val"), Pacer()
    while True:
        trainer.validate(task, loader, verbose=False)
        pacer.step()


KINDS = {
    "resident": resident,
    "resident_giving_back": lambda settings: resident(settings, keep=False),
    "resident_compiled": lambda settings: resident(settings, compiled=True),
    "resident_fp32": lambda settings: resident(settings, precision="fp32"),
    "resident_contiguous": lambda settings: resident(settings, last=False),
    "ours": ours,
    "ours_evaluating": ours_evaluating,
    "tutorial": tutorial,
    "tutorial_evaluating": tutorial_evaluating,
    "lightning": lightning,
    "lightning_evaluating": lightning_evaluating,
}

if __name__ == "__main__":
    KINDS[sys.argv[1]](json.loads(sys.argv[2]))
