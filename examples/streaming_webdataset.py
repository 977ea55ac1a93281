"""Faces that stream from object storage, in WebDataset's shards, in an order that is arithmetic as the pack's is.

    python examples/streaming_webdataset.py fer2013.csv shards          # faces become tar files: copy the folder to a bucket
    export FACES=https://storage.example.org/faces                      # or s3://..., gs://..., or the folder itself
    fer-ignite train --data examples/streaming_webdataset.py:Shards --handlers examples/streaming_webdataset.py:by_shards

Shards are read from first to last, as storage likes it. An epoch's order is one of shards, and one of the faces inside each
group of shards that lies in memory. It is a function of (seed, epoch) alone: 1 and N processes see the same batches, and a
run continues in the middle of an epoch by reading one group again. Needs: pip install ".[stream]"
"""

import dataclasses
import io
import json
import os
import sys
from functools import lru_cache

import numpy as np
import webdataset
from torch.utils.data import Dataset

from fer_ignite.data.cache.format import open_cache
from fer_ignite.data.cache.lookup import open_or_build
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.data.sampler import EpochSampler, generator

PER_SHARD = int(os.environ.get("FACES_PER_SHARD", 10_000))  # 23 MB of 48-px gray faces
GROUP = 8  # shards that are shuffled together
IN_MEMORY = 2 * GROUP  # of them, per process


class Shards(Dataset):
    """One split, read by shards: what ``--data`` takes. Labels come from the index, so that they cost no reading of images."""

    def __init__(self, split):
        self.where = os.environ["FACES"].rstrip("/")
        index = np.load(io.BytesIO(fetch(f"{self.where}/index.npz")))
        self.classes = [str(name) for name in index["classes"]]
        self.targets = index[f"{split}_labels"]
        self.per_shard, self.split = int(index["per_shard"]), split
        self.shard = lru_cache(IN_MEMORY)(self.read)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        number, place = divmod(i, self.per_shard)
        return self.shard(number)[place], int(self.targets[i])

    def read(self, number):
        """uint8 [faces of the shard, H, W, C]."""
        url = f"{self.where}/{self.split}-{number:06}.tar"
        # Not WebDataset(url), which deals shards out to processes: who reads which face is the plan's decision.
        shard = webdataset.DataPipeline(
            webdataset.SimpleShardList([url]), webdataset.tarfile_to_samples()
        )
        return np.stack([np.load(io.BytesIO(sample["npy"])) for sample in shard])

    def __getstate__(self):  # loading processes read for themselves
        return {name: value for name, value in self.__dict__.items() if name != "shard"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.shard = lru_cache(IN_MEMORY)(self.read)


def fetch(url):
    """A small file's bytes, from wherever the shards are."""
    with webdataset.gopen(url) as file:
        return file.read()


@dataclasses.dataclass(frozen=True, eq=False)
class ByShards(EpochSampler):
    """An order that stays within one group of shards until it is used up."""

    per_shard: int = PER_SHARD

    def order(self, epoch):
        return order_by_shards(self, epoch)


@lru_cache(maxsize=2)
def order_by_shards(plan, epoch):
    draw = generator(plan.seed, "order", epoch)
    # the train split comes first, so places in it are places in the data
    shards_N = plan.indices_N // plan.per_shard
    shards = draw.permutation(np.unique(shards_N))
    groups = [
        np.isin(shards_N, shards[start : start + GROUP]) for start in range(0, len(shards), GROUP)
    ]
    return np.concatenate([draw.permutation(plan.indices_N[group_N]) for group_N in groups])[
        : plan.faces_per_epoch
    ]


def by_shards(session):
    """The handler: the run's plan, with another order."""
    loader = session.train_loader
    settings = {
        field.name: getattr(loader.plan, field.name) for field in dataclasses.fields(EpochSampler)
    }
    loader.plan = ByShards(**settings, per_shard=Shards("train").per_shard)


def write(data, folder):
    """Anything that ``--data`` takes as shards: ``train-000000.tar`` and so on, of PER_SHARD faces each, and ``index.npz``."""
    pack = open_cache(open_or_build(CacheSpec(data=data)))
    os.makedirs(folder, exist_ok=True)
    index = {"classes": pack.classes, "per_shard": PER_SHARD}
    for split in ("train", "val", "test"):
        places = pack.indices(split)
        index[f"{split}_labels"] = np.asarray(pack.labels[places])
        for number, start in enumerate(range(0, len(places), PER_SHARD)):
            with webdataset.TarWriter(f"{folder}/{split}-{number:06}.tar", mtime=0) as tar:
                for place in places[start : start + PER_SHARD]:
                    tar.write({"__key__": f"{place:09}", "npy": pack.read([place])[0]})
    np.savez(f"{folder}/index.npz", **index)
    print(json.dumps({"folder": folder, "faces": len(pack)}))


if __name__ == "__main__":
    write(*sys.argv[1:])
