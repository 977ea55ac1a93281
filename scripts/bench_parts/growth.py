"""A million faces: the pack is written by the program's own builder, then trained from by a process that is watched."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["measure"]

SIDE = 48
STEPS = 300


class Noise:
    """A source of as many noisy faces as wanted, which lie in a file and not in memory."""

    kind, where = "noise", "noise"

    def __init__(self, folder: Path, faces: int) -> None:
        self.path, self.faces = folder / "noise.npy", faces
        pixels = np.lib.format.open_memmap(
            self.path, mode="w+", dtype=np.uint8, shape=(faces, SIDE, SIDE, 1)
        )
        generator = np.random.default_rng(0)
        for start in range(0, faces, 10_000):
            pixels[start : start + 10_000] = generator.integers(
                0, 256, (min(10_000, faces - start), SIDE, SIDE, 1), dtype=np.uint8
            )

    def stamp(self) -> bytes:
        return b"noise"

    def samples(self) -> Any:
        from fer_ignite.data.samples import Samples

        splits = np.zeros(self.faces, dtype=np.uint8)
        splits[:2000], splits[2000:4000] = 1, 2
        return Samples(
            classes=tuple("abcdefg"),
            ids=[b"%d" % i for i in range(self.faces)],
            labels_N=np.arange(self.faces, dtype=np.int64) % 7,
            splits_N=splits,
            pixels_NHWC=np.load(self.path, mmap_mode="r"),
        )


def measure(folder: Path, *, faces: int, threads: int) -> dict[str, Any]:
    """``pack_s``, ``start_s`` (settings to first step), ``grown_mb`` (private memory over ``steps`` steps)."""
    from fer_ignite.data.cache.build import build_cache
    from fer_ignite.data.cache.spec import CacheSpec

    dataset_cache = folder / "million"
    dataset_cache.mkdir()
    source = Noise(folder, faces)
    started = time.perf_counter()
    build_cache(CacheSpec(data="noise"), source, folder=dataset_cache, progress=False)
    pack_s = time.perf_counter() - started
    source.path.unlink()
    command = [
        sys.executable,
        str(Path(__file__)),
        str(dataset_cache),
        str(folder / "million-runs"),
        str(threads),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    said = subprocess.run(command, env=environment, capture_output=True, text=True)
    if said.returncode:
        raise SystemExit(said.stderr)
    return {
        "faces": faces,
        "pack_s": pack_s,
        "steps": STEPS,
        **json.loads(said.stdout.splitlines()[-1]),
    }


def private_mb() -> float:
    """Memory of this process that no file backs: the map's own pages don't count."""
    status = Path("/proc/self/status").read_text().splitlines()
    return (
        sum(float(line.split()[1]) for line in status if line.startswith(("RssAnon", "RssShmem")))
        / 1024
    )


def train_watched(dataset_cache: str, out: str, threads: int) -> None:
    import torch  # noqa: F401  what every program with torch waits for is not this one's start

    from fer_ignite import Config, Events, build_session
    from fer_ignite.distributed.machine import configure_process

    configure_process(threads)
    started = time.perf_counter()
    session = build_session(
        Config(
            data=dataset_cache, epochs=1, out=out, quiet=True, threads=threads, save_minutes=1000
        )
    )
    found: dict[str, float] = {}

    @session.trainer.on(Events.ITERATION_COMPLETED)
    def watch(engine: Any) -> None:
        if engine.state.iteration == 1:
            found["start_s"] = time.perf_counter() - started
        elif engine.state.iteration == 20:
            found["before_mb"] = private_mb()
        elif engine.state.iteration == 20 + STEPS:
            found["grown_mb"] = private_mb() - found["before_mb"]
            print(json.dumps(found), flush=True)
            os._exit(0)

    session.run()


if __name__ == "__main__":
    train_watched(sys.argv[1], sys.argv[2], int(sys.argv[3]))
