"""Checkpoint format: tensors and plain values under a fixed schema, written and read with verification.

The only module that unpickles. A file is read once, then its seal is checked, its archive and pickle program are
searched (``archive.py``), torch loads it with ``weights_only=True`` and nothing allow-listed, and every value is
checked against the schema, before anything is used.
"""

import io
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, NamedTuple, cast

import torch
from torch import Tensor

from fer_ignite.checkpoint.archive import (
    MAX_OPERATIONS,
    HashingWriter,
    check_archive,
    has_sha256,
    read_regular_file,
    refuse,
    verify_sha256,
)
from fer_ignite.checkpoint.atomic_io import shown
from fer_ignite.checkpoint.paths import LAST_NAME, resolve_checkpoint, step_files
from fer_ignite.checkpoint.plain import (
    key_path,
    operation_count,
    state_digest,
    tensor_problem,
    to_plain,
)
from fer_ignite.errors import CheckpointError

__all__ = [
    "FORMAT",
    "OUTCOMES",
    "SCHEMA",
    "Entry",
    "Found",
    "load_checkpoint",
    "load_weights_file",
    "newest_valid",
    "require_resumable",
    "state_digest",
    "write_checkpoint",
]

FORMAT = 1
OUTCOMES = ("running", "completed", "early_stopped", "time_limit", "interrupted", "failed")


@dataclass(frozen=True)
class Entry:
    """One entry of a checkpoint: the types that it may have, what it is needed for, what it means."""

    types: tuple[type, ...]
    needed_for: str  # "evaluate", "resume" or "nothing"
    meaning: str


_OPTIONAL_STATE = (dict, type(None))
SCHEMA: Mapping[str, Entry] = {
    "format": Entry((int,), "evaluate", "version of this table"),
    "kind": Entry((str,), "evaluate", "what the file was written as: step or best"),
    "config": Entry((dict,), "evaluate", "the whole resolved configuration"),
    "classes": Entry((list,), "evaluate", "class names, in the order of the model's outputs"),
    "preprocessing": Entry((dict,), "evaluate", "from an image file to the model's input"),
    "model": Entry((dict,), "evaluate", "the model's tensors by name"),
    "ema": Entry(
        _OPTIONAL_STATE, "resume", "averaged weights, used by evaluation where there are any"
    ),
    "optimizer": Entry((dict,), "resume", "the optimizer's state"),
    "scheduler": Entry(_OPTIONAL_STATE, "resume", "the learning rate scheduler's state"),
    "plateau": Entry(_OPTIONAL_STATE, "resume", "the plateau scheduler's state"),
    "scaler": Entry(
        _OPTIONAL_STATE, "resume", "the gradient scaler's state; empty where it is off"
    ),
    "trainer": Entry((dict,), "resume", "the engine's counters"),
    "early_stopping": Entry(_OPTIONAL_STATE, "resume", "counter and best score"),
    "best": Entry(_OPTIONAL_STATE, "resume", "the best checkpoint's score and place"),
    "top": Entry(_OPTIONAL_STATE, "nothing", "scores and files of the best epochs that are kept"),
    "sums": Entry(_OPTIONAL_STATE, "resume", "running sums of the epoch"),
    "handlers": Entry((dict,), "resume", "states of the user's handlers by name"),
    "rng": Entry((dict,), "resume", "global random states, for user code only"),
    "data": Entry((dict,), "resume", "source, fingerprint, counts"),
    "versions": Entry((dict,), "resume", "of Python and the libraries"),
    "world_size": Entry((int,), "resume", "number of processes"),
    "outcome": Entry((str,), "resume", "running, or how the run ended"),
    "elapsed": Entry((float, int), "nothing", "seconds of training and validation so far"),
    "history": Entry(
        (str,),
        "nothing",
        "the epochs' lines as JSON, one a line; history.jsonl is rebuilt from them",
    ),
    "temperature": Entry(
        (float, int), "nothing", "fitted on val when the run ended; logits are divided by it"
    ),
}


