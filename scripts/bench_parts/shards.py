"""Readers of shards side by side: does the order depend on the number of processes, does a cut epoch continue, how fast.

Prints a table and writes a JSON. Readers: the dataset cache, the package's shards, MosaicML Streaming (in its own order,
and by position in the package's order) and WebDataset, all over the same drawn faces of 48 px as PNG.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1])]
os.environ["PYTHONPATH"] = str(HERE.parents[1])

from fer_ignite.data.cache.format import open_cache  # noqa: E402
from fer_ignite.data.cache.lookup import open_or_build  # noqa: E402
from fer_ignite.data.cache.spec import CacheSpec  # noqa: E402
from fer_ignite.data.images import png_bytes  # noqa: E402
from fer_ignite.data.shards.shard_writer import write_shards  # noqa: E402

READERS = ("cache", "shards", "streaming", "streaming-random", "webdataset")
STREAMING = os.environ.get("BENCH_STREAMING_PYTHON", "")


def python_of(reader: str) -> str:
    """Streaming wants an older numpy than the package has, so it has an environment of its own."""
    return STREAMING if reader.startswith("streaming") else sys.executable


def write_mds(folder: Path, shard_bytes: int) -> None:
    """The PNG files of train, in the order of the shards, for MosaicML Streaming."""
    dataset_cache = open_cache(folder / "shards")
    images = folder / "images"
    images.mkdir()
    for place in dataset_cache.indices("train").tolist():
        number = dataset_cache.sample_id(place).split()[1]
        (images / f"{place:09}-{number}.png").write_bytes(png_bytes(dataset_cache.read([place])[0]))
    code = (
        "import sys, pathlib, streaming\n"
        "with streaming.MDSWriter(out=sys.argv[2], columns={'id': 'int', 'image': 'bytes'}, size_limit=int(sys.argv[3])) as out:\n"
        "    for file in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "        out.write({'id': int(file.stem.split('-')[1]), 'image': file.read_bytes()})\n"
    )
    arguments = [str(images), str(folder / "mds"), str(shard_bytes)]
    subprocess.run([STREAMING, "-c", code, *arguments], check=True)


def prepare(folder: Path, faces: int, shard_bytes: int) -> int:
    """Writes the faces in all three forms; returns how many there are in train."""
    spec = CacheSpec(data=f"demo:{faces}", split=(1 - 70 / faces, 35 / faces, 35 / faces))
    found = open_or_build(spec, cache=folder / "packs")
    (folder / "cache").symlink_to(found)
    dataset_cache = open_cache(found)
    write_shards(dataset_cache, folder / "shards", shard_bytes=shard_bytes, source="demo")
    if STREAMING:
        write_mds(folder, shard_bytes)
    return len(dataset_cache.indices("train"))


def call(reader: str, folder: Path, *arguments: str) -> Any:
    command = [python_of(reader), str(HERE / "shard_readers.py"), reader, str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{reader} {arguments[0]}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def orders_of_two(reader: str, folder: Path) -> list[list[list[int]]]:
    """Each process's batches, of two that run at once."""
    started = []
    for rank in (0, 1):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "29517",
        }
        command = [python_of(reader), str(HERE / "shard_readers.py"), reader, str(folder)]
        started.append(
            subprocess.Popen(
                [*command, "orders", "2"], env=environment, stdout=subprocess.PIPE, text=True
            )
        )
    return [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]


def compare_orders(reader: str, folder: Path, count: int) -> dict[str, Any]:
    """Whether each global batch of one process and of two has the same faces, and each face comes once."""
    one = call(reader, folder, "orders", "1")
    two = orders_of_two(reader, folder)
    pairs = list(zip(one, *two, strict=False))
    seen = [number for rank in two for batch in rank for number in batch]
    return {
        "batches": len(one),
        "same_global_batches": sum(sorted(a) == sorted(b + c) for a, b, c in pairs),
        "steps_of_two": [len(rank) for rank in two],
        "faces": count,
        "seen_by_one": len({number for batch in one for number in batch}),
        "seen_by_two": len(set(seen)),
        "repeated_by_two": len(seen) - len(set(seen)),
    }


def race(folder: Path, rounds: int, readers: tuple[str, ...]) -> dict[str, Any]:
    """Images per second of each reader, round by round in turn."""
    started = {}
    for reader in readers:
        command = [python_of(reader), str(HERE / "shard_readers.py"), reader, str(folder), "speed"]
        started[reader] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    found: dict[str, list[float]] = {reader: [] for reader in readers}
    try:
        for number in range(rounds + 1):
            for reader, process in started.items():
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write("\n")
                process.stdin.flush()
                rate = json.loads(process.stdout.readline())
                if number:  # the first round warms the page cache
                    found[reader].append(rate)
    finally:
        for process in started.values():
            process.communicate()
    return {
        reader: {"median": round(statistics.median(rates)), "all": [round(rate) for rate in rates]}
        for reader, rates in found.items()
    }


def versions() -> dict[str, str]:
    names = ("torch", "numpy", "pillow", "webdataset")
    found = {name: importlib.metadata.version(name) for name in names}
    if STREAMING:
        code = "import numpy, streaming; print(streaming.__version__, numpy.__version__)"
        said = subprocess.run([STREAMING, "-c", code], capture_output=True, text=True, check=True)
        found["mosaicml-streaming"], found["its numpy"] = said.stdout.split()[-2:]
    return found


def show(result: Mapping[str, Any]) -> None:
    print(f"{'reader':18}{'1 = 2 processes':>18}{'repeated':>10}{'cut epoch':>12}{'images/s':>10}")
    for reader, facts in result["readers"].items():
        same = f"{facts['same_global_batches']} of {facts['batches']}"
        print(
            f"{reader:18}{same:>18}{facts['repeated_by_two']:>10}"
            f"{'same' if facts['resume']['same'] else 'differs':>12}{facts['speed']['median']:>10}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shard-mb", type=float, default=1.0)
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    readers = tuple(name for name in READERS if STREAMING or not name.startswith("streaming"))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        count = prepare(folder, options.faces, round(options.shard_mb * 1e6))
        dataset_cache = open_cache(folder / "shards")
        names = {
            f"{place:09}": int(dataset_cache.sample_id(place).split()[1]) for place in range(count)
        }
        (folder / "names.json").write_text(json.dumps(names))
        facts = {
            reader: {
                **compare_orders(reader, folder, count),
                "resume": call(reader, folder, "resume"),
            }
            for reader in readers
        }
        for reader, rates in race(folder, options.rounds, readers).items():
            facts[reader]["speed"] = rates
    result = {"versions": versions(), "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    result |= {"faces": count, "readers": facts}
    show(result)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
