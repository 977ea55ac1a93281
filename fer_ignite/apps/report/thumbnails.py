"""Images and Grad-CAM overlays as data URIs."""

# Dimensions: B faces, H W pixels, C channels.

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fer_ignite.data.dataset import FaceDataset
from fer_ignite.data.fetchers import is_finished, sample_pixels, unpaired
from fer_ignite.data.images import as_data_uri

__all__ = ["load_pixels", "overlay_uri", "thumbnail_uri"]

Pixels = NDArray[np.uint8]
THUMBNAIL_PX = 64
OVERLAY_PX = 96
_WRITER: dict[str, Any] = {"quality": 85, "optimize": True}


def load_pixels(dataset: FaceDataset, places: Sequence[int]) -> Pixels:
    """The stored faces, uint8 [B, H, W, C]; finished tensors of a user's data set are stretched to 0..255."""
    if dataset.cache is not None:
        return dataset.cache.read(np.array(places, dtype=np.int64))
    assert dataset.fetch is not None
    return (
        np.stack([_pixels(dataset.fetch(place), dataset) for place in places])
        if len(places)
        else np.zeros((0, 1, 1, 1), np.uint8)
    )


def _pixels(sample: object, dataset: FaceDataset) -> Pixels:
    image = unpaired(sample)
    if is_finished(image):
        image_HWC = image.detach().float().cpu().permute(1, 2, 0).numpy()
        # A user's normalisation is not known, so its inverse is not either.
        low, high = float(image_HWC.min()), float(image_HWC.max())
        return ((image_HWC - low) / max(high - low, 1e-6) * 255).astype(np.uint8)
    return sample_pixels(
        image, dataset.side_px or 48, channels=dataset.channels, resize_mode=dataset.resize_mode
    )


def thumbnail_uri(face_HWC: Pixels) -> str:
    """A face as a JPEG data URI, scaled down to 64 px where it is larger."""
    picture = _picture(face_HWC)
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    return as_data_uri(picture, **_WRITER)


def overlay_uri(face_HWC: Pixels, map_HW: NDArray[np.float32]) -> str:
    """A face under a map in [0, 1], as a JPEG data URI of 96 px: nothing over dark places, yellow over the brightest."""
    from matplotlib import colormaps

    size = (OVERLAY_PX, OVERLAY_PX)
    face = np.asarray(
        _picture(face_HWC).convert("RGB").resize(size, Image.Resampling.BILINEAR), dtype=np.float32
    )
    strength = np.asarray(
        Image.fromarray(map_HW.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    ).clip(0, 1)
    heat = colormaps["inferno"](strength)[..., :3] * 255
    weight = 0.65 * strength[..., None]
    mixed = Image.fromarray(((1 - weight) * face + weight * heat).astype(np.uint8))
    return as_data_uri(mixed, **_WRITER)


def _picture(face_HWC: Pixels) -> Image.Image:
    return Image.fromarray(face_HWC[:, :, 0] if face_HWC.shape[2] == 1 else face_HWC)