class Found(NamedTuple):
    """The newest checkpoint of a folder that can be used, and the newer ones that can't, with reasons."""

    path: Path
    mapping: dict[str, Any]
    skipped: list[tuple[Path, str]]


def write_checkpoint(
    mapping: Mapping[str, Any], file: BinaryIO, *, reached: Callable[[str], None] = lambda _: None
) -> str:
    """Write a checkpoint to an open file, one tensor after the other, hashing what passes.

    Args:
        mapping: entries of ``SCHEMA``, at least those that evaluation needs; ``format`` is added. More are allowed.
        reached: called when all but the seal is written (``fer_ignite.checkpoint.failpoints``).
    Returns:
        The SHA-256 that the file carries.
    Raises:
        CheckpointError: an entry is missing, holds what is neither a tensor nor a plain value, or holds more values than
            :func:`load_checkpoint` reads.
        OSError: writing failed.
    """
    # Before the first byte is written: weights_only would refuse the file only at the resume.
    content = {
        "format": FORMAT,
        **{name: to_plain(value, (str(name),)) for name, value in mapping.items()},
    }
    problem = _schema_problem(content) or _size_problem(content)
    if problem:
        raise CheckpointError(f"The checkpoint wasn't written: {problem}.")
    writer = HashingWriter(file)
    torch.save(content, cast("BinaryIO", writer))
    # So that a kill at the failpoint leaves a half-written file, not an empty one.
    file.flush()
    reached("mid-write")
    return writer.seal()


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint of ours holds, on the CPU.

    Raises:
        CheckpointError: the file is missing, damaged, foreign, hostile, or of another format; one line says which.
    """
    path = resolve_checkpoint(path)
    data = read_regular_file(path)
    verify_sha256(data, path)
    content = _open(data, path)
    try:
        content = {name: to_plain(value, (str(name),)) for name, value in content.items()}
    except CheckpointError as error:
        refuse(path, f"can't be used: {str(error).rstrip('.')}")
    problem = _schema_problem(content)
    if problem:
        refuse(path, f"can't be used: {problem}")
    return content


def load_weights_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What any ``torch.save`` file holds, ours or foreign, for ``--init-from``; the caller looks for the weights in it.

    Raises:
        CheckpointError: it isn't a mapping in torch's zip format, or holds more than tensors and plain values.
    """
    path = resolve_checkpoint(path)
    data = read_regular_file(path)
    if has_sha256(data):
        verify_sha256(data, path)
    return _open(data, path)


