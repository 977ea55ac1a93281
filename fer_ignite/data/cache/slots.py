"""The pixel file of a dataset cache while it is built: processes write into it side by side."""

# Dimensions: B images of one piece of work, H W pixels, C channels.

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["PixelSlots"]


class PixelSlots(NamedTuple):
    """A file in which each image has a slot, in the images' order; processes write into it side by side.

    Args:
        start: bytes before the first slot.
        slot: bytes of one image.
    """

    path: str
    start: int
    slot: int

    def write(self, images_BHWC: npt.NDArray[np.uint8], *, at: int) -> None:
        """Writes images into the slots from number `at`."""
        # "r+b": "wb" would cut off what the other processes have written.
        with open(self.path, "r+b") as file:
            file.seek(self.start + at * self.slot)
            file.write(np.ascontiguousarray(images_BHWC).data)

    def close_gaps(self, runs: Iterable[tuple[int, int]]) -> None:
        """Moves the images together and cuts the rest off.

        Args:
            runs: first slot and number of images of each run, in order.
        """
        count = 0
        with open(self.path, "r+b") as file:
            for at, images in runs:
                # Images only move towards the start, so none is overwritten before it was read.
                if at != count and images:
                    file.seek(self.start + at * self.slot)
                    pixels = file.read(images * self.slot)
                    file.seek(self.start + count * self.slot)
                    file.write(pixels)
                count += images
            file.truncate(self.start + count * self.slot)
