"""Plants changed copies of faces among all faces of a data set, and counts which of them the near-copy search finds.

Changes: mirror, rotation by up to 10 degrees, brightness 0.8 to 1.3, contrast 0.8 to 1.2, a crop of 43 of 48 px enlarged
again, JPEG at quality 50; each alone and each pair of them.
"""

# Dimensions: N images of the data, M planted copies, P pairs, S S a square image.

import argparse
import io
import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from fer_ignite.apps.audit.duplicates import small_versions
from fer_ignite.apps.audit.near_duplicates import SIDE_PX, near_pairs
from fer_ignite.data.cache.format import open_cache
from fer_ignite.data.cache.lookup import open_or_build
from fer_ignite.data.cache.spec import CacheSpec

Change = Callable[[Image.Image, np.random.Generator], Image.Image]
_SURE = 0.95  # correlation of two images of the data from which they count as copies of each other


def _crop(image: Image.Image, random: np.random.Generator) -> Image.Image:
    left, top = (int(place) for place in random.integers(0, 6, 2))
    return image.crop((left, top, left + 43, top + 43)).resize(
        (SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR
    )


def _jpeg(image: Image.Image, random: np.random.Generator) -> Image.Image:
    room = io.BytesIO()
    image.save(room, "JPEG", quality=50)
    return Image.open(room).convert("L")


CHANGES: dict[str, Change] = {
    "mirror": lambda image, random: ImageOps.mirror(image),
    "rotate": lambda image, random: image.rotate(
        random.choice([-10, -7, -5, 5, 7, 10]), resample=Image.Resampling.BILINEAR
    ),
    "brightness": lambda image, random: ImageEnhance.Brightness(image).enhance(
        random.choice([0.8, 1.2, 1.3])
    ),
    "contrast": lambda image, random: ImageEnhance.Contrast(image).enhance(
        random.choice([0.8, 1.2])
    ),
    "crop": _crop,
    "jpeg": _jpeg,
}
PLANS: list[tuple[str, ...]] = [*((name,) for name in CHANGES), *itertools.combinations(CHANGES, 2)]


def plant(
    images_NSS: NDArray[np.uint8], *, each: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
    """Sources int64 [M], changed copies uint8 [M, S, S] and the plan of each int64 [M]; `each` copies per plan."""
    random = np.random.default_rng(seed)
    sources_M = random.permutation(
        np.flatnonzero(images_NSS.reshape(len(images_NSS), -1).std(axis=1) > 5)
    )[: each * len(PLANS)]
    plan_M = np.arange(len(sources_M)) // each
    copies = []
    for source, plan in zip(sources_M, plan_M, strict=True):
        image = Image.fromarray(images_NSS[source])
        for name in PLANS[plan]:
            image = CHANGES[name](image, random)
        copies.append(np.asarray(image))
    return sources_M, np.stack(copies), plan_M


def measure(images_NSS: NDArray[np.uint8], *, each: int, seed: int) -> dict[str, object]:
    """Recall per plan, and the share of correct pairs among those that have a planted copy in them.

    A pair counts as correct where both are the same source, or where the two sources themselves correlate at 0.95 or more.
    """
    sources_M, copies_MSS, plan_M = plant(images_NSS, each=each, seed=seed)
    count, began = len(images_NSS), time.monotonic()
    found = near_pairs(np.concatenate([images_NSS, copies_MSS]))
    seconds = time.monotonic() - began
    likes = {
        (int(one), int(two)): float(like)
        for (one, two), like in zip(found.pairs_P2, found.similarity_P, strict=True)
    }
    hits_M = np.array(
        [(int(source), count + place) in likes for place, source in enumerate(sources_M)]
    )
    origin = np.concatenate([np.arange(count), sources_M])
    correct = wrong = 0
    for one, two in likes:
        if two < count:
            continue
        low, high = sorted((int(origin[one]), int(origin[two])))
        correct, wrong = (
            (correct + 1, wrong)
            if low == high or likes.get((low, high), 0) >= _SURE
            else (correct, wrong + 1)
        )
    single_M = np.array([len(PLANS[plan]) == 1 for plan in plan_M])
    return {
        "images": count,
        "planted": len(sources_M),
        "seed": seed,
        "threshold": round(float(found.similarity_P.min()), 3),
        "seconds": round(seconds, 1),
        "recall_single": round(float(hits_M[single_M].mean()), 4),
        "recall_pairs": round(float(hits_M[~single_M].mean()), 4),
        "precision": round(correct / max(1, correct + wrong), 4),
        "pairs_with_a_planted_copy": correct + wrong,
        "recall": {
            "+".join(plan): round(float(hits_M[plan_M == place].mean()), 3)
            for place, plan in enumerate(PLANS)
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="fer2013.csv or other faces")
    parser.add_argument(
        "--each", type=int, default=100, help="planted copies per change and pair of changes"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args(arguments)
    dataset_cache = open_cache(open_or_build(CacheSpec(data=given.data)))
    gray_NHW = dataset_cache.read(np.arange(len(dataset_cache))).mean(axis=3, dtype=np.float32)
    images_NSS = np.unique(small_versions(gray_NHW, SIDE_PX).round().astype(np.uint8), axis=0)
    figures = measure(
        images_NSS[images_NSS.reshape(len(images_NSS), -1).std(axis=1) >= 2],
        each=given.each,
        seed=given.seed,
    )
    print(json.dumps(figures, indent=1))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