def require_resumable(mapping: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that can be evaluated but not continued.

    Raises:
        CheckpointError: naming the missing entries.
    """
    absent = [
        name
        for name, entry in SCHEMA.items()
        if entry.needed_for != "nothing" and name not in mapping
    ]
    if absent:
        raise CheckpointError(
            f"This checkpoint can be evaluated, not continued: it has no {', '.join(absent)}. "
            "Resume from a step-*.pt or last.pt, or start a new run with --init-from."
        )


def newest_valid(folder: str | os.PathLike[str]) -> Found | None:
    """The newest resume point of a folder that is whole; damaged newer ones are passed over and reported.

    Returns:
        None where the folder holds no checkpoint at all.
    Raises:
        CheckpointError: it holds some, and none can be used.
    """
    folder = Path(folder)
    skipped: list[tuple[Path, str]] = []
    for path in _candidates(folder):
        try:
            mapping = load_checkpoint(path)
            require_resumable(mapping)
        except CheckpointError as error:
            skipped.append((path, str(error)))
        else:
            return Found(path, mapping, skipped)
    if skipped:
        raise CheckpointError(
            f"{shown(folder)} holds no usable checkpoint; of {len(skipped)} the newest is refused because "
            f"{skipped[0][1]} Start a new run under another --name."
        )
    return None


def _candidates(folder: Path) -> list[Path]:
    """last.pt follows the newest step: usually it is the same file, after a kill between the two it is one older."""
    paths = [path for _, path in step_files(folder)]
    # A symbolic link is a candidate too, so that the refusal to read it is reported.
    last = folder / LAST_NAME
    if last.is_symlink() or (
        last.exists() and not any(path.exists() and path.samefile(last) for path in paths)
    ):
        paths.insert(1, last)
    return paths


def _open(data: bytes, path: str | os.PathLike[str]) -> dict[str, Any]:
    check_archive(data, path)
    try:
        # Else each rank would put CUDA tensors on the device that they were saved from.
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        problem = (
            None
            if isinstance(content, dict)
            else f"a {type(content).__name__} where a dict belongs"
        )
        problem = problem or tensor_problem(content, file_bytes=len(data))
    except UnpicklingError:
        # its text advises weights_only=False, which would run what the file says
        problem = "its pickle program does more than rebuild tensors and plain values"
    except (
        Exception
    ) as error:  # torch fed with hostile bytes may raise anything; all of it means no
        problem = (str(error).strip() or type(error).__name__).splitlines()[0]
    if problem:
        refuse(path, f"can't be used: {problem.rstrip('.')}")
    assert isinstance(content, dict)
    return content


def _schema_problem(content: Mapping[str, Any]) -> str | None:
    version = content.get("format")
    if version != FORMAT:
        return f"it has format {version!r}, this program reads {FORMAT}; use the version that wrote it, or a newer one"
    for name, entry in SCHEMA.items():
        if name not in content and entry.needed_for == "evaluate":
            return f"it has no {name!r} ({entry.meaning})"
        if name in content and not _fits(content[name], entry.types):
            return f"{name!r} is a {type(content[name]).__name__}, not a {' or '.join(t.__name__ for t in entry.types)}"
    return _value_problem(content)


def _size_problem(content: Mapping[str, Any]) -> str | None:
    """Why :func:`check_archive` would refuse a file with this content: too many values, most of them in the part that is named."""
    handlers = content.get("handlers") or {}
    parts: dict[tuple[str, ...], Any] = {
        (name,): value for name, value in content.items() if name != "handlers"
    }
    parts |= {("handlers", str(name)): state for name, state in handlers.items()}
    counts = {place: operation_count(value) for place, value in parts.items()}
    # What the containers around the parts take.
    if sum(counts.values()) + 4 * len(counts) + 20 < MAX_OPERATIONS:
        return None
    largest = max(counts, key=lambda place: counts[place])
    return (
        f"{key_path(largest)} takes about {counts[largest]:,} pickle operations, and a checkpoint may have {MAX_OPERATIONS:,}; "
        "return many numbers from state_dict() as one tensor"
    )


def _fits(value: Any, types: tuple[type, ...]) -> bool:
    # bool is a subclass of int: True would pass for a count.
    return isinstance(value, types) and not isinstance(value, bool)


def _value_problem(content: Mapping[str, Any]) -> str | None:
    classes = content["classes"]
    if (
        not classes
        or not all(isinstance(name, str) for name in classes)
        or len(set(classes)) != len(classes)
    ):
        return "'classes' is no list of different names"
    for name in ("model", "ema"):
        wrong = [
            key for key, value in (content.get(name) or {}).items() if not isinstance(value, Tensor)
        ]
        if wrong:
            return f"{name}.{wrong[0]} is no tensor"
    iteration = (content.get("trainer") or {}).get("iteration", 0)
    if type(iteration) is not int or iteration < 0:
        return f"trainer.iteration is {iteration!r}, not a count"
    for name, least in (("temperature", sys.float_info.min), ("elapsed", 0.0)):
        # In this form NaN fails too.
        if name in content and not least <= content[name] < math.inf:
            return f"{name!r} is {content[name]}, not a number that can be used"
    if content.get("outcome", "running") not in OUTCOMES:
        return f"'outcome' is {content['outcome']!r}, not one of {', '.join(OUTCOMES)}"
    return None
