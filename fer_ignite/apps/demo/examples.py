"""Example images of the demo: drawn faces, free of rights."""

import io
from dataclasses import dataclass

from PIL import Image

from fer_ignite.data.drawn_faces import DEMO_CLASSES, draw_faces

__all__ = ["Example", "draw_examples"]

_SIDE_PX = 192
# Of each expression, the seed whose drawing shows it plainly.
_SEEDS = {
    "happy": 22,
    "surprise": 14,
    "fear": 11,
    "angry": 8,
    "sad": 16,
    "disgust": 10,
    "neutral": 2,
}


@dataclass(frozen=True)
class Example:
    """A drawn face.

    Attributes:
        expression: the one that was drawn; a network may see another.
        data: a PNG file.
    """

    expression: str
    data: bytes

    def image(self) -> Image.Image:
        """The picture."""
        return Image.open(io.BytesIO(self.data))


def draw_examples() -> list[Example]:
    """One drawn face per expression."""
    return [_draw(expression, seed) for expression, seed in _SEEDS.items()]


def _draw(expression: str, seed: int) -> Example:
    faces_NHW1, _ = draw_faces(1, seed=seed, size=_SIDE_PX, start=DEMO_CLASSES.index(expression))
    file = io.BytesIO()
    Image.fromarray(faces_NHW1[0, :, :, 0]).save(file, "PNG")
    return Example(expression, file.getvalue())
