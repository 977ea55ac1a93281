"""Which images show the same photograph: pixel for pixel, or cut, scaled, mirrored and compressed anew.

Two images are near copies where their small versions, the average face taken off, go in the same direction. Without the
average face two strangers who both look into the camera would count as alike.
"""

# Dimensions: N images, D images that differ, S S the side of a small version, P pairs, H W pixels, C channels.

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fer_ignite.data.decoding import measure
from fer_ignite.data.facts import numbered
from fer_ignite.data.pack import Pack

__all__ = ["Copies", "find_copies", "likeness", "small_versions"]

# Measured on FER2013 by whether FER+ voters agree on the two images of a pair: 92 % above this value, as on pairs that
# are surely the same; 60 % for mirrored pairs below it, as on strangers.
NEAR = 0.93
_COARSE, _FINE = 8, 16  # px; every pair is compared at the first side, those that come near at the second
_COARSE_NEAR = 0.90
_FEW = 100  # images: the average of fewer is less of a face than of these images
_FLAT = 2.0  # gray levels: standard deviation below which there is nothing to compare
_PIECE = 1024

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Copies:
    """Who is a copy of whom.

    Attributes:
        exact_N, near_N: int64, equal for copies; near groups hold exact ones. Numbers are the first member's place.
        mirrored_N: bool, alike to another image of its group only when mirrored.
        flat_N: bool, (nearly) one gray level, nothing to be seen.
    """

    exact_N: Numbers
    near_N: Numbers
    mirrored_N: NDArray[np.bool_]
    flat_N: NDArray[np.bool_]


def find_copies(pack: Pack) -> Copies:
    """Compares all images of a pack with all others; the time grows with the square of their number."""
    digests, fine, flat = [], [], []
    for at in range(0, len(pack), _PIECE):
        images_BHWC = pack.read(np.arange(at, min(at + _PIECE, len(pack))))
        digests.append(measure(images_BHWC)[0])
        gray_BHW = images_BHWC.mean(axis=3, dtype=np.float32)
        flat.append(gray_BHW.std(axis=(1, 2)) < _FLAT)
        fine.append(small_versions(gray_BHW, _FINE))
    flat_N = np.concatenate(flat)
    exact_N = _first_members(numbered(np.concatenate(digests)))
    different = np.flatnonzero((exact_N == np.arange(len(pack))) & ~flat_N)
    pairs_P2, mirrored_P = _near_pairs(np.concatenate(fine)[different])
    near_N = _joined(exact_N, different[pairs_P2])
    plain_N = _in_pair(len(pack), different[pairs_P2[~mirrored_P]]) | (np.bincount(exact_N, minlength=len(pack))[exact_N] > 1)
    return Copies(exact_N, near_N, _in_pair(len(pack), different[pairs_P2[mirrored_P]]) & ~plain_N, flat_N)


def small_versions(gray_BHW: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """float32 [B, side, side]: averages over equal areas."""
    rows, columns = (_averaging(length, side) for length in gray_BHW.shape[1:])
    small_BSS: NDArray[np.float32] = rows @ gray_BHW @ columns.T
    return small_BSS


def _averaging(length: int, side: int) -> NDArray[np.float32]:
    """[side, length]: each row averages its share of a line, pixels at the border in part."""
    edges = np.linspace(0, length, side + 1)
    pixels = np.arange(length)
    cover = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    cover = np.maximum(cover, 0)
    return (cover / cover.sum(axis=1, keepdims=True)).astype(np.float32)


def likeness(small_DSS: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [D, S * S]: vectors of length 1 whose product is how alike two images are, in [-1, 1].

    Brightness and contrast are taken off, then the average face.
    """
    flat_DV = small_DSS.reshape(len(small_DSS), -1)
    flat_DV = _unit(flat_DV - flat_DV.mean(axis=1, keepdims=True))
    return _unit(flat_DV - len(flat_DV) / (len(flat_DV) + _FEW) * flat_DV.mean(axis=0))


def _unit(vectors_DV: NDArray[np.float32]) -> NDArray[np.float32]:
    unit_DV: NDArray[np.float32] = vectors_DV / np.maximum(np.linalg.norm(vectors_DV, axis=1, keepdims=True), 1e-6)
    return unit_DV.astype(np.float32, copy=False)


def _near_pairs(fine_DSS: NDArray[np.float32]) -> tuple[Numbers, NDArray[np.bool_]]:
    """int64 [P, 2] pairs of near copies, the lower place first, and bool [P] whether they are mirrored."""
    if len(fine_DSS) < 2:
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.bool_)
    fine_DV, coarse_DV = likeness(fine_DSS), likeness(small_versions(fine_DSS, _COARSE))
    pairs, mirrored = [], []
    for is_mirrored in (False, True):
        other_coarse_DV = _mirror(coarse_DV, _COARSE) if is_mirrored else coarse_DV
        other_fine_DV = _mirror(fine_DV, _FINE) if is_mirrored else fine_DV
        for at in range(0, len(fine_DV), _PIECE):
            alike = coarse_DV[at : at + _PIECE] @ other_coarse_DV[at:].T
            first, second = np.nonzero(alike > _COARSE_NEAR)
            first, second = first[second > first] + at, second[second > first] + at
            for piece in range(0, len(first), 1 << 16):  # many alike images make many pairs
                one, two = first[piece : piece + (1 << 16)], second[piece : piece + (1 << 16)]
                near = (fine_DV[one] * other_fine_DV[two]).sum(axis=1) > NEAR
                pairs.append(np.stack([one[near], two[near]], axis=1))
                mirrored.append(np.full(int(near.sum()), is_mirrored))
    if not pairs:
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.bool_)
    return np.concatenate(pairs), np.concatenate(mirrored)


def _mirror(vectors_DV: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    return np.ascontiguousarray(vectors_DV.reshape(-1, side, side)[:, :, ::-1]).reshape(len(vectors_DV), -1)


def _first_members(groups_N: Numbers) -> Numbers:
    """The groups under another number: the place of each one's first member."""
    _, first_G, group_N = np.unique(groups_N, return_index=True, return_inverse=True)
    return first_G[group_N.reshape(-1)].astype(np.int64)


def _joined(groups_N: Numbers, pairs_P2: Numbers) -> Numbers:
    """Groups joined by pairs, under the place of the first member; a chain of pairs makes one group."""
    above = groups_N.copy()

    def top(place: int) -> int:
        while above[place] != place:
            above[place] = above[above[place]]
            place = int(above[place])
        return place

    for one, two in pairs_P2.tolist():
        low, high = sorted((top(one), top(two)))
        above[high] = low
    return np.array([top(place) for place in range(len(above))], dtype=np.int64)


def _in_pair(count: int, pairs_P2: Numbers) -> NDArray[np.bool_]:
    found_N = np.zeros(count, dtype=np.bool_)
    found_N[pairs_P2.reshape(-1)] = True
    return found_N
