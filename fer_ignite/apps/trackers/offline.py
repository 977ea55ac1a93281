"""Last step stored in offline records, read from their files."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

__all__ = ["clearml_reached", "wandb_reached"]

_BLOCK_BYTES = 32768


def wandb_reached(folder: Path) -> dict[str, int]:
    """The last step of each name in an offline run's ``run-*.wandb``; W&B writes it some seconds late.

    Source: wandb 0.31; a LevelDB log of ``Record`` messages behind 7 bytes.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from wandb.proto import wandb_internal_pb2

    reached: dict[str, int] = {}
    for file in sorted(folder.glob("run-*.wandb")):
        for data in _leveldb_log(file.read_bytes()):
            try:
                record = wandb_internal_pb2.Record.FromString(data)
            except DecodeError:
                continue  # damaged
            if record.WhichOneof("record_type") == "history":
                row = {
                    item.key or "/".join(item.nested_key): item.value_json
                    for item in record.history.item
                }
                step = int(float(row.get("_step", "-1")))
                reached |= {
                    name: max(step, reached.get(name, -1))
                    for name in row
                    if not name.startswith("_")
                }
    return reached


def _leveldb_log(content: bytes) -> Iterator[bytes]:
    """Whole records; blocks of 32 KiB, in them: checksum (4 bytes), length (2), kind (1: 1 whole, 2 first, 3 middle, 4 last)."""
    place, record = 7, b""
    while place + 7 <= len(content):
        left = _BLOCK_BYTES - place % _BLOCK_BYTES
        # A header is never split: the rest of such a block is padding.
        if left < 7:
            place += left
            continue
        size, kind = struct.unpack_from("<HB", content, place + 4)
        # A kill cuts the last record short.
        if place + 7 + size > len(content) or not 1 <= kind <= 4:
            return
        record += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):
            yield record
            record = b""


def clearml_reached(folder: Path) -> dict[str, int]:
    """The last iteration of each ``title/series`` in an offline session's ``metrics.jsonl``. Source: clearml 2.1."""
    reached: dict[str, int] = {}
    for line in (folder / "metrics.jsonl").read_bytes().splitlines():
        try:
            events = json.loads(line)
        except ValueError:
            continue  # cut short by a kill, or damaged
        for event in events if isinstance(events, list) else [events]:
            if isinstance(event, dict) and event.get("type") == "training_stats_scalar":
                name = f"{event['metric']}/{event['variant']}"
                reached[name] = max(int(event["iter"]), reached.get(name, -1))
    return reached
