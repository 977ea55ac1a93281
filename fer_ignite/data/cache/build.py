"""Build of a dataset cache in pieces, so that one piece of pixels is in memory at a time."""

# Dimensions: N images, H W pixels, C channels, K classes.

import io
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fer_ignite.data.cache.decode import (
    Decoded,
    Fit,
    Misfit,
    choose_fit,
    decode_all,
    refit,
    seconds_per_file,
    start_pool,
)
from fer_ignite.data.cache.face_files import FaceFile
from fer_ignite.data.cache.format import number_equal_digests
from fer_ignite.data.cache.manifest import ImageFacts, write_facts
from fer_ignite.data.cache.pixel_facts import measure
from fer_ignite.data.cache.slots import PixelSlots
from fer_ignite.data.cache.spec import CacheSpec
from fer_ignite.data.images import printable
from fer_ignite.data.samples import (
    SPLITS,
    Samples,
    Source,
    choose_classes,
    name_numbered_classes,
    with_groups,
)
from fer_ignite.data.splits import assign_val_split, joined_units
from fer_ignite.errors import DataError
from fer_ignite.terminal import progress as progress_bar

__all__ = ["build_cache"]

_NPY_HEADER_BYTES = (
    128  # room for the header of pixels.npy, which is written last: skipped images change its shape
)
_PIXELS = "pixels.npy"
_SHOWN = 20
_PIECE = 1024

logger = logging.getLogger("fer_ignite")


class _Facts:
    """What the pieces said about their images, gathered."""

    def __init__(self) -> None:
        self.pieces: list[Decoded] = []

    def add(self, decoded: Decoded) -> None:
        # The pixels themselves are on disk by now.
        self.pieces.append(
            Decoded(
                decoded.good_B,
                decoded.images_BHWC[:0],
                [],
                decoded.digests_B16,
                decoded.sums_B2C,
                decoded.blank_B,
                decoded.bad,
                decoded.misnamed,
            )
        )

    def all(self, name: str) -> Any:
        return np.concatenate([getattr(piece, name) for piece in self.pieces])

    @property
    def bad(self) -> list[str]:
        return [reason for piece in self.pieces for reason in piece.bad]

    @property
    def misnamed(self) -> list[str]:
        return [path for piece in self.pieces for path in piece.misnamed]


def build_cache(spec: CacheSpec, source: Source, *, folder: Path, progress: bool) -> str:
    """Writes a whole dataset cache into an empty folder.

    Returns:
        The content's key, hexadecimal: equal for equal dataset caches, wherever their source lay.
    Raises:
        DataError: the source, or under `bad_images` "error" any image of it, can't be read.
    """
    # Names before --classes, which may then choose among the published ones.
    samples = name_numbered_classes(source.samples(), spec.numbering)
    samples = choose_classes(with_groups(samples, spec.group_by), spec.classes)
    if not len(samples) and not samples.refused:
        raise DataError(
            f"{printable(source.where)}: no images are left to pack; see --classes and --votes."
        )
    fit, raw, facts = _write_images(spec, samples, folder=folder, progress=progress)
    skipped = [f"{printable(name)}: {reason}." for name, reason in samples.refused] + facts.bad
    # After the last piece: a user learns of all bad files at once.
    _refuse_bad(
        spec, source, bad=skipped, left=int(facts.all("good_B").sum()) if facts.pieces else 0
    )
    # Without a reason, so not counted: what can't be read is listed by name under "skipped".
    samples = samples.take(facts.all("good_B"))
    if misnamed := facts.misnamed:
        logger.warning(
            "%d files hold another image format than their names say (first: %s); they were read by what they hold.",
            len(misnamed),
            printable(misnamed[0]),
        )
    splits_N, splits = _assigned_splits(
        spec, source, samples=samples, digests_N16=facts.all("digests_B16")
    )
    facts_of_images = ImageFacts(
        *(facts.all(name) for name in ("digests_B16", "sums_B2C", "blank_B"))
    )
    described = {
        "source_kind": source.kind,
        # demo:N is no path; neither are several data sets with commas.
        "source": os.path.abspath(source.where) if os.path.exists(source.where) else source.where,
        "storage": "raw" if raw else "encoded",
        "fit": {"side_px": fit.side_px, "mode": fit.mode, "channels": fit.channels},
        "splits": splits,
        # Without the folder: the content key covers these texts, and data that moved keeps its key.
        "skipped": [
            *samples.skipped,
            *(text.replace(str(samples.root) + os.sep, "") for text in skipped),
        ],
    }
    shape = (fit.side_px, fit.side_px, fit.depth)
    return write_facts(
        folder,
        replace(samples, splits_N=splits_N),
        facts=facts_of_images,
        shape=shape,
        described=described,
    )


