"""Csv sources: fer2013.csv and icml_face_data.csv (pixels in rows) and manifests (paths in rows).

Row numbers in errors are a spreadsheet's: the header is row 1.
"""

# Dimensions: N images, H W pixels, C channels (1), K classes.

import csv
import gzip
import hashlib
import os
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fer_ignite.data.expressions import FER2013_CODES, SYNONYMS
from fer_ignite.data.images import printable
from fer_ignite.data.readers.ferplus import FerPlusVotes, apply_votes, read_votes
from fer_ignite.data.samples import (
    SPLIT_OF_NAME,
    UNDECIDED,
    ReadOnceSource,
    Samples,
    drop_same_files,
    file_facts,
)
from fer_ignite.errors import DataError

__all__ = ["FerCsvSource", "ManifestSource", "file_stamp", "iter_rows", "read_columns"]

SIDE_PX = 48
_FIELD_LIMIT = 1 << 17  # characters; 2304 pixels need 9216
# A dictionary is both the fastest reader and the strictest: only the 256 plain spellings are in it.
_PIXEL = {str(value): value for value in range(256)}
_EMOTION = {str(code): code for code in range(len(FER2013_CODES))}
_EMOTION |= {word: code for code, name in enumerate(FER2013_CODES) for word in SYNONYMS[name]}
_GZIP = b"\x1f\x8b"


class FerCsvSource:
    """fer2013.csv (emotion, pixels, Usage) or icml_face_data.csv (the same, other order), with FER+ votes if given."""

    kind = "fer2013 csv"

    def __init__(
        self, path: Path, *, votes: Path | None = None, vote_mode: str = "majority"
    ) -> None:
        self.where = str(path)
        self._path, self._votes, self._vote_mode = path, votes, vote_mode

    def stamp(self) -> bytes:
        return file_stamp(self._path) + (b"" if self._votes is None else file_stamp(self._votes))

    def samples(self) -> Samples:
        # The votes are read first: they are small, and what is wrong with them is known before the long part.
        votes = None if self._votes is None else read_votes(self._votes, iter_rows(self._votes))
        samples = _read_faces(self._path)
        return samples if votes is None else self._with_votes(samples, votes)

    def _with_votes(self, samples: Samples, votes: FerPlusVotes) -> Samples:
        return apply_votes(samples, votes, mode=self._vote_mode)


class ManifestSource(ReadOnceSource):
    """A csv with the columns path and label, and maybe split and group.

    Paths count from the csv's own folder and may lead anywhere: the list is the user's word on which files are meant.
    """

    kind = "csv manifest"

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self._path = path

    def _read(self) -> tuple[Samples, bytes]:
        return _read_manifest(self._path)


def read_columns(path: Path) -> dict[str, int]:
    """The column names of a csv, in lower case and without blanks, with their positions."""
    for _, row in iter_rows(path, columns=()):
        return {name.strip().lower(): position for position, name in enumerate(row)}
    raise DataError(f"{printable(path)}: empty; its first row must name the columns.")


def iter_rows(
    path: Path,
    *,
    columns: Collection[str] | None = None,
    broken: Callable[[int, str], None] | None = None,
) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of each row that isn't blank, the header first; bytes that aren't UTF-8 stay themselves.

    Fields are separated by commas, or by semicolons or tabs where the header has those and no comma.

    Args:
        path: text, or text compressed by gzip.
        columns: names, in lower case, of the columns that are read, in which a line break is an error; None: all.
        broken: called with the number and the reason of a row that is no csv; None: such a row is an error.
    Raises:
        DataError: a row of several lines is no csv, has another number of fields than the header, or a line break in one of
            ``columns``: behind a quote that isn't closed the next lines would be lost with it.
    """
    number, before = 0, 0
    header: list[str] = []
    with _field_limit(), _opened(path) as (file, delimiter):
        # strict: otherwise a quote that is never closed takes all rows to the end of the file for
        # one field.
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                if rows.line_num > before + 1:
                    raise _not_closed(
                        path, number + 1, str(error), before + 1, rows.line_num
                    ) from None
                if broken is None:
                    raise DataError(
                        f"{printable(path)}, row {number + 1}: broken csv ({error})."
                    ) from None
                number, before = number + 1, rows.line_num
                broken(number, f"broken csv ({error})")
                continue
            except (OSError, EOFError, zlib.error) as error:
                raise DataError(
                    f"{printable(path)}, after row {number}: can't be read ({error})."
                ) from None
            number += 1
            header = header or row
            # Read once per row: fer2013.csv has 35,887 of them.
            line = rows.line_num
            if line > before + 1 and (fault := _lines_fault(row, header, columns)):
                raise _not_closed(path, number, fault, before + 1, line)
            before = line
            if row:
                yield number, row


def _lines_fault(row: list[str], header: list[str], columns: Collection[str] | None) -> str | None:
    """Why a row of several lines can't be meant; None where it can: a line break in a column of notes."""
    if len(row) != len(header):
        return f"{len(row)} fields; the header has {len(header)}"
    for name, text in zip(header, row, strict=True):
        used = columns is None or name.strip().lower() in columns
        if used and ("\n" in text or "\r" in text):
            return f"a line break in column {printable(name.strip())[:40]}"
    return None


