"""CK+ (Extended Cohn-Kanade): image sequences with one label file each.

Source: Lucey et al.: The Extended Cohn-Kanade Dataset (CVPRW 2010). A sequence begins neutral and ends at the peak of the
expression; `S005/001/S005_001_00000011_emotion.txt` holds its code as `3.0000000e+00`.
"""

import os
from pathlib import Path

from fer_ignite.data.expressions import NUMBERED_CLASSES
from fer_ignite.data.readers.listing import ListedFace, Listing, Survey, is_image_name

__all__ = ["find_ckplus", "read_ckplus"]

_LABEL_FOLDERS = ("emotion", "emotion_labels")
_CODES = NUMBERED_CLASSES["ckplus"]


def find_ckplus(survey: Survey) -> tuple[Path, Path] | None:
    """The folders of images and of labels."""
    images = survey.folder(lambda name: name.lower() == "cohn-kanade-images")
    if images is None:
        return None
    labels = survey.folder(lambda name: name.lower() in _LABEL_FOLDERS)
    return None if labels is None else (images, labels)


def read_ckplus(
    survey: Survey, *, images: Path, labels: Path, peak_frames: int, neutral_frames: bool
) -> Listing:
    """The last frames of every labelled sequence; the person is the group.

    Args:
        peak_frames: how many of the last frames.
        neutral_frames: also take each labelled sequence's first frame, as neutral.
    """
    root = survey.root
    listing = Listing(root, tuple(_CODES.values()), follow_links=survey.follow_links)
    codes: dict[str, int] = {}
    for name in listing.walk(labels):
        if not name.endswith("_emotion.txt"):
            continue
        file = labels / name
        listing.tables.append(file)
        # From the file's name: labels and images lie in folders of their own, which need not be
        # nested alike.
        sequence = "/".join(file.name.split("_")[:2])
        code = _code_in(file)
        if code not in _CODES:
            listing.refused.append((str(file.relative_to(root)), "holds no code 0 to 7"))
        else:
            codes[sequence] = code
    frames: dict[str, list[str]] = {}
    for name in listing.walk(images):
        if is_image_name(name):
            frames.setdefault("/".join(os.path.basename(name).split("_")[:2]), []).append(name)
    for sequence, names in frames.items():
        if sequence not in codes:
            # No error: only part of the published sequences have a label.
            listing.left_out["frames of sequences without a label"] += len(names)
            continue
        # Names end in the frame's number with leading zeros, so text order is time order.
        names.sort()
        # In a sequence no longer than the peak, the first frame is one of the peak's.
        first = 1 if neutral_frames and len(names) > peak_frames else 0
        peak = names[-peak_frames:]
        listing.left_out["frames before the peak"] += len(names) - len(peak) - first
        person = sequence.partition("/")[0]
        taken = [(names[0], "neutral")] * first + [(name, _CODES[codes[sequence]]) for name in peak]
        listing.faces += [
            ListedFace(os.path.relpath(images / name, root), label, group=person)
            for name, label in taken
        ]
    return listing


def _code_in(file: Path) -> int:
    try:
        value = float(file.read_text(encoding="ascii").strip())
        return int(value) if value == int(value) else -1
    except (OSError, ValueError, OverflowError):
        return -1