def _write_images(
    spec: CacheSpec, samples: Samples, *, folder: Path, progress: bool
) -> tuple[Fit, bool, _Facts]:
    facts = _Facts()
    with progress_bar(len(samples), "packing", quiet=not progress) as bar:
        if samples.pixels_NHWC is not None:
            if spec.crop_faces:
                raise DataError(
                    f"--crop-faces: {printable(spec.data)} holds faces that are cut out already; leave the flag out, and "
                    "pack photographs that are joined with it first: fer-ignite pack PHOTOGRAPHS --crop-faces."
                )
            fit = _fit_of_pixels(spec, samples.pixels_NHWC)
            _write_raw(
                folder,
                fit,
                pieces=_pieces_of_pixels(samples.pixels_NHWC, fit, done=bar.update),
                facts=facts,
            )
            return fit, True, facts
        files = _files_of(samples)
        seconds_each = seconds_per_file(files, crop_faces=spec.crop_faces)
        # The processes start while the sample is looked at.
        with start_pool(seconds_each * len(files)) as pool:
            # By a sample first; a file that contradicts it costs a second pass over all of them.
            for every in (False, True):
                fit = choose_fit(
                    files,
                    side_px=spec.side_px,
                    mode=spec.resize_mode,
                    channels=spec.channels,
                    pool=pool,
                    crop_faces=spec.crop_faces,
                    every=every,
                )
                raw = len(files) * fit.side_px**2 * fit.depth <= spec.raw_limit_bytes
                slots = _slots(folder, fit) if raw else None
                pieces = decode_all(
                    files,
                    fit,
                    any_colour=spec.channels != "auto",
                    slots=slots,
                    seconds_each=seconds_each,
                    pool=pool,
                    done=bar.update,
                )
                try:
                    if slots is None:
                        _write_encoded(folder, pieces=pieces, facts=facts)
                    else:
                        _write_slots(slots, fit, pieces=pieces, facts=facts)
                    return fit, raw, facts
                except Misfit:
                    # the sample didn't show it all; with every file looked at this can't come again
                    facts = _Facts()
                    bar.reset()
                    # The second pass may keep files where the first wrote pixels; a pixels.npy left
                    # over would be checksummed as a part of the dataset cache.
                    for file in folder.iterdir():
                        file.unlink()
    raise DataError("the image files changed while they were read; try again.")


def _files_of(samples: Samples) -> list[FaceFile]:
    paths = [samples.path(index) for index in range(len(samples))]
    if samples.boxes_N4 is None:
        return [FaceFile(path) for path in paths]
    return [
        FaceFile(path, (box[0], box[1], box[2], box[3]) if any(box) else None)
        for path, box in zip(paths, samples.boxes_N4.tolist(), strict=True)
    ]


def _fit_of_pixels(spec: CacheSpec, pixels_NHWC: npt.NDArray[np.uint8]) -> Fit:
    own = pixels_NHWC.shape[1]
    channels = (
        {1: "gray", 3: "rgb"}[pixels_NHWC.shape[3]] if spec.channels == "auto" else spec.channels
    )
    side = own if spec.side_px is None else min(own, spec.side_px)
    return Fit(side_px=side, mode=spec.resize_mode, channels=channels, native=side == own)


def _pieces_of_pixels(
    pixels_NHWC: npt.NDArray[np.uint8], fit: Fit, *, done: Callable[[int], Any]
) -> Iterator[Decoded]:
    for at in range(0, len(pixels_NHWC), _PIECE):
        images_BHWC = refit(np.asarray(pixels_NHWC[at : at + _PIECE]), fit)
        done(len(images_BHWC))
        yield Decoded(
            np.ones(len(images_BHWC), dtype=np.bool_), images_BHWC, [], *measure(images_BHWC), []
        )


