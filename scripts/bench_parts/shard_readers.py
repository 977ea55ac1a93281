"""One reader of shards, in a process of its own: its order, its resume, its speed, as JSON lines.

    python shard_readers.py READER FOLDER orders WORLD   [[ids of global batch 0], ...] of an epoch, by WORLD processes
    python shard_readers.py READER FOLDER resume         whether an epoch that is cut in its middle continues exactly
    python shard_readers.py READER FOLDER speed          images/s of an epoch, after one line on stdin each; ends with stdin

READER: cache, shards, streaming, streaming-random or webdataset. FOLDER holds what scripts/bench_parts/shards.py wrote.
"""

import functools
import io
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

BATCH, SEED, WINDOW = 64, 5, 16
Batches = Iterator[tuple[list[int], Any]]  # ids, and the images of a batch


def decoded(data: bytes) -> Any:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)))


def own(
    folder: Path, rank: int, world: int, *, epoch: int, skip: int, read: bool, kind: str
) -> Batches:
    """The package's order by shards; ``kind``: "cache" reads the same faces from the memory-mapped dataset cache."""
    import torch

    from fer_ignite.data.dataset import dataset_from_cache
    from fer_ignite.data.fetchers import IndexBatch
    from fer_ignite.data.sampler import EpochSampler, ShardOrder

    faces = dataset_from_cache(folder / kind)
    places = faces.indices["train"]
    order = None
    if faces.cache is not None and faces.cache.shards is not None:
        order = ShardOrder(faces.cache.shards.shard_numbers(places), WINDOW)
    plan = EpochSampler(places, faces.targets.labels_N[places], SEED, BATCH, shard_order=order)
    length = plan.iterations_per_epoch

    def requests() -> Iterator[IndexBatch]:
        for iteration in range(epoch * length + skip, (epoch + 1) * length):
            micro = plan.micro_batch(iteration)
            positions = micro.positions(rank, world)
            yield IndexBatch(micro.indices_W[positions], micro.epoch, micro.step, positions)

    known = numbers_of(faces)
    fetcher = faces.fetcher(torch.device("cpu"), seed=SEED)
    images = fetcher.batches(requests()) if read else itertools.repeat(None)
    for request, batch in zip(requests(), images, strict=False):
        yield [known[place] for place in request.indices_B.tolist()], batch


def numbers_of(faces: Any) -> list[int]:
    """The number of the drawn face at each place, the same in all forms of the data."""
    return [
        int(faces.cache.sample_id(place).split()[1]) for place in range(len(faces.targets.labels_N))
    ]


def streaming_set(folder: Path, world: int) -> Any:
    from streaming import StreamingDataset

    class Faces(StreamingDataset):
        def __getitem__(self, index: int) -> Any:
            sample = super().__getitem__(index)
            return int(sample["id"]), sample["image"]

    return Faces(
        local=str(folder / "mds"),
        shuffle=True,
        shuffle_algo="py1e",
        shuffle_seed=SEED,
        num_canonical_nodes=2,
        batch_size=BATCH // world,
    )


def streaming(folder: Path, rank: int, world: int, *, epoch: int, skip: int, read: bool) -> Batches:
    """MosaicML Streaming in its own order; ``skip`` through its state dict."""
    faces = streaming_set(folder, world)
    if epoch or skip:
        faces.load_state_dict(
            {
                "epoch": epoch,
                "sample_in_epoch": skip * BATCH,
                "num_canonical_nodes": 2,
                "shuffle_seed": SEED,
                "initial_physical_nodes": 1,
            }
        )
    yield from grouped(iter(faces), BATCH // world, read=read)


def streaming_random(
    folder: Path, rank: int, world: int, *, epoch: int, skip: int, read: bool
) -> Batches:
    """MosaicML Streaming as a map-style data set, in the package's order."""
    from fer_ignite.data.dataset import dataset_from_cache

    faces = streaming_set(folder, 1)
    place_of = {
        number: place
        for place, number in enumerate(numbers_of(dataset_from_cache(folder / "shards")))
    }
    for ids, _ in own(folder, rank, world, epoch=epoch, skip=skip, read=False, kind="shards"):
        samples = [faces[place_of[number]] for number in ids]
        yield (
            [number for number, _ in samples],
            np.stack([decoded(data) for _, data in samples]) if read else None,
        )


def webdataset(
    folder: Path, rank: int, world: int, *, epoch: int, skip: int, read: bool
) -> Batches:
    """WebDataset's usual pipeline; it has no state, so ``skip`` reads and drops."""
    import webdataset as wds

    files = sorted(str(file) for file in (folder / "shards" / "shards").glob("train-*.tar"))
    names = json.loads((folder / "names.json").read_text())
    pipeline = wds.DataPipeline(
        wds.SimpleShardList(files),
        wds.detshuffle(len(files), seed=SEED, epoch=epoch - 1),
        every(rank, world),
        wds.tarfile_to_samples(),
        wds.shuffle(16 * BATCH, rng=random.Random(SEED + epoch)),
    )
    samples = ((names[Path(sample["__key__"]).name], sample["png"]) for sample in pipeline)
    batches = grouped(samples, BATCH // world, read=read)
    yield from itertools.islice(batches, skip, None)


def every(rank: int, world: int) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """Shards dealt to processes in turn, as webdataset.split_by_node does."""
    return lambda shards: itertools.islice(shards, rank, None, world)


def grouped(samples: Iterator[tuple[int, bytes]], size: int, *, read: bool) -> Batches:
    while batch := list(itertools.islice(samples, size)):
        yield (
            [number for number, _ in batch],
            np.stack([decoded(data) for _, data in batch]) if read else None,
        )


READERS: dict[str, Callable[..., Batches]] = {
    "cache": functools.partial(own, kind="cache"),
    "shards": functools.partial(own, kind="shards"),
    "streaming": streaming,
    "streaming-random": streaming_random,
    "webdataset": webdataset,
}


def orders(reader: str, folder: Path, world: int) -> None:
    """The ids of each batch of this process, whose rank torchrun's variables say."""
    if world > 1 and reader.startswith("streaming"):
        import torch.distributed as dist

        dist.init_process_group("gloo")
    rank = int(os.environ.get("RANK", 0))
    batches = READERS[reader](folder, rank, world, epoch=0, skip=0, read=False)
    print(json.dumps([ids for ids, _ in batches]), flush=True)


def resume(reader: str, folder: Path) -> None:
    """Compares an epoch's second half with that of a run that begins there."""
    started = time.perf_counter()
    whole = [ids for ids, _ in READERS[reader](folder, 0, 1, epoch=1, skip=0, read=False)]
    cut = len(whole) // 2
    middle = time.perf_counter()
    begun = READERS[reader](folder, 0, 1, epoch=1, skip=cut, read=False)
    first, _ = next(begun)
    first_s = time.perf_counter() - middle
    rest = [first, *(ids for ids, _ in begun)]
    print(
        json.dumps(
            {"same": rest == whole[cut:], "first_batch_s": first_s, "epoch_s": middle - started}
        ),
        flush=True,
    )


def speed(reader: str, folder: Path) -> None:
    for epoch, _ in enumerate(sys.stdin):
        count, started = 0, None
        for ids, _ in READERS[reader](folder, 0, 1, epoch=epoch, skip=0, read=True):
            if started is None:
                started = time.perf_counter()  # without opening and the first batch
            else:
                count += len(ids)
        print(json.dumps(count / (time.perf_counter() - started)), flush=True)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    name, place, what, *rest = sys.argv[1:]
    {"orders": orders, "resume": resume, "speed": speed}[what](name, Path(place), *map(int, rest))
