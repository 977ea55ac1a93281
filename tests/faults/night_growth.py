"""Rows G1 to G4, night form: long runs, many starts, a million faces; what grows, and by how much."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import growth
import numpy as np
import support
import torch
from bench import LOADER, Bench, Row, progress

from fer_ignite.config import check
from fer_ignite.data.cache.format import open_cache
from fer_ignite.data.dataset import CachedImages
from fer_ignite.data.fetchers import DataLoaderFetcher, IndexBatch
from fer_ignite.data.open import find_cache
from fer_ignite.distributed.machine import configure_process

__all__ = ["log_volume", "long_runs", "many_faces", "many_starts"]

SETTLED = 20  # epochs
HERE = Path(__file__).parent


def long_runs(bench: Bench, trials: int) -> Iterator[Row]:
    """G1: 300 epochs out of the pack, and through two loader processes."""
    epochs = 3 * trials
    for name, changed in (("from the pack", {}), ("2 loader processes", {**LOADER, "workers": 2})):
        settings, place = bench.settings(
            1, epochs=epochs, save_iterations=None, save_epochs=10, **changed
        )
        progress(f"G1 {name}, {epochs} epochs")
        setup = {"handlers": "handlers:note_growth"}
        code = bench.server.run(
            {**settings, **setup}, place / "log", limit_s=7200, FER_TEST_FOLDER=str(place)
        )
        lines = [json.loads(line) for line in (place / "growth.jsonl").read_text().splitlines()][
            SETTLED - 1 :
        ]
        resident = [line["resident"] for line in lines]
        grown = f"{resident[-1] - resident[0]:+.1f} MB (exit {code})"
        yield f"G1 {epochs} epochs, {name}: memory after epoch {SETTLED}", "<= +10 MB", grown
        yield f"G1 {name}: slope", "<= 1 MB per 100 epochs", f"{growth.slope_mb(resident):+.2f} MB"
        for what in ("descriptors", "children", "threads"):
            counts = sorted({line[what] for line in lines})
            yield f"G1 {name}: {what}", "constant", "constant" if len(counts) == 1 else f"{counts}"
        loaders = [line["loader"] for line in lines if line["loader"]]
        if loaders:
            yield (
                f"G1, G4 {name}: memory of a loader process",
                "<= +10 MB",
                f"{loaders[-1] - loaders[0]:+.1f} MB",
            )
        bench.forget(place)


def many_starts(bench: Bench, trials: int) -> Iterator[Row]:
    """G2: train and evaluate ten times in one process, with two processes each, then ten crashes."""
    cycles = max(2, trials // 10)
    place = bench.place()
    for name in ("tmp", "out"):
        (place / name).mkdir()
    before = growth.leftovers(place / "tmp")
    progress(f"G2 {cycles} starts and {cycles} crashes")
    command = [
        sys.executable,
        str(HERE / "cycles.py"),
        str(bench.faces),
        str(place / "out"),
        str(cycles),
    ]
    paths = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
    environment = {
        **os.environ,
        "TMPDIR": str(place / "tmp"),
        "PYTHONPATH": paths,
        "FER_TEST_FOLDER": str(place),
    }
    summary = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout
    facts = json.loads(summary.splitlines()[-1])
    left = sorted(growth.leftovers(place / "tmp") - before)
    yield (
        f"G2 {cycles} x train and evaluate, {cycles} crashes: files left",
        "0",
        f"{len(left)} {left[:3] if left else ''}".strip(),
    )
    yield (
        "G2 descriptors of the process that started them",
        "+0 after the first",
        f"{facts['descriptors']:+d}",
    )


def log_volume(bench: Bench, trials: int) -> Iterator[Row]:
    """G3: 1000 iterations per trial, 200 an epoch, logged as by default."""
    epochs = 5 * trials
    data = support.write_faces(bench.folder / "log.csv", train=200, val=7, test=0)
    settings, place = bench.settings(
        1, epochs=epochs, batch_size=1, save_iterations=None, log_every=50, model_ema=False
    )
    progress(f"G3 {200 * epochs} iterations")
    code = bench.server.run({**settings, "data": str(data)}, place / "log", limit_s=7200)
    run = place / "run"
    sizes = {
        name: _size(run / name) / 1e6
        for name in ("log.txt", "history.jsonl", "results.csv", "tensorboard")
    }
    parts = ", ".join(f"{name} {size:.2f}" for name, size in sizes.items())
    total = f"{sum(sizes.values()):.2f} MB ({parts}; exit {code})"
    yield f"G3 {200 * epochs} iterations: files that grow", f"<= {5 * epochs / 500:g} MB", total
    bench.forget(place)


def _size(path: Path) -> int:
    return (
        path.stat().st_size
        if path.is_file()
        else sum(file.stat().st_size for file in path.iterdir())
    )


def many_faces(bench: Bench, trials: int) -> Iterator[Row]:
    """G4: a pack of 10 000 faces per trial, read at random places by two loader processes."""
    count = 10_000 * trials
    dataset_cache = _large_pack(bench, count)
    configure_process(1)
    feed = DataLoaderFetcher(
        CachedImages(open_cache(dataset_cache)),
        seed=0,
        device=torch.device("cpu"),
        side_px=4,
        channels=1,
        workers=2,
    )
    order_N = np.random.default_rng(0).permutation(count)[: count // 10]
    requests = [
        IndexBatch(order_N[at : at + 64], 0, at // 64, np.arange(len(order_N[at : at + 64])))
        for at in range(0, len(order_N), 64)
    ]
    seen: list[list[float]] = []
    for number, _ in enumerate(feed.batches(requests)):
        if number in (20, len(requests) - 20):
            seen.append(
                [
                    growth.copied_mb(pid)
                    for pid in growth.children_of(os.getpid())
                    if pid != bench.server.process.pid
                ]
            )
    grown = max(last - first for first, last in zip(*seen, strict=True))
    yield (
        f"G4 {count} faces, {len(order_N)} read by 2 loader processes: growth of each",
        "<= +20 MB",
        f"{grown:+.1f} MB",
    )


def _large_pack(bench: Bench, count: int) -> Path:
    """The bench's pack with its faces cut to 4 x 4 pixels and repeated."""
    small, _ = find_cache(check(support.settings(bench.faces, bench.folder)))
    assert small is not None
    folder = bench.place() / "pack"
    shutil.copytree(small, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    repeats = -(-count // manifest["count"])
    for name in ("labels", "splits", "leaks", "groups", "pixels"):
        if (folder / f"{name}.npy").exists():
            values = np.load(folder / f"{name}.npy")
            values = values[:, :4, :4] if name == "pixels" else values
            np.save(folder / f"{name}.npy", np.concatenate([values] * repeats)[:count])
    names = b"".join(b"%07d.png" % number for number in range(count))
    (folder / "ids.bin").write_bytes(names)
    np.save(folder / "id_ends.npy", np.arange(1, count + 1) * 11)
    sizes = {name: (folder / name).stat().st_size for name in manifest["files"]}
    changed: dict[str, Any] = {"count": count, "height": 4, "width": 4, "files": sizes}
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changed}))
    return folder
