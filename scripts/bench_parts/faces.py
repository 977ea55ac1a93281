"""Detectors, the margin and video, measured on FER2013's val faces pasted into photographs: prints tables, writes a JSON."""

# Dimensions: H W pixels, 3 channels (RGB).

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

import numpy as np  # noqa: E402
from scenes import backgrounds, scene, write_video  # noqa: E402

from fer_ignite.apps.faces.analyze import iter_face_rows  # noqa: E402
from fer_ignite.apps.faces.annotated_output import AnnotatedOutput  # noqa: E402
from fer_ignite.apps.faces.detection import Box, open_detector  # noqa: E402
from fer_ignite.apps.faces.face_reader import FaceReader  # noqa: E402
from fer_ignite.apps.faces.opencv import load_opencv  # noqa: E402
from fer_ignite.apps.faces.tracking import overlap  # noqa: E402
from fer_ignite.inference.predictor import open_predictor  # noqa: E402
from fer_ignite.weights import shipped_checkpoint  # noqa: E402

SIDES_PX = (48, 72, 112, 180)
MARGINS = (-0.2, -0.15, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2)


class Val:
    """The val faces and their names, in a seeded order."""

    def __init__(self, data: str) -> None:
        from fer_ignite.data.cache.format import DatasetCache
        from fer_ignite.data.cache.lookup import open_or_build
        from fer_ignite.data.cache.spec import CacheSpec

        self.cache = DatasetCache.open(open_or_build(CacheSpec(data=data, channels="gray")))
        self.order = np.random.default_rng(0).permutation(self.cache.indices("val"))

    def face(self, number: int) -> Any:
        return self.cache.read([self.order[number % len(self.order)]])[0, :, :, 0]

    def name(self, number: int) -> str:
        return self.cache.classes[int(self.cache.labels[self.order[number % len(self.order)]])]


def haar(name: str, step: float, neighbours: int) -> Callable[..., list[list[Box]]]:
    """One of the cascades that OpenCV 4 carries in its package."""
    cv2 = load_opencv()
    cascade = cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_frontalface_{name}.xml")

    def detect(images_HW3: Sequence[Any]) -> list[list[Box]]:
        grays = [cv2.equalizeHist(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)) for image in images_HW3]
        found = [
            cascade.detectMultiScale(
                gray, scaleFactor=step, minNeighbors=neighbours, minSize=(32, 32)
            )
            for gray in grays
        ]
        return [[Box(*map(float, box)) for box in boxes] for boxes in found]

    return detect


def dlib_hog(larger: int) -> Callable[..., list[list[Box]]]:
    """dlib's frontal detector (pip install dlib-bin), on pictures doubled so many times."""
    import dlib

    detector = dlib.get_frontal_face_detector()

    def detect(images_HW3: Sequence[Any]) -> list[list[Box]]:
        return [
            [Box(b.left(), b.top(), b.width(), b.height()) for b in detector(image, larger)]
            for image in images_HW3
        ]

    return detect


def contenders() -> dict[str, Callable[..., list[list[Box]]]]:
    found = {
        "mtcnn": open_detector("mtcnn"),
        "haar alt2 (1.1, 3)": haar("alt2", 1.1, 3),
        "haar alt2 (1.2, 3)": haar("alt2", 1.2, 3),
        "haar alt (1.1, 3)": haar("alt", 1.1, 3),
    }
    try:
        found |= {"dlib": dlib_hog(0), "dlib, picture doubled": dlib_hog(1)}
    except ModuleNotFoundError:
        print("dlib is not installed and left out", file=sys.stderr)
    return found


def detecting(val: Val, wanted: Any) -> dict[str, Any]:
    """Which faces are found, what else is taken for one, and processor time per picture."""
    grounds = backgrounds()
    shots = {
        side: [
            scene(
                grounds[n % len(grounds)],
                [val.face(2 * n), val.face(2 * n + 1)],
                side=side,
                seed=(side, n),
            )
            for n in range(wanted.pictures)
        ]
        for side in SIDES_PX
    }
    found: dict[str, Any] = {}
    for name, detector in contenders().items():
        start, hits, wrong, boxes = time.process_time(), {}, 0, []
        for side, pictures in shots.items():
            seen = [_matches(detector([picture])[0], places, side) for picture, places in pictures]
            hits[side] = sum(len(matched) for matched, _ in seen) / (2 * len(pictures))
            wrong += sum(others for _, others in seen)
            boxes += [values for matched, _ in seen for values in matched]
        frames = wanted.pictures * len(SIDES_PX)
        found[name] = {
            "found": hits,
            "false_alarms_per_picture": wrong / frames,
            "cpu_ms": 1000 * (time.process_time() - start) / frames,
            "middle_x, middle_y, side of the box in face sides": np.round(
                np.median(boxes, axis=0), 3
            ).tolist(),
        }
        shares = " | ".join(f"{hits[side]:.2f}" for side in SIDES_PX)
        print(
            f"| {name} | {shares} | {wrong / frames:.3f} | {found[name]['cpu_ms']:.0f} |",
            flush=True,
        )
    return found


