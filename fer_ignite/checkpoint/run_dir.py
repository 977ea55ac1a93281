"""Files of a run's folder, and their truncation to a resume point."""

import csv
import io
import json
import os
import re
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fer_ignite.checkpoint.atomic_io import (
    shown,
    storage_errors,
    write_durably,
    write_json_durably,
    write_text_durably,
)

__all__ = [
    "RUN_ID_NAME",
    "TEST_ACCESS_NAME",
    "WORKING_COPY_NAME",
    "RunDir",
    "is_run_file",
    "json_lines",
]

# Of a run whose folder is in an object store: its identity there, and where this working copy belongs to.
RUN_ID_NAME, WORKING_COPY_NAME = "run_id.json", "working_copy.json"
TEST_ACCESS_NAME = "test_access.jsonl"
# Nothing else is removed from a store: notes that a user keeps beside a run stay.
_RUN_FILE = re.compile(
    r"(config\.yaml|config\.schema\.json|summary\.json|history\.jsonl|results\.csv|log\.txt|test_access\.jsonl|report\.html"
    r"|trackers\.json|run_id\.json|predictions_\w+\.csv|checkpoints/[^/]+\.pt|plots/[^/]+\.png|tensorboard/events\.[^/]+)"
)


def is_run_file(name: str) -> bool:
    """Whether a name in a run's folder is of a file that runs write, as opposed to one of another origin."""
    return _RUN_FILE.fullmatch(name) is not None


