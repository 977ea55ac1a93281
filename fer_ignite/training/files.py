"""A run's folder: which file holds what, and how files are cut back to a resume point, so that no line stands twice."""

import csv
import io
import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fer_ignite.storage import storage_errors, write_durably, write_json_durably, write_text_durably

__all__ = ["RunFolder"]


class RunFolder:
    """Paths and formats of one run's files; see the README for what each is."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.summary = self.path / "summary.json"
        self.history = self.path / "history.jsonl"
        self.results = self.path / "results.csv"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tb"
        self.plots = self.path / "plots"
        self.log = self.path / "log.txt"
        self.ledger = self.path / "ledger.jsonl"
        self.report = self.path / "report.html"
        self.trackers = self.path / "trackers.json"

    def create(self) -> None:
        """Makes the folder and those within.

        Raises:
            StorageError: it can't be made or written to.
        """
        for folder in (self.path, self.checkpoints, self.plots):
            with storage_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)

    @property
    def holds_a_run(self) -> bool:
        """Whether training has begun here before."""
        return self.config.exists() or any(self.checkpoints.glob("*.pt"))

    def clear(self) -> None:
        """Removes what an earlier run left; files of other origin stay."""
        stale = [self.summary, self.history, self.results, self.log, self.ledger, self.report, self.trackers]
        for folder, pattern in ((self.checkpoints, "*.pt"), (self.plots, "*.png"), (self.tensorboard, "events.*")):
            stale += list(folder.glob(pattern))
        for file in stale:
            with storage_errors(file):
                file.unlink(missing_ok=True)

    def write_config(self, values: Mapping[str, Any]) -> None:
        write_text_durably(self.config, yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True))

    def write_summary(self, values: Mapping[str, Any]) -> None:
        write_json_durably(self.summary, values)

    def read_summary(self) -> dict[str, Any]:
        """The outcome; empty while the run goes on, and where it did not end in order."""
        if not self.summary.exists():
            return {}
        values: dict[str, Any] = json.loads(self.summary.read_text(encoding="utf-8"))
        return values

    def append_history(self, line: Mapping[str, Any]) -> None:
        """One epoch's line; ``results.csv`` is the same as a table."""
        with storage_errors(self.history), self.history.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())  # a resume point that comes after it is durable too
        self.write_results(list(self.read_history()))

    def write_results(self, lines: Sequence[Mapping[str, Any]]) -> None:
        columns = list(dict.fromkeys(name for line in lines for name in line))
        text = io.StringIO()
        table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(lines)
        write_text_durably(self.results, text.getvalue())

    def read_history(self) -> Iterator[dict[str, Any]]:
        """The epochs' lines; a last line that a crash cut short is passed over."""
        if not self.history.exists():
            return
        for text in self.history.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            yield line

    def cut_back(self, iteration: int) -> None:
        """Drops every line and scalar that was written after ``iteration``, before a run goes on from there.

        The summary goes too: it tells of an end that is none any more.
        """
        with storage_errors(self.summary):
            self.summary.unlink(missing_ok=True)
        kept = [line for line in self.read_history() if line["iteration"] <= iteration]
        write_text_durably(self.history, "".join(json.dumps(line) + "\n" for line in kept))
        self.write_results(kept)
        for file in sorted(self.tensorboard.glob("events.*")):
            content = file.read_bytes()
            reached = b"".join(_framed(record) for record in _records(content) if _step(record) <= iteration)
            if reached != content:  # else it may be the file that this run has just opened
                write_durably(file, reached)

    def note_test(self, line: Mapping[str, Any]) -> None:
        """One line in the ledger for one look at the test split."""
        with storage_errors(self.ledger), self.ledger.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def looks_at_test(self) -> int:
        """How often the test split was scored with this run's networks."""
        return len(self.ledger.read_text(encoding="utf-8").splitlines()) if self.ledger.exists() else 0


# TensorBoard's files are TFRecords: length (uint64), its checksum, the record, its checksum.
# Source: tensorflow/core/lib/io/record_writer; checksums as tensorboardX computes them.


def _records(content: bytes) -> Iterator[bytes]:
    place = 0
    while place + 12 <= len(content):
        (size,) = struct.unpack_from("<Q", content, place)
        record = content[place + 12 : place + 12 + size]
        if len(record) < size or place + 16 + size > len(content):
            return  # cut short by a crash
        yield record
        place += 16 + size


def _framed(record: bytes) -> bytes:
    from tensorboardX.crc32c import crc32c

    def masked(data: bytes) -> int:
        checksum = crc32c(data)
        return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF

    size = struct.pack("<Q", len(record))
    return size + struct.pack("<I", masked(size)) + record + struct.pack("<I", masked(record))


def _step(record: bytes) -> int:
    from tensorboardX.proto.event_pb2 import Event

    return int(Event.FromString(record).step)
