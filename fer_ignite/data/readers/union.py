"""Several data sets as one: their dataset caches behind each other, classes matched by name and meaning."""

# Dimensions: N images, K classes, H W pixels, C channels.

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fer_ignite.data.cache.format import open_cache
from fer_ignite.data.classes import LAYOUTS_OF_NUMBERS, match_classes
from fer_ignite.data.expressions import are_numbers
from fer_ignite.data.images import printable
from fer_ignite.data.readers.find import CacheSource, require_memory
from fer_ignite.data.samples import Samples, name_numbered_classes
from fer_ignite.errors import DataError

__all__ = ["UnionSource", "set_numbers"]

_MARK = b"/"  # between the number of a data set and the name of an image in it


class UnionSource:
    """The dataset caches of several data sets as one source of pixels, all of which lie in memory while they are packed.

    An image's name begins with the number of its data set, from 1. Each keeps its own splits. The classes are the first one's, then
    those of the others that it doesn't have. Where one set has votes, the others' labels are their distributions.

    Args:
        where: the names of the data sets, for messages.
        parts: dataset caches of one side and one number of channels.
        any_classes: numbers stay classes beside names, because the user names the classes of the union.
        numbering: data set whose numbers the parts' class names may be, see `NUMBERED_CLASSES`.
    """

    kind = "union"

    def __init__(
        self,
        where: str,
        parts: Sequence[CacheSource],
        *,
        any_classes: bool = False,
        numbering: str | None = None,
    ) -> None:
        self.where, self._parts = where, tuple(parts)
        self._any_classes, self._numbering = any_classes, numbering

    def stamp(self) -> bytes:
        # Every stamp has 32 bytes, so that their sequence stands for one list of parts only.
        return hashlib.sha256(b"".join(part.stamp() for part in self._parts)).digest()

    def samples(self) -> Samples:
        caches = [open_cache(part.path) for part in self._parts]
        # Encoded images are decoded first, and then copied as the pixels of the others are.
        copies = [one.decoded_bytes * (1 if one.is_memmap else 2) for one in caches]
        require_memory(
            sum(copies), self.where, remedy="give a smaller --image-size, or join fewer data sets"
        )
        found = [name_numbered_classes(part.samples(), self._numbering) for part in self._parts]
        shapes = {
            samples.pixels_NHWC.shape[1:] for samples in found if samples.pixels_NHWC is not None
        }
        if len(shapes) != 1:
            raise DataError(
                f"{self.where}: the faces are stored with different sides or channels ({_shown(shapes)}); give --image-size no larger "
                "than the smallest, and --channels."
            )
        if not self._any_classes:
            self._refuse_numbers_beside_names(found)
        classes = _all_classes(found)
        labels = [_places(samples, classes)[samples.labels_N] for samples in found]
        soft_NK = None
        if any(samples.soft_NK is not None for samples in found):
            soft_NK = np.concatenate(
                [
                    _distributions(samples, labels_N, classes)
                    for samples, labels_N in zip(found, labels, strict=True)
                ]
            )
        left_out: dict[str, int] = {}
        for number, samples in enumerate(found, 1):
            left_out |= {f"{number}: {reason}": count for reason, count in samples.left_out.items()}
        return Samples(
            classes=classes,
            ids=[
                b"%d%s%s" % (number, _MARK, name)
                for number, samples in enumerate(found, 1)
                for name in samples.ids
            ],
            labels_N=np.concatenate(labels),
            splits_N=np.concatenate([samples.splits_N for samples in found]),
            pixels_NHWC=np.concatenate(
                [samples.pixels_NHWC for samples in found if samples.pixels_NHWC is not None]
            ),
            groups_N=_groups(found),
            soft_NK=soft_NK,
            skipped=tuple(
                f"{number}{_MARK.decode()}{text}"
                for number, samples in enumerate(found, 1)
                for text in samples.skipped
            ),
            left_out=left_out,
        )

    def _refuse_numbers_beside_names(self, found: Sequence[Samples]) -> None:
        numbered = [number for number, one in enumerate(found, 1) if are_numbers(one.classes)]
        if 0 < len(numbered) < len(found):
            first = found[numbered[0] - 1].classes
            raise DataError(
                f"{printable(self.where)}: the classes of data set {numbered[0]} are numbers ({', '.join(first)}), whose meaning is not "
                f"guessed, and another's are names; name them with --layout {'|'.join(LAYOUTS_OF_NUMBERS)} where it is one of these, or "
                f"with --classes 'angry=angry+{first[0]}, ...'."
            )


def set_numbers(ids: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """int64 [N]: the number of each image's data set, from 1, out of the names that a union gives them."""
    return np.array([int(name.split(_MARK, 1)[0]) for name in ids], dtype=np.int64)


def _shown(shapes: set[tuple[int, ...]]) -> str:
    return ", ".join(
        f"{shape[0]} px {'gray' if shape[-1] == 1 else 'colour'}" for shape in sorted(shapes)
    )


def _all_classes(found: Sequence[Samples]) -> tuple[str, ...]:
    classes: tuple[str, ...] = found[0].classes
    for samples in found[1:]:
        classes += match_classes(samples.classes, classes, numbers_are_names=True).unknown
    return classes


def _places(samples: Samples, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """int64 [K of the samples]: the places of their classes in the union's."""
    return match_classes(samples.classes, classes, numbers_are_names=True).places_K


def _distributions(
    samples: Samples, labels_N: npt.NDArray[np.int64], classes: Sequence[str]
) -> npt.NDArray[np.float32]:
    soft_NK: npt.NDArray[np.float32] = np.zeros((len(samples), len(classes)), dtype=np.float32)
    if samples.soft_NK is None:
        soft_NK[np.arange(len(samples)), labels_N] = 1
    else:
        soft_NK[:, _places(samples, classes)] = samples.soft_NK
    return soft_NK


def _groups(found: Sequence[Samples]) -> npt.NDArray[np.int64] | None:
    """The groups of all, numbered on; a set without groups has one for each image."""
    if all(samples.groups_N is None for samples in found):
        return None
    numbered, first = [], 0
    for samples in found:
        own_N = np.arange(len(samples)) if samples.groups_N is None else samples.groups_N
        # Shifted: person 3 of one set is not person 3 of another.
        numbered.append(own_N + first)
        first += int(own_N.max(initial=-1)) + 1
    return np.concatenate(numbered)