def _write_raw(folder: Path, fit: Fit, *, pieces: Iterator[Decoded], facts: _Facts) -> None:
    with (folder / _PIXELS).open("wb") as file:
        file.seek(_NPY_HEADER_BYTES)
        count = 0
        for decoded in pieces:
            file.write(np.ascontiguousarray(decoded.images_BHWC).data)
            count += len(decoded.images_BHWC)
            facts.add(decoded)
    _write_header(folder / _PIXELS, fit, count=count)


def _slots(folder: Path, fit: Fit) -> PixelSlots:
    # The processes open the file with "r+b", which makes none.
    (folder / _PIXELS).touch()
    return PixelSlots(str(folder / _PIXELS), _NPY_HEADER_BYTES, fit.side_px**2 * fit.depth)


def _write_slots(slots: PixelSlots, fit: Fit, *, pieces: Iterator[Decoded], facts: _Facts) -> None:
    """Collects the facts while the decoding processes write the pixels, then closes the gaps of images that can't be read."""
    runs, at = [], 0
    for decoded in pieces:
        # A piece writes its good images from its first slot on; the gaps lie at its end.
        runs.append((at, int(decoded.good_B.sum())))
        at += len(decoded.good_B)
        facts.add(decoded)
    slots.close_gaps(runs)
    _write_header(Path(slots.path), fit, count=sum(count for _, count in runs))


def _write_header(file: Path, fit: Fit, *, count: int) -> None:
    # numpy pads a header to multiples of 64 bytes; with four sides of a shape it takes two of
    # them.
    header = io.BytesIO()
    shape = (count, fit.side_px, fit.side_px, fit.depth)
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    assert len(header.getvalue()) == _NPY_HEADER_BYTES
    with file.open("r+b") as handle:
        handle.write(header.getvalue())


def _write_encoded(folder: Path, *, pieces: Iterator[Decoded], facts: _Facts) -> None:
    ends: list[int] = []
    with (folder / "images.bin").open("wb") as file:
        for decoded in pieces:
            for blob in decoded.blobs:
                file.write(blob)
                ends.append(file.tell())
            facts.add(decoded)
    np.save(folder / "image_ends.npy", np.array(ends, dtype=np.int64))


def _refuse_bad(spec: CacheSpec, source: Source, *, bad: list[str], left: int) -> None:
    if bad and (spec.bad_images == "error" or not left):
        shown = "; ".join(text.rstrip(".") for text in bad[:_SHOWN])
        more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        remedy = (
            "repair or remove them, or pass --bad-images skip" if left else "none is left to pack"
        )
        raise DataError(
            f"{printable(source.where)}: {len(bad)} of the images or rows can't be used ({shown}{more}); {remedy}."
        )


def _assigned_splits(
    spec: CacheSpec, source: Source, *, samples: Samples, digests_N16: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.uint8], str]:
    # Equal pixels stay in one split: a train image's copy in val would count as unseen.
    copies_N = number_equal_digests(digests_N16)
    splits_N, text = assign_val_split(
        samples.labels_N,
        samples.splits_N,
        units_N=copies_N if samples.groups_N is None else joined_units(copies_N, samples.groups_N),
        split=spec.split,
        val_fraction=spec.val_fraction,
        seed=spec.split_seed,
        grouped=samples.groups_N is not None,
    )
    # Only where splits were dealt: splits of the source's own are taken as they are.
    if (splits_N != samples.splits_N).any():
        _warn_of_ungrouped(source, samples)
    return splits_N, text


def _warn_of_ungrouped(source: Source, samples: Samples) -> None:
    """A warning of images that may show a person of another split; those of the source's own test split are not dealt."""
    test = SPLITS.index("test")
    dealt = [
        name
        for name, split in zip(samples.ids, samples.splits_N.tolist(), strict=True)
        if split != test
    ]
    alone = [name for name in dealt if name in samples.ungrouped]
    if alone:
        logger.warning(
            "%s: the names of %d of %d images carry no person as the others do (first: %s); each of them is a group of its own. "
            "--group-by names the groups.",
            printable(source.where),
            len(alone),
            len(dealt),
            printable(alone[0]),
        )