def _not_closed(path: Path, number: int, reason: str, first: int, last: int) -> DataError:
    return DataError(
        f"{printable(path)}, row {number}: broken csv ({reason}); a quote in line {first} is not closed, or closed "
        f"as late as line {last}: mend line {first}."
    )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Iterator[str], str]]:
    """The text, and what separates its fields."""
    try:
        if not path.is_file():
            raise DataError(f"{printable(path)}: there is no such file.")
        with path.open("rb") as raw:
            head = raw.read(4096)
        compressed = head.startswith(_GZIP)
        text = _unzipped_head(path) if compressed else head
        _refuse_no_text(path, text)
        # utf-8-sig drops the byte order mark that spreadsheets write; surrogateescape keeps file
        # names of any bytes.
        opening: Callable[..., Any] = gzip.open if compressed else open
        file = opening(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")
    except (OSError, ValueError) as error:
        raise DataError(f"{printable(path)}: can't be opened ({error}).") from None
    with file:
        yield file, _delimiter(text)


def _delimiter(head: bytes) -> str:
    """A comma; a semicolon or a tab where the header has no comma: spreadsheets write those in some languages."""
    header = head.split(b"\n")[0]
    if b"," in header:
        return ","
    return ";" if b";" in header else "\t" if b"\t" in header else ","


def _unzipped_head(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read(4096)
    except (OSError, EOFError, zlib.error):
        return b""  # cut short or damaged: reading the rows says where


def _refuse_no_text(path: Path, head: bytes) -> None:
    """Refuses an archive or another file that is no csv by its first 4096 bytes, after decompression."""
    # An old tar archive has no mark, but zero bytes behind its first name.
    kind = "tar" if head[257:262] == b"ustar" else "zip" if head.startswith(b"PK\3\4") else None
    if kind is not None:
        raise DataError(
            f"{printable(path)}: a {kind} archive; unpack it, and name the folder or the csv that it holds."
        )
    if b"\0" in head:
        raise DataError(f"{printable(path)}: no text; a csv, or a csv compressed by gzip, is read.")


@contextmanager
def _field_limit() -> Iterator[None]:
    # The limit is global to the csv module, so it is put back.
    before = csv.field_size_limit(_FIELD_LIMIT)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def file_stamp(path: Path) -> bytes:
    """Real path, inode, size and times of a file, as one value that changes when it may have changed.

    The change time can't be set by programs, so a file of equal size whose modification time was put back is noticed.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise DataError(f"{printable(path)}: can't be looked at ({error}).") from None
    facts = (
        os.fsencode(os.path.realpath(path)),
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
    return hashlib.sha256(repr(facts).encode()).digest()


def _read_faces(path: Path) -> Samples:
    name = printable(path)
    refused: list[tuple[bytes, str]] = []
    rows = iter_rows(
        path,
        columns=("emotion", "pixels", "usage"),
        broken=lambda number, reason: refused.append((b"row %d" % number, reason)),
    )
    places = _places(name, next(rows, (1, []))[1], needed=("emotion", "pixels"))
    emotion_at, pixels_at, usage_at = places["emotion"], places["pixels"], places.get("usage")
    width = max(places.values()) + 1
    # bytearrays: FER2013's 82.7 million pixels in a list would take a pointer of 8 bytes each.
    pixels, labels, splits, numbers = bytearray(), bytearray(), bytearray(), []
    for number, row in rows:
        try:
            if len(row) != width:
                raise DataError(f"{name}, row {number}: {len(row)} fields; the header has {width}.")
            label = _one_of(
                _EMOTION,
                row[emotion_at],
                name=name,
                number=number,
                column="emotion",
                allowed="0 to 6 or the expressions' names",
            )
            usage = UNDECIDED if usage_at is None else _usage(row[usage_at], name, number=number)
            values = _pixels(row[pixels_at], name, number=number)
        except DataError as error:
            refused.append(_refusal(number, error))
            continue
        labels.append(label)
        splits.append(usage)
        pixels += values
        numbers.append(number)
    if not numbers and not refused:
        raise DataError(f"{name}: no rows below the header.")
    return Samples(
        classes=FER2013_CODES,
        ids=[b"row %d" % number for number in numbers],
        labels_N=np.frombuffer(labels, dtype=np.uint8).astype(np.int64),
        splits_N=np.frombuffer(splits, dtype=np.uint8),
        pixels_NHWC=np.frombuffer(pixels, dtype=np.uint8).reshape(-1, SIDE_PX, SIDE_PX, 1),
        refused=tuple(refused),
    )


def _refusal(number: int, error: DataError) -> tuple[bytes, str]:
    """A row's number and the reason without the file's name, as :class:`Samples` lists what is refused."""
    return b"row %d" % number, str(error).partition(f"row {number}: ")[2].removesuffix(".")


def _refused_rows(refused: list[tuple[bytes, str]]) -> str:
    """How many rows can't be used, with the reasons of the first three; empty where all can."""
    if not refused:
        return ""
    reasons = "; ".join(f"{printable(row)}: {reason}" for row, reason in refused[:3])
    return f" of the rows that can be used ({len(refused)} can't be: {reasons})"


def _places(name: str, header: list[str], *, needed: tuple[str, ...]) -> dict[str, int]:
    places = {column.strip().lower(): position for position, column in enumerate(header)}
    missing = [column for column in needed if column not in places]
    if missing:
        raise DataError(
            f"{name}, row 1: no column {', '.join(missing)}; it has {', '.join(map(printable, places))}."
        )
    return places


def _pixels(text: str, name: str, *, number: int) -> bytes:
    try:
        values = bytes(map(_PIXEL.__getitem__, text.split()))
    except KeyError as error:
        came = printable(str(error.args[0])[:20])
        raise DataError(
            f"{name}, row {number}: {came!r} among the pixels; each is a whole number 0 to 255."
        ) from None
    if len(values) != SIDE_PX * SIDE_PX:
        raise DataError(
            f"{name}, row {number}: {len(values)} pixels; a face has {SIDE_PX * SIDE_PX}."
        )
    return values


def _one_of(
    table: dict[str, int], text: str, *, name: str, number: int, column: str, allowed: str
) -> int:
    value = table.get(text.strip().lower())
    if value is None:
        raise DataError(
            f"{name}, row {number}: {column} is {printable(text[:40])!r}; allowed are {allowed}."
        )
    return value


def _usage(text: str, name: str, *, number: int) -> int:
    return _one_of(
        SPLIT_OF_NAME,
        text,
        name=name,
        number=number,
        column="the split",
        allowed="train, val and test in their usual names",
    )


def _listed_path(text: str, folder: Path) -> str:
    """A path as it is listed, or as it was meant: blanks around it are dropped, a list from Windows has backslashes.

    Both may belong to a name here, so a file of exactly that name wins.
    """
    if ("\\" in text or text != text.strip()) and not os.path.lexists(folder / text):
        return text.strip().replace("\\", "/")
    return text


def _read_manifest(path: Path) -> tuple[Samples, bytes]:
    name = printable(path)
    refused: list[tuple[bytes, str]] = []
    rows = iter_rows(
        path,
        columns=("label", "split", "group"),  # a path may hold a line break: see below
        broken=lambda number, reason: refused.append((b"row %d" % number, reason)),
    )
    header = next(rows, (1, []))[1]
    places = _places(name, header, needed=("path", "label"))
    has_split, has_group = "split" in places, "group" in places
    ids, labels, splits, groups = [], [], [], []
    number_of: dict[str, int] = {}
    for number, row in rows:
        try:
            if len(row) != len(header):
                raise DataError(
                    f"{name}, row {number}: {len(row)} fields; the header has {len(header)}."
                )
            # A zero byte is refused by its row: no file can be opened under such a name.
            for column in ("path", "label", *(["group"] if has_group else [])):
                if not row[places[column]].strip() or "\0" in row[places[column]]:
                    raise DataError(
                        f"{name}, row {number}: {column} is empty or holds a zero byte."
                    )
            split = _usage(row[places["split"]], name, number=number) if has_split else UNDECIDED
        except DataError as error:
            refused.append(_refusal(number, error))
            continue
        listed = _listed_path(row[places["path"]], path.parent)
        if ("\n" in listed or "\r" in listed) and not os.path.lexists(path.parent / listed):
            raise DataError(
                f"{name}, row {number}: broken csv (a line break in column path, and no such file); a quote is not closed, or "
                f"closed some lines later: mend row {number}."
            )
        ids.append(os.fsencode(listed))
        labels.append(printable(row[places["label"]].strip()))
        splits.append(split)
        if has_group:
            groups.append(number_of.setdefault(row[places["group"]].strip(), len(number_of)))
    classes, labels_N = np.unique(np.array(labels, dtype=str), return_inverse=True)
    if len(classes) < 2:
        raise DataError(
            f"{name}: {len(classes)} classes in column label{_refused_rows(refused)}; two or more can be distinguished."
        )
    samples = Samples(
        classes=tuple(classes.tolist()),
        ids=ids,
        labels_N=labels_N.astype(np.int64),
        splits_N=np.array(splits, dtype=np.uint8),
        root=path.resolve().parent,
        groups_N=np.array(groups, dtype=np.int64) if has_group else None,
        refused=tuple(refused),
    )
    facts_N5 = file_facts(samples)
    # Without the device's number, which changes when a disk is mounted again.
    stamp = hashlib.sha256(file_stamp(path) + facts_N5[:, 1:].tobytes()).digest()
    return drop_same_files(samples, facts_N5[:, :2]), stamp
