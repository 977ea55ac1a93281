"""Photographs and videos composed of single faces and of the pictures without people that ship with scikit-image."""

# Dimensions: H W pixels, 3 channels (RGB), S side of a face.

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["WITHOUT_PEOPLE", "backgrounds", "paste_face", "scene", "write_video"]

WITHOUT_PEOPLE = (
    "coffee",
    "rocket",
    "chelsea",
    "brick",
    "grass",
    "gravel",
    "page",
    "coins",
    "moon",
    "hubble_deep_field",
)
_FADE = 0.25  # of the face's side
Picture = NDArray[np.uint8]


def backgrounds(
    width: int = 640, height: int = 480, names: Sequence[str] = WITHOUT_PEOPLE
) -> list[Picture]:
    """Photographs without a human face (one shows a cat's), scaled and cut to one size; uint8 [H, W, 3]."""
    import skimage.data

    found = []
    for name in names:
        image = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
        scale = max(width / image.width, height / image.height)
        image = image.resize(
            (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
        )
        found.append(np.asarray(image.crop((0, 0, width, height))))
    return found


def paste_face(picture_HW3: Picture, face_SS: Picture, *, left: int, top: int, side: int) -> None:
    """Lays a gray face into a picture, in place: whole, with its outermost pixels continuing around it and fading."""
    height, width = picture_HW3.shape[:2]
    face_SS = np.asarray(Image.fromarray(face_SS).resize((side, side), Image.Resampling.BICUBIC))
    fade = round(_FADE * side)
    ramp = np.minimum(1, (np.arange(side + 2 * fade) + 1) / (fade + 1))
    ramp = np.minimum(ramp, ramp[::-1])
    # What lies outside the picture is cut off on all four sides.
    rows = slice(max(0, fade - top), side + 2 * fade - max(0, top + side + fade - height))
    columns = slice(max(0, fade - left), side + 2 * fade - max(0, left + side + fade - width))
    cover_HW1 = np.minimum.outer(ramp, ramp)[rows, columns, None]
    around_HW1 = np.pad(face_SS, fade, mode="edge")[rows, columns, None]
    place = picture_HW3[
        max(0, top - fade) : top + side + fade, max(0, left - fade) : left + side + fade
    ]
    place[...] = place * (1 - cover_HW1) + around_HW1 * cover_HW1


def scene(
    background_HW3: Picture, faces: Sequence[Picture], *, side: int, seed: Sequence[int]
) -> tuple[Picture, list[tuple[int, int]]]:
    """A picture with faces beside each other, each somewhere in its own column; with the (left, top) of each."""
    picture_HW3 = background_HW3.copy()
    height, width = picture_HW3.shape[:2]
    random, column = np.random.default_rng(seed), width // len(faces)
    places = []
    for number, face_SS in enumerate(faces):
        left = number * column + int(random.integers(0, column - side + 1))
        top = int(random.integers(0, height - side + 1))
        paste_face(picture_HW3, face_SS, left=left, top=top, side=side)
        places.append((left, top))
    return picture_HW3, places


def write_video(
    path: Path,
    background_HW3: Picture,
    faces: Sequence[Sequence[Picture]],
    *,
    seconds: float,
    fps: float = 25,
    side: int = 150,
    code: str = "mp4v",
) -> None:
    """A video in which each column's face drifts about; each column shows its faces one after the other, in equal parts."""
    from fer_ignite.apps.faces.opencv import load_opencv

    cv2: Any = load_opencv()
    height, width = background_HW3.shape[:2]
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*code), fps, (width, height)
    )
    frames, column = round(seconds * fps), width // len(faces)
    for number in range(frames):
        picture_HW3 = background_HW3.copy()
        turn = 2 * np.pi * number / (fps * 10)
        for place, shown in enumerate(faces):
            left = round(place * column + (column - side) * (0.5 + 0.4 * np.sin(turn + place)))
            top = round((height - side) * (0.5 + 0.4 * np.cos(turn + 2 * place)))
            paste_face(
                picture_HW3, shown[number * len(shown) // frames], left=left, top=top, side=side
            )
        writer.write(np.ascontiguousarray(picture_HW3[..., ::-1]))
    writer.release()
