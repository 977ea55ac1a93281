"""Image files into a dataset cache, against decoders alone: Pillow in a process per core, torchvision in a thread per core.

    python packing.py KIND FOLDER

Each contender is a process of its own, so that none pays for what another has imported. It works once per line on its
standard input and prints two numbers: seconds by the clock, and the processor's seconds, which other work on the machine
changes less. The decoders read files into arrays and throw them away; their processes are
started before the clock. The pack is what `fer-ignite pack` builds: files listed, read, decoded, hashed, compared, added up,
written and brought to the disk, with processes that are started within the measured time.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["race", "write_copies", "write_photographs"]

_CHUNK = 64
_SIDE_PX = 224


def _files(folder: str) -> list[str]:
    return sorted(str(path) for path in Path(folder).rglob("*.*") if path.is_file())


def _chunks(files: Sequence[str]) -> list[Sequence[str]]:
    return [files[at : at + _CHUNK] for at in range(0, len(files), _CHUNK)]


def _cores() -> int:
    return len(os.sched_getaffinity(0))


# -- the contenders


def _decode_with_pillow(files: Sequence[str]) -> float:
    """Decodes the files; the processor's seconds that it took."""
    import numpy as np
    from PIL import Image

    started = time.process_time()
    for file in files:
        with Image.open(file) as image:
            np.asarray(image)
    return time.process_time() - started


class Pillow:
    """A process for each core: file to array."""

    def __init__(self, folder: str) -> None:
        from multiprocessing import Pool

        self._chunks = _chunks(_files(folder))
        self._pool = Pool(_cores())

    def work(self) -> float:
        return sum(self._pool.map(_decode_with_pillow, self._chunks, chunksize=1))

    def tidy(self) -> None:
        pass


class Torchvision:
    """A thread for each core: files to a list of tensors, in batches."""

    def __init__(self, folder: str) -> None:
        from concurrent.futures import ThreadPoolExecutor

        import torch

        torch.set_num_threads(1)  # of each decoding thread
        self._chunks = _chunks(_files(folder))
        self._pool = ThreadPoolExecutor(_cores())

    @staticmethod
    def _decode(files: Sequence[str]) -> int:
        from torchvision.io import ImageReadMode, decode_jpeg, read_file

        return len(decode_jpeg([read_file(file) for file in files], ImageReadMode.RGB))

    def work(self) -> float:
        list(self._pool.map(self._decode, self._chunks))
        return 0.0

    def tidy(self) -> None:
        pass


class Packing:
    """What `fer-ignite pack` does, into an empty cache."""

    def __init__(self, folder: str) -> None:
        from fer_ignite.data.cache.spec import CacheSpec

        self._spec = CacheSpec(data=folder)
        self._cache = Path(folder).with_suffix(".cache")

    def work(self) -> float:
        from fer_ignite.data.cache.lookup import open_or_build

        open_or_build(self._spec, cache=self._cache)
        return 0.0

    def tidy(self) -> None:
        shutil.rmtree(self._cache)


KINDS = {"pack": Packing, "Pillow": Pillow, "torchvision": Torchvision}


def _cpu_seconds() -> float:
    """The processor's seconds of this process and of its ended children."""
    return sum(os.times()[:4])


def main(kind: str, folder: str) -> None:
    contender: Any = KINDS[kind](folder)
    for _ in sys.stdin:
        started, cpu = time.perf_counter(), _cpu_seconds()
        elsewhere = contender.work()
        took = time.perf_counter() - started, _cpu_seconds() - cpu + elsewhere
        contender.tidy()
        print(*took, flush=True)


# -- the conductor


class Worker:
    """A contender, seen from the conductor."""

    def __init__(self, kind: str, folder: Path) -> None:
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(
            [sys.executable, __file__, kind, str(folder)],
            env={**os.environ, "PYTHONPATH": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self) -> tuple[float, float]:
        """Of one round: by the clock, of the processor."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline().split()
        if len(said) != 2:
            raise SystemExit("a contender of packing died; its error stands above")
        return float(said[0]), float(said[1])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def race(folder: Path, kinds: Sequence[str], *, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each contender, by the clock and of the processor, in turn, after one round that is thrown away."""
    workers = {kind: Worker(kind, folder) for kind in kinds}
    found: dict[str, dict[str, list[float]]] = {kind: {"clock": [], "cpu": []} for kind in kinds}
    try:
        for number in range(rounds + 1):
            for kind, worker in workers.items():
                clock, cpu = worker.seconds()
                if number:
                    found[kind]["clock"].append(clock)
                    found[kind]["cpu"].append(cpu)
    finally:
        for worker in workers.values():
            worker.close()
    return found


# -- the files


def write_copies(images: Path, target: Path, *, times: int) -> int:
    """Each PNG file several times, as files of their own; how many there are."""
    files = sorted(images.rglob("*.png"))
    for file in files:
        place = target / file.relative_to(images).parent
        place.mkdir(parents=True, exist_ok=True)
        data = file.read_bytes()
        for number in range(times):
            (place / f"{number}-{file.name}").write_bytes(data)
    return len(files) * times


def write_photographs(images: Path, target: Path, *, most: int) -> int:
    """Small gray PNG files as noisy JPEGs of 224 px in colour; how many there are."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    files = sorted(images.rglob("*.png"))
    files = files[:: max(1, len(files) // most)]
    for file in files:
        with Image.open(file) as image:
            face_HW1 = np.asarray(image.convert("L").resize((_SIDE_PX, _SIDE_PX)))[..., None]
        noise_HW1 = random.normal(0, 4, face_HW1.shape)
        picture_HW3 = face_HW1 - random.integers(0, 60, 3) + noise_HW1
        place = target / file.relative_to(images).with_suffix(".jpg")
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture_HW3.clip(0, 255).astype(np.uint8)).save(place, quality=90)
    return len(files)


if __name__ == "__main__":
    main(*sys.argv[1:])
