"""What is measured on stored pixels: digests, sums for mean and standard deviation, blank images."""

# Dimensions: N or B images, H W pixels, C channels, R = W * C values of a row.

import hashlib

import numpy as np
import numpy.typing as npt

__all__ = ["mean_and_std", "measure"]

_CACHED_BYTES = 1 << 18
Images = npt.NDArray[np.uint8]


def measure(images_BHWC: Images) -> tuple[Images, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Hashes uint8 [B, 16], sums and sums of squares int64 [B, 2, C], and whether all pixels are equal, bool [B]."""
    images_BHWC = np.ascontiguousarray(images_BHWC)
    digests = [hashlib.blake2b(image, digest_size=16).digest() for image in images_BHWC]
    # so few at a time that they stay in the processor's cache
    step = max(1, _CACHED_BYTES // max(images_BHWC[:1].nbytes, 1))
    parts = [_sums(images_BHWC[at : at + step]) for at in range(0, len(images_BHWC), step)]
    sums_B2C = np.concatenate(parts) if parts else _sums(images_BHWC)
    # Cauchy and Schwarz: n * sum(x^2) is sum(x)^2 only where all x are equal. 4096 x 4096 pixels still fit 64 bits.
    area = np.uint64(images_BHWC.shape[1] * images_BHWC.shape[2])
    wide_B2C = sums_B2C.astype(np.uint64)
    blank_B = (wide_B2C[:, 1] * area == wide_B2C[:, 0] ** 2).all(axis=1)
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 16), sums_B2C, blank_B


def _sums(images_BHWC: Images) -> npt.NDArray[np.int64]:
    batch, height, width, channels = images_BHWC.shape
    # adding rows to rows is what a processor does fast
    rows_BHR = images_BHWC.reshape(batch, height, width * channels)
    squares_BHR = np.square(rows_BHR, dtype=np.uint16)  # 255 squared fits
    return np.stack(
        [
            # uint32 holds 66,000 rows of 255 squared; images have at most 20 megapixels.
            np.add.reduce(values_BHR, axis=1, dtype=np.uint32)
            .reshape(batch, width, channels)
            .sum(axis=1, dtype=np.int64)
            for values_BHR in (rows_BHR, squares_BHR)
        ],
        axis=1,
    )


def mean_and_std(
    sums_N2C: npt.NDArray[np.int64], *, pixels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, in 0..1, of images of so many pixels, out of what :func:`measure` added up."""
    total_2C = sums_N2C.sum(axis=0) / (len(sums_N2C) * pixels)
    # The sums are exact, the quotients rounded: the difference may come out just below 0.
    std_C = np.sqrt(np.maximum(total_2C[1] - total_2C[0] ** 2, 0))
    return tuple((total_2C[0] / 255).tolist()), tuple((std_C / 255).tolist())
