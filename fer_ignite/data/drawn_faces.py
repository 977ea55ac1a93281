"""Drawn faces with seven expressions, for a first run and for tests.

A face is a handful of filled curves whose shape follows from thirteen numbers. Each expression is one row of such
numbers; a face lies between the neutral row and its own, with its own head, light and noise. Face i of a seed is a
function of (seed, i) alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from fer_ignite.errors import ConfigError

__all__ = ["DEMO_CLASSES", "draw_faces"]

# Dimensions: N faces, H W pixels, P points of a curve, 2 = (x right, y down) in units of half the face's height.

DEMO_CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")

Array = npt.NDArray[np.float64]

# Drawn larger and averaged: Pillow's lines and polygons have hard edges.
SUPERSAMPLE = 3

# One row per expression. Brow: height of its inner end, middle and outer end above rest. Eye: half height, inner end of
# the upper lid pulled down (+) or up (-), how far the lower lid bulges up, radius of the iris. Mouth: lift of the
# corners, how far the upper and the lower lip part, half width, one-sided pull. Nose: wrinkles on the bridge.
#             brow_in brow_mid brow_out eye    lid    squint iris   lift   upper  lower  width  pull   wrinkle
LOOKS = np.array(
    [
        # angry
        [-0.19, -0.07, 0.07, 0.075, 0.10, 0.01, 0.070, -0.10, 0.02, 0.03, 0.25, 0.00, 0.15],
        # disgust
        [-0.11, -0.09, -0.02, 0.050, 0.03, 0.05, 0.060, -0.07, 0.11, 0.01, 0.27, 0.14, 1.00],
        [0.19, 0.11, 0.00, 0.155, -0.03, 0.00, 0.055, -0.07, 0.03, 0.12, 0.38, 0.00, 0.00],  # fear
        [0.03, 0.05, 0.02, 0.085, 0.00, 0.05, 0.075, 0.21, -0.02, 0.15, 0.42, 0.00, 0.00],  # happy
        [0.00, 0.03, 0.00, 0.095, 0.00, 0.00, 0.075, 0.00, 0.00, 0.01, 0.28, 0.00, 0.00],  # neutral
        [0.15, 0.02, -0.09, 0.070, -0.09, 0.00, 0.070, -0.18, 0.00, 0.01, 0.25, 0.00, 0.00],  # sad
        # surprise
        [0.17, 0.25, 0.15, 0.165, 0.00, 0.00, 0.075, 0.00, 0.13, 0.19, 0.16, 0.00, 0.00],
    ]
)
NEUTRAL = DEMO_CLASSES.index("neutral")
# Standard deviation of each number from face to face; people differ most in brows and mouth width.
SPREAD = np.array(
    [0.020, 0.020, 0.020, 0.010, 0.012, 0.006, 0.006, 0.018, 0.010, 0.010, 0.025, 0.015, 0.05]
)

ARC_P = np.linspace(0.0, 2 * np.pi, 28, endpoint=False)
CIRCLE_P2 = np.stack([np.cos(ARC_P), np.sin(ARC_P)], axis=1)
ACROSS_P = np.linspace(-1.0, 1.0, 11)
BULGE_P = 1.0 - ACROSS_P**2


def draw_faces(
    count: int, *, seed: int, size: int = 48, start: int = 0
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Draw `count` gray faces, the seven expressions in turn.

    Args:
        count: number of faces, at least 0.
        seed: 0 or more; another seed, other people.
        size: side in pixels, 16 to 1024.
        start: index of the first face, so that processes can share the work.
    Returns:
        uint8 [count, size, size, 1] and int64 [count], an index into DEMO_CLASSES.
    Raises:
        ConfigError: a number is out of its range.
    """
    if count < 0 or seed < 0 or start < 0 or not 16 <= size <= 1024:
        raise ConfigError(
            f"The demo got a request for {count} faces of {size} px from seed {seed} and place {start}; "
            "count, seed and place are 0 or more, the size is 16 to 1024 px."
        )
    images_NHW1 = np.empty((count, size, size, 1), np.uint8)
    labels_N = (np.arange(start, start + count, dtype=np.int64)) % len(DEMO_CLASSES)
    for row, label in enumerate(labels_N.tolist()):
        rng = np.random.Generator(np.random.Philox(key=[seed, start + row]))
        images_NHW1[row, :, :, 0] = _finish(_sketch(label, rng, size=size), rng, size=size)
    return images_NHW1, labels_N


