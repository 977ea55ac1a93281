import numpy as np
import pytest
from PIL import Image

from fer_ignite.data.cache.format import open_cache
from fer_ignite.data.cache.lookup import open_or_build
from fer_ignite.data.cache.spec import CacheSpec


@pytest.fixture(scope="session")
def blob():
    """(number, side) -> a smooth gray picture that is like no other number's; uint8 [side, side]."""

    def draw(number, side=48):
        small = np.random.default_rng(number).integers(0, 256, (6, 6)).astype(np.uint8)
        return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))

    return draw


@pytest.fixture
def cache_from_images(tmp_path):
    """({"train/happy/a": pixels}) -> the pack of class folders with these images."""

    def make(images, **spec):
        for name, pixels in images.items():
            path = tmp_path / "faces" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(pixels, bytes):
                path.write_bytes(pixels)
            else:
                Image.fromarray(pixels).save(path)
        return open_cache(
            open_or_build(CacheSpec(data=str(tmp_path / "faces"), channels="gray", **spec))
        )

    return make