class RunDir:
    """Paths and formats of one run's files; see the README for what each is."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.schema = self.path / "config.schema.json"
        self.summary = self.path / "summary.json"
        self.history = self.path / "history.jsonl"
        self.results = self.path / "results.csv"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.plots = self.path / "plots"
        self.log = self.path / "log.txt"
        self.test_access = self.path / TEST_ACCESS_NAME
        self.report = self.path / "report.html"
        self.trackers = self.path / "trackers.json"
        self.run_id = self.path / RUN_ID_NAME
        self.working_copy = self.path / WORKING_COPY_NAME
        self.warnings: list[str] = []
        self._history: list[dict[str, Any]] | None = None

    def create(self) -> None:
        """Makes the folder and those within; what is no file or no folder in the place of one is set aside.

        Raises:
            StorageError: it can't be made or written to.
        """
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self._set_misplaced_aside()
        for folder in (self.checkpoints, self.plots):
            with storage_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)

    def _set_misplaced_aside(self) -> None:
        files = [
            self.config,
            self.schema,
            self.summary,
            self.history,
            self.results,
            self.log,
            self.test_access,
            self.trackers,
        ]
        for folder, pattern in (
            (self.checkpoints, "*.pt"),
            (self.plots, "*.png"),
            (self.tensorboard, "events.*"),
        ):
            files += folder.glob(pattern) if folder.is_dir() else ()
        for file in files:
            if file.exists() and not file.is_file():
                self.set_aside(file, "is no file")
        for folder in (self.plots, self.tensorboard):
            if folder.exists() and not folder.is_dir():
                self.set_aside(folder, "is no folder")

    def set_aside(self, path: Path, reason: str) -> None:
        """Moves a damaged file to ``damaged/`` in the run's folder, and notes a sentence in ``warnings`` that names it.

        Raises:
            StorageError: it can't be moved.
        """
        # TensorBoard reads every file with "tfevents" in its name, in folders within folders too.
        folder, name = self.path / "damaged", path.name.replace("tfevents", "events")
        with storage_errors(path):
            folder.mkdir(exist_ok=True)
            number = 1
            while os.path.lexists(folder / f"{number}-{name}"):
                number += 1
            path.rename(folder / f"{number}-{name}")
        self.warnings.append(
            f"{shown(path)} {reason}; it was moved to {shown(folder / f'{number}-{name}')}."
        )

    def take_warnings(self) -> list[str]:
        """The sentences noted since the last call."""
        taken, self.warnings = self.warnings, []
        return taken

    @property
    def holds_a_run(self) -> bool:
        """Whether training has begun here before."""
        return self.config.exists() or any(self.checkpoints.glob("*.pt"))

    def predictions(self, split: str) -> Path:
        """File of the probabilities of a split's faces (``--predictions``)."""
        return self.path / f"predictions_{split}.csv"

    def clear(self) -> None:
        """Removes what an earlier run left; files of other origin stay."""
        stale = [
            self.summary,
            self.history,
            self.results,
            self.log,
            self.test_access,
            self.report,
            self.trackers,
            self.run_id,
            self.predictions("val"),
            self.predictions("test"),
        ]
        for folder, pattern in (
            (self.checkpoints, "*.pt"),
            (self.plots, "*.png"),
            (self.tensorboard, "events.*"),
        ):
            stale += list(folder.glob(pattern))
        for file in stale:
            with storage_errors(file):
                file.unlink(missing_ok=True)

    def write_config(self, values: Mapping[str, Any], *, schema: Mapping[str, Any]) -> None:
        """config.yaml, and the settings' JSON schema beside it, by which editors complete and check it."""
        text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
        # The schema first: config.yaml is what makes the folder count as a run.
        write_json_durably(self.schema, schema)
        write_text_durably(
            self.config, f"# yaml-language-server: $schema={self.schema.name}\n{text}"
        )

    def write_summary(self, values: Mapping[str, Any]) -> None:
        write_json_durably(self.summary, values)

    def read_summary(self) -> dict[str, Any]:
        """The outcome; empty while the run continues, and where there is none that can be read."""
        values = _json_of(self._bytes_of(self.summary))
        return values if isinstance(values, dict) else {}

    def append_history(self, line: Mapping[str, Any]) -> None:
        """One epoch's line; ``results.csv`` is the same as a table."""
        lines = [*self._lines(), dict(line)]
        with storage_errors(self.history), self.history.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())  # a resume point that comes after it is durable too
        self._history = lines
        # Rewritten whole, because a later epoch may bring new columns.
        self.write_results(lines)

    def write_results(self, lines: Sequence[Mapping[str, Any]]) -> None:
        columns = list(dict.fromkeys(name for line in lines for name in line))
        text = io.StringIO()
        table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(lines)
        write_text_durably(self.results, text.getvalue())

    def read_history(self) -> Iterator[dict[str, Any]]:
        """The epochs' lines; what is no epoch's line, such as a last one that a crash cut short, is passed over."""
        for line in json_lines(self._bytes_of(self.history)):
            if all(isinstance(line.get(name), int) for name in ("epoch", "iteration")):
                yield line

    def history_text(self) -> str:
        """The epochs' lines as JSON, for a checkpoint: the file is rebuilt from them where it was damaged."""
        return "".join(json.dumps(line) + "\n" for line in self._lines())

    def _lines(self) -> list[dict[str, Any]]:
        if self._history is None:
            self._history = list(self.read_history())
        return self._history

    def truncate_after(self, iteration: int, history: str | None = None) -> None:
        """Drops every line and scalar that was written after ``iteration``, before a run continues from there.

        The summary goes too: it tells of an end that is none any more. Damaged files are rebuilt, or set aside with a warning.

        Args:
            history: :meth:`history_text` of the resume point; None where it has none, then the file's lines are kept.
        """
        if self.summary.exists() and not self.read_summary():
            self.set_aside(self.summary, "is damaged; it is written again when the run ends")
        with storage_errors(self.summary):
            self.summary.unlink(missing_ok=True)
        kept = [line for line in self.read_history() if line["iteration"] <= iteration]
        if history is not None:
            known = [
                line for line in json_lines(history.encode()) if line["iteration"] <= iteration
            ]
            # NaN is not equal to itself
            if known != kept and json.dumps(known) != json.dumps(kept):
                if self.history.exists():
                    self.set_aside(
                        self.history,
                        "lacks lines that the resume point holds; it was written again",
                    )
                kept = known
        self._history = kept
        write_text_durably(self.history, "".join(json.dumps(line) + "\n" for line in kept))
        self.write_results(kept)
        for file in sorted(self.tensorboard.glob("events.*")):
            if iteration == 0:  # the run describes itself there at its start, and will again
                file.unlink()
            else:
                self._cut_events_back(file, iteration)

    def _cut_events_back(self, file: Path, iteration: int) -> None:
        content = self._bytes_of(file)
        frames, whole = _frames(content)
        reached = b"".join(
            frame for frame in frames if (step := _step(frame)) is not None and step <= iteration
        )
        if not whole or any(_step(frame) is None for frame in frames):
            self.set_aside(file, "is damaged; what can be read of it was kept")
        if reached != content:  # else it may be the file that this run has just opened
            write_durably(file, reached)

    @staticmethod
    def _bytes_of(path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError:  # missing, a folder, a bad sector
            return b""

    def log_test_access(self, line: Mapping[str, Any]) -> None:
        """One line in the test-access log for one look at the test split."""
        content = self._bytes_of(self.test_access)
        with storage_errors(self.test_access), self.test_access.open("a", encoding="utf-8") as file:
            # after a line that a crash cut short
            file.write("\n" if content and not content.endswith(b"\n") else "")
            file.write(json.dumps(line) + "\n")

    def merge_test_accesses(self, other: bytes) -> None:
        """Appends the lines of another copy of the test-access log that this one lacks.

        Args:
            other: the copy's content; of a line that it has several times, as many are kept.
        """
        content = self._bytes_of(self.test_access)
        # Counters, not sets: two equal lines are two test evaluations.
        missing = Counter(_lines_of(other)) - Counter(_lines_of(content))
        if not missing:
            return
        start = b"\n" if content and not content.endswith(b"\n") else b""
        with storage_errors(self.test_access), self.test_access.open("ab") as file:
            file.write(start + b"".join(line + b"\n" for line in missing.elements()))

    def test_accesses_are_in(self, other: bytes) -> bool:
        """Whether another copy of the test-access log lacks none of this one's lines."""
        content = self._bytes_of(self.test_access)
        return not Counter(_lines_of(content)) - Counter(_lines_of(other))

    def read_test_accesses(self) -> list[dict[str, Any]]:
        """Every look at the test split; what is no line of it is passed over."""
        return list(json_lines(self._bytes_of(self.test_access)))

    def test_evaluations(self) -> int:
        """How often the test split was scored with this run's networks; a damaged line was a look too."""
        return len(_lines_of(self._bytes_of(self.test_access)))


def _lines_of(content: bytes) -> list[bytes]:
    return [line for line in content.splitlines() if line.strip()]


def json_lines(content: bytes) -> Iterator[dict[str, Any]]:
    """The lines that are JSON objects; all others are passed over."""
    for text in content.split(b"\n"):
        line = _json_of(text)
        if isinstance(line, dict):
            yield line


def _json_of(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


# TensorBoard's files are TFRecords: length (uint64), its checksum, the record, its checksum.
# Source: tensorflow/core/lib/io/record_writer; checksums as tensorboardX computes them.


def _frames(content: bytes) -> tuple[list[bytes], bool]:
    """The records whose checksums are right, with these; and whether nothing but a last, cut one was left out."""
    frames: list[bytes] = []
    place, whole = 0, True
    while place + 12 <= len(content):
        (size,) = struct.unpack_from("<Q", content, place)
        if content[place + 8 : place + 12] != _checksum(content[place : place + 8]):
            # A record whose length is damaged doesn't say where the next one begins.
            return frames, False
        frame = content[place : place + 16 + size]
        if len(frame) < 16 + size:
            break  # cut short by a crash
        if frame[-4:] == _checksum(frame[12:-4]):
            frames.append(frame)
        else:
            whole = False
        place += 16 + size
    return frames, whole


def _records(content: bytes) -> Iterator[bytes]:
    return (frame[12:-4] for frame in _frames(content)[0])


def _checksum(data: bytes) -> bytes:
    from tensorboardX.crc32c import crc32c

    checksum = crc32c(data)
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _step(frame: bytes) -> int | None:
    """The record's step; None where it is no event."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboardX.proto.event_pb2 import Event

    try:
        return int(Event.FromString(frame[12:-4]).step)
    except DecodeError:
        return None
