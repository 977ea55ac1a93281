"""Real material: scikit-image's photographs, which ship inside its package, and videos composed of them."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts" / "bench_parts"))

from scenes import backgrounds, write_video

ASTRONAUT = (174, 58, 96, 120)  # left, top, width, height of the face, read off the picture by eye


@pytest.fixture(scope="session")
def astronaut():
    """uint8 [512, 512, 3]: one woman, smiling."""
    import skimage.data

    return skimage.data.astronaut()


@pytest.fixture(scope="session")
def coffee():
    """uint8 [480, 640, 3]: no person."""
    return backgrounds(names=["coffee"])[0]


@pytest.fixture(scope="session")
def face_box():
    """Where the astronaut's face is."""
    from fer_ignite.apps.faces.detection import Box

    return Box(*ASTRONAUT)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory, astronaut, coffee):
    """A folder with astronaut.png, coffee.jpg and the astronaut's face alone, face.png."""
    folder = tmp_path_factory.mktemp("photographs")
    Image.fromarray(astronaut).save(folder / "astronaut.png")
    Image.fromarray(coffee).save(folder / "coffee.jpg")
    return folder


@pytest.fixture(scope="session")
def clip(tmp_path_factory, astronaut, coffee):
    """clip.mp4: 1 s at 10 frames/s, 640 x 480; two astronauts, the second one's face mirrored, drifting about."""
    left, top, width, height = ASTRONAUT
    face = np.asarray(Image.fromarray(astronaut).convert("L"))[
        top : top + height, left - 12 : left + width + 12
    ]
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    write_video(path, coffee, [[face], [face[:, ::-1]]], seconds=1, fps=10, side=160)
    return path


@pytest.fixture(scope="session")
def reader():
    """The shipped network and the built-in detector."""
    from fer_ignite.apps.faces.detection import open_detector
    from fer_ignite.apps.faces.face_reader import FaceReader
    from fer_ignite.inference.predictor import open_predictor
    from fer_ignite.weights import shipped_checkpoint

    return FaceReader(
        open_predictor(shipped_checkpoint(), device="cpu", tta="none"), open_detector()
    )


@pytest.fixture(scope="session")
def fer2013_faces():
    """The first 40 val faces, uint8 [48, 48] each."""
    import os

    from fer_ignite.data.cache.format import DatasetCache
    from fer_ignite.data.cache.lookup import open_or_build
    from fer_ignite.data.cache.spec import CacheSpec

    dataset_cache = DatasetCache.open(
        open_or_build(CacheSpec(data=os.environ["FER2013_CSV"], channels="gray"))
    )
    return list(dataset_cache.read(dataset_cache.indices("val")[:40])[..., 0])