class _Pen:
    """Draws curves given in face units onto a supersampled canvas, through the head's pose."""

    def __init__(self, rng: np.random.Generator, side: int, *, background: float) -> None:
        tilt = rng.normal(0.0, 0.16)
        reach = side * rng.uniform(0.34, 0.45)
        turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
        stretch = np.diag([rng.uniform(0.9, 1.08), 1.0])
        self.matrix = reach * stretch @ turn
        self.origin = side * (0.5 + rng.uniform(-0.07, 0.07, 2))
        self.line = reach * rng.uniform(0.035, 0.075)
        self.canvas = Image.new("L", (side, side), int(background))
        self.draw = ImageDraw.Draw(self.canvas)

    def _place(self, curve_P2: Array) -> list[float]:
        placed: list[float] = (curve_P2 @ self.matrix + self.origin).ravel().tolist()
        return placed

    def fill(self, curve_P2: Array, tone: float) -> None:
        self.draw.polygon(self._place(curve_P2), fill=int(tone))

    def stroke(self, curve_P2: Array, tone: float, *, weight: float = 1.0) -> None:
        width = max(1, round(self.line * weight))
        self.draw.line(self._place(curve_P2), fill=int(tone), width=width, joint="curve")


def _sketch(label: int, rng: np.random.Generator, *, size: int) -> Array:
    """The clean drawing, float64 [size, size] in 0..255."""
    strength = rng.uniform(0.55, 1.15)
    look = (
        LOOKS[NEUTRAL]
        + strength * (LOOKS[label] - LOOKS[NEUTRAL])
        + SPREAD * rng.standard_normal(SPREAD.size)
    )
    skin = rng.uniform(110, 235)
    background = rng.uniform(5, 250)
    ink = skin * rng.uniform(0.10, 0.40)
    pen = _Pen(rng, size * SUPERSAMPLE, background=background)
    _head(pen, rng, skin=skin, ink=ink)
    eye_x, eye_y = 0.36 + rng.normal(0, 0.02), -0.16 + rng.normal(0, 0.025)
    for side in (-1.0, 1.0):
        _eye(
            pen, look[3:7], middle_2=np.array([side * eye_x, eye_y]), side=side, skin=skin, ink=ink
        )
        _brow(pen, look[0:3], middle_2=np.array([side * eye_x, eye_y - 0.24]), side=side, ink=ink)
    _nose(pen, look[12], lean=rng.normal(0, 0.02), eye_y=eye_y, ink=ink, skin=skin)
    flip = -1.0 if rng.random() < 0.5 else 1.0
    _mouth(pen, look[7:12], y=0.50 + rng.normal(0, 0.025), flip=flip, ink=ink, skin=skin)
    return np.asarray(pen.canvas.reduce(SUPERSAMPLE), np.float64)


def _head(pen: _Pen, rng: np.random.Generator, *, skin: float, ink: float) -> None:
    width, jaw = rng.uniform(0.72, 0.86), rng.uniform(0.0, 0.16)
    hair = rng.uniform(15, 200)
    ears = rng.uniform(0.08, 0.15)
    hairline = -rng.uniform(0.72, 0.92)
    if rng.random() < 0.25:
        hairline = -1.0
    else:
        pen.fill(CIRCLE_P2 * [width * 1.08, 1.0] - [0.0, 0.10], hair)
    for side in (-1.0, 1.0):
        pen.fill(CIRCLE_P2 * [ears, 0.18] + [side * width, 0.0], skin * 0.9)
    outline_P2 = CIRCLE_P2 * [width, 1.0]
    outline_P2[:, 0] *= 1.0 - jaw * np.clip(outline_P2[:, 1], 0.0, None)
    outline_P2[:, 1] = np.maximum(outline_P2[:, 1], hairline)
    pen.fill(outline_P2, skin)
    pen.stroke(_closed(outline_P2), 0.5 * (skin + ink), weight=0.6)