def _matches(
    boxes: Sequence[Box], places: Sequence[tuple[int, int]], side: int
) -> tuple[list[tuple[float, ...]], int]:
    matched = []
    for left, top in places:
        best = max(boxes, key=lambda box: overlap(box, Box(left, top, side, side)), default=None)
        if best is not None and overlap(best, Box(left, top, side, side)) > 0.3:
            middle = (
                (best.left + best.width / 2 - left) / side,
                (best.top + best.height / 2 - top) / side,
            )
            matched.append((*middle, max(best.width, best.height) / side))
    return matched, len(boxes) - len(matched)


def choosing_margin(val: Val, wanted: Any) -> dict[str, Any]:
    """Accuracy on the faces that are found, by margin; the uncut faces' own accuracy beside it."""
    grounds, side = backgrounds(), 112
    predictor, detector = (
        open_predictor(wanted.checkpoint, device="cpu", tta="none"),
        open_detector("mtcnn"),
    )
    pictures, names, whole = [], [], []
    for n in range(wanted.pictures * 4):
        picture, places = scene(
            grounds[n % len(grounds)],
            [val.face(2 * n), val.face(2 * n + 1)],
            side=side,
            seed=(7, n),
        )
        for box in detector([picture])[0]:
            for number, (left, top) in enumerate(places):
                if overlap(box, Box(left, top, side, side)) > 0.3:
                    pictures.append((picture, box))
                    names.append(val.name(2 * n + number))
                    whole.append((picture, Box(left, top, side, side)))
    found = {}
    for what, margin, cut in (
        *(("margin", margin, pictures) for margin in MARGINS),
        ("as pasted", 0.0, whole),
    ):
        reader = FaceReader(predictor, lambda images: [[box] for _, box in cut], margin=margin)  # noqa: B023
        tops = [faces[0].top[0] for faces in reader.read([picture for picture, _ in cut])]
        label = f"{what} {margin:+.2f}" if what == "margin" else what
        found[label] = float(np.mean([top == name for top, name in zip(tops, names, strict=True)]))
        print(f"| {label} | {100 * found[label]:.1f} % of {len(names)} |", flush=True)
    return found


def watching(val: Val, wanted: Any) -> dict[str, Any]:
    """Seconds of video per second, by wall clock and by processor time, with and without the annotated video."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="fer-ignite-faces-") as folder:
        path = Path(folder) / "two.mp4"
        reader = FaceReader(open_predictor(wanted.checkpoint, device="cpu"), open_detector("mtcnn"))
        easy = _found_alone(val, reader, 6)
        write_video(path, backgrounds()[1], [easy[:3], easy[3:]], seconds=wanted.seconds)
        for name, frame_stride, annotated_output in (
            ("every frame", 1, None),
            ("every 3rd frame", 3, None),
            ("every 3rd, saved", 3, AnnotatedOutput(folder)),
        ):
            start, cpu = time.perf_counter(), _cpu_s()
            rows = list(
                iter_face_rows(
                    [str(path)],
                    reader,
                    frame_stride=frame_stride,
                    annotated_output=annotated_output,
                )
            )
            wall_s, cpu_s = time.perf_counter() - start, _cpu_s() - cpu
            found[name] = {
                "wall_s": wall_s,
                "cpu_s": cpu_s,
                "rows": len(rows),
                "tracks": len({row.track for row in rows}),
            }
            speed = f"{wanted.seconds / wall_s:.2f} x by the clock, {wall_s:.1f} s; {cpu_s:.1f} s of processor time"
            print(
                f"| {wanted.seconds:g} s of video, {name} | {speed}; {len(rows)} rows, {found[name]['tracks']} tracks |",
                flush=True,
            )
    return found


def _found_alone(val: Val, reader: FaceReader, count: int) -> list[Any]:
    """The first faces that the detector finds when nothing else is there."""
    found: list[Any] = []
    number = 0
    while len(found) < count:
        face = val.face(number)
        if reader.detector(
            [scene(backgrounds(names=["rocket"])[0], [face], side=150, seed=[number])[0]]
        )[0]:
            found.append(face)
        number += 1
    return found


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


PARTS = {"detectors": detecting, "margin": choosing_margin, "video": watching}


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench_faces", description=__doc__)
    parser.add_argument(
        "--data", default=os.environ.get("FER2013_CSV"), help="fer2013.csv (FER2013_CSV)"
    )
    parser.add_argument(
        "--checkpoint", default=str(shipped_checkpoint()), help="the network (the shipped one)"
    )
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument(
        "--pictures",
        type=int,
        default=100,
        help="of each size, with two faces each; the margin takes 4 times that",
    )
    parser.add_argument("--seconds", type=float, default=60, help="length of the video")
    parser.add_argument(
        "--json", type=Path, default=Path("bench_faces.json"), help="where to write what was found"
    )
    wanted = parser.parse_args()
    if not wanted.data:
        parser.error("--data: drawn faces are no faces to a detector; name fer2013.csv")
    val, found = Val(wanted.data), {}
    for name in wanted.parts.split(","):
        print(f"\n{name}", file=sys.stderr, flush=True)
        found[name] = PARTS[name](val, wanted)
    wanted.json.write_text(
        json.dumps(
            {"settings": {**vars(wanted), "json": str(wanted.json)}, "found": found}, indent=1
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