def _eye(pen: _Pen, eye: Array, *, middle_2: Array, side: float, skin: float, ink: float) -> None:
    opening, lid, squint, iris = eye.tolist()
    opening = max(opening, 0.02)
    inward_P = -side * ACROSS_P  # +1 at the inner corner
    upper_P = -opening * BULGE_P + lid * (inward_P > -0.9) * (0.5 + 0.5 * inward_P) * np.sqrt(
        BULGE_P
    )
    lower_P = (0.7 * opening - 1.6 * squint) * BULGE_P
    upper_P = np.minimum(upper_P, lower_P - 0.01)
    upper_P2 = np.stack([0.17 * ACROSS_P, upper_P], axis=1) + middle_2
    lower_P2 = np.stack([0.17 * ACROSS_P, lower_P], axis=1) + middle_2
    pen.fill(np.concatenate([upper_P2, lower_P2[::-1]]), min(255.0, skin * 0.35 + 165))
    top, bottom = upper_P[3:8].mean(), lower_P[3:8].mean()
    half = min(iris, 0.5 * (bottom - top) + 0.01)
    pen.fill(CIRCLE_P2 * [iris, half] + middle_2 + [0.0, 0.5 * (top + bottom)], ink * 0.6)
    pen.stroke(upper_P2, ink)
    pen.stroke(lower_P2, 0.6 * ink + 0.4 * skin, weight=0.5)


def _brow(pen: _Pen, brow: Array, *, middle_2: Array, side: float, ink: float) -> None:
    inner, centre, outer = brow.tolist()
    curve_P2 = np.array(
        [
            [-0.19 * side, -inner],
            [-0.07 * side, -0.6 * centre - 0.4 * inner],
            [0.07 * side, -centre],
        ]
    )
    curve_P2 = np.concatenate([curve_P2, [[0.22 * side, -outer + 0.03]]])
    pen.stroke(curve_P2 + middle_2, ink, weight=1.5)


def _nose(pen: _Pen, wrinkle: float, *, lean: float, eye_y: float, ink: float, skin: float) -> None:
    soft = 0.5 * (ink + skin)
    pen.stroke(np.array([[lean, 0.0], [lean - 0.07, 0.20], [lean + 0.06, 0.23]]), soft)
    if wrinkle > 0.5:
        for y in (-0.02, 0.07):
            frown_P2 = np.array([[-0.10, y - 0.03], [0.0, y + 0.03], [0.10, y - 0.03]])
            pen.stroke(frown_P2 + np.array([0.0, eye_y]), ink, weight=0.8)
        for side in (-1.0, 1.0):
            pen.stroke(
                np.array([[0.15 * side, 0.18], [0.30 * side, 0.30], [0.34 * side, 0.45]]),
                ink,
                weight=0.8,
            )


def _mouth(pen: _Pen, mouth: Array, *, y: float, flip: float, ink: float, skin: float) -> None:
    lift, upper, lower, width, pull = mouth.tolist()
    rest_P = y + lift * (0.5 - ACROSS_P**2) - pull * flip * ACROSS_P * np.abs(ACROSS_P)
    upper_P = rest_P - upper * BULGE_P * (1.0 + 2.5 * pull * flip * ACROSS_P)
    lower_P = rest_P + lower * BULGE_P
    x_P = width * ACROSS_P
    upper_P2, lower_P2 = (
        np.stack([x_P, upper_P], axis=1),
        np.stack([x_P, np.maximum(lower_P, upper_P)], axis=1),
    )
    if upper + lower > 0.06:
        pen.fill(np.concatenate([upper_P2, lower_P2[::-1]]), ink * 0.5)
        teeth_P2 = upper_P2 + np.stack([0 * x_P, np.clip(lower_P - upper_P, 0.0, 0.05)], axis=1)
        pen.fill(np.concatenate([upper_P2, teeth_P2[::-1]]), min(255.0, skin * 0.4 + 150))
        pen.stroke(lower_P2, ink)
    pen.stroke(upper_P2, ink)


def _closed(curve_P2: Array) -> Array:
    return np.concatenate([curve_P2, curve_P2[:1]])


def _finish(sketch_HW: Array, rng: np.random.Generator, *, size: int) -> npt.NDArray[np.uint8]:
    """Light from one side, contrast, sensor noise."""
    towards, depth = rng.uniform(0.0, 2 * np.pi), rng.uniform(0.0, 0.35)
    ramp = np.linspace(-1.0, 1.0, size)
    light_HW = 1.0 + depth * (np.cos(towards) * ramp + np.sin(towards) * ramp[:, None])
    noise_HW = rng.uniform(1.0, 11.0) * rng.standard_normal((size, size), dtype=np.float32)
    lit_HW = sketch_HW * light_HW * rng.uniform(0.75, 1.1) + noise_HW
    finished: npt.NDArray[np.uint8] = np.clip(lit_HW + 0.5, 0.0, 255.0).astype(np.uint8)
    return finished
