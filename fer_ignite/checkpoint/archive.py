"""Checkpoint archive: a torch zip file with a SHA-256 trailer, inspected before it is opened.

The seal is the archive's comment, the one place in a zip file that every reader allows: torch and any zip tool read the
file as it is. The digest is over every byte before the comment, so it travels with the file. It proves that a file is
whole, not that it is honest; a stranger can seal too. So what the file holds is searched as well: stored entries of
known names, and a pickle program that only rebuilds tensors and plain values. No torch here.
"""

import hashlib
import io
import os
import pickletools
import re
import stat
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO, NoReturn

from fer_ignite.checkpoint.atomic_io import shown
from fer_ignite.errors import CheckpointError

__all__ = [
    "MAX_FILE_BYTES",
    "MAX_OPERATIONS",
    "HashingWriter",
    "check_archive",
    "has_sha256",
    "read_regular_file",
    "refuse",
    "refuse_unreadable",
    "verify_sha256",
]

# A file is read into memory whole before it is checked, so its size is bounded.
MAX_FILE_BYTES = 16 << 30
_MAX_ENTRIES = 100_000
MAX_OPERATIONS = 1_000_000  # a tensor takes about 30; densenet201 with EMA and Adam 120,000

_SEAL = b"fer_ignite sha256 "
# Of fixed length: the archive's length field is written, and hashed, before the digest is known.
_SEAL_BYTES = len(_SEAL) + 64
_ZIP_START = b"PK\x03\x04"
_ZIP_END = b"PK\x05\x06"
_ZIP_END_BYTES = 22  # with an empty comment, as torch writes it
_ZIP_ENTRY = b"PK\x01\x02"
_NO_COMMENT = struct.pack("<H", 0)
_SEAL_LENGTH = struct.pack("<H", _SEAL_BYTES)

# Entries that torch.save writes, in newer versions too; TorchScript's code is not one.
_ENTRY_NAME = re.compile(
    r"([^/]+)/(data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id)"
)
# What torch.save writes for tensors and plain values, and nothing else; opcode names as in pickletools, protocol 2.
# BUILD: the OrderedDict of a foreign state dict carries the attribute _metadata. STACK_GLOBAL is
# left out: its name comes from the stack, where a search of the program can't see it.
_OPERATIONS = re.compile(
    r"PROTO|STOP|MARK|NONE|NEWTRUE|NEWFALSE|BININT[12]?|LONG1|BINFLOAT|BINUNICODE|EMPTY_(DICT|LIST|TUPLE)|TUPLE[123]?"
    r"|APPENDS?|SETITEMS?|(LONG_)?BIN(PUT|GET)|GLOBAL|BINPERSID|REDUCE|BUILD"
)
_GLOBALS = re.compile(
    r"collections OrderedDict|torch [A-Za-z0-9]+Storage|torch\.storage UntypedStorage|torch (Size|device)"
    r"|torch\._utils _rebuild_(tensor_v[23]|parameter)|torch (b?float|u?int|complex|bool)[0-9a-z_]*"
)


class HashingWriter:
    """A file for ``torch.save`` to write to, that hashes what passes and ends in the seal.

    It holds back the archive's last 22 bytes, where the comment's length has to be changed. A failing write is kept and
    raised by ``seal``: torch would then say "unexpected pos 832 vs 726" instead of "No space left on device".
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hasher = hashlib.sha256()
        self._held = b""
        self._error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        # A write shorter than the held end is joined with it; tensors are passed on uncopied.
        if len(view) < _ZIP_END_BYTES:
            view = memoryview(self._held + bytes(view))
        else:
            self._pass_on(self._held)
        self._pass_on(view[: max(len(view) - _ZIP_END_BYTES, 0)])
        self._held = bytes(view[-_ZIP_END_BYTES:])
        return len(data)

    def flush(self) -> None:
        """Nothing to do: ``seal`` writes the end."""

    def seal(self) -> str:
        """Write the archive's end and the seal.

        Returns:
            The digest as 64 hex digits.
        Raises:
            OSError: the first write that failed.
        """
        assert self._held.startswith(_ZIP_END) and self._held.endswith(_NO_COMMENT), (
            "torch.save ended otherwise"
        )
        self._pass_on(self._held[:-2] + _SEAL_LENGTH)
        if self._error is not None:
            raise self._error
        digest = self._hasher.hexdigest()
        self._file.write(_SEAL + digest.encode("ascii"))
        return digest

    def _pass_on(self, data: bytes | memoryview) -> None:
        self._hasher.update(data)
        if self._error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self._error = error


def refuse_unreadable(path: str | os.PathLike[str], error: OSError | ValueError) -> NoReturn:
    """Refuses a file that can't be opened, with the system's reason."""
    detail = error.strerror if isinstance(error, OSError) else str(error)
    refuse(
        path, f"can't be read: {detail}; name a checkpoint such as runs/NAME/checkpoints/last.pt"
    )


def read_regular_file(path: str | os.PathLike[str]) -> bytes:
    """A file's bytes, read once, so that what is checked is what is used.

    Raises:
        CheckpointError: it isn't there, is no regular file (a FIFO would block, a link may point anywhere), or is huge.
    """
    try:
        # Else opening a FIFO without a writer blocks, and Windows translates line ends.
        flags = (
            os.O_RDONLY
            | getattr(os, "O_NOFOLLOW", 0)
            | getattr(os, "O_NONBLOCK", 0)
            | getattr(os, "O_BINARY", 0)
        )
        # O_NOFOLLOW is not on Windows, and its error is about too many levels of links.
        if Path(path).is_symlink():
            refuse(path, "is a symbolic link; name the file that it points to")
        with os.fdopen(os.open(path, flags), "rb") as file:
            # Of the open file: the path may mean another one by now.
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                refuse(
                    path,
                    "is not a regular file; name a checkpoint such as runs/NAME/checkpoints/last.pt",
                )
            if status.st_size > MAX_FILE_BYTES:
                refuse(path, f"has {status.st_size} bytes, at most {MAX_FILE_BYTES} are read")
            # Bounded, because the file may grow while it is read.
            return file.read(status.st_size)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        refuse_unreadable(path, error)


def has_sha256(data: bytes) -> bool:
    """Whether the file claims to be ours."""
    return data[-_SEAL_BYTES:].startswith(_SEAL)


def verify_sha256(data: bytes, path: str | os.PathLike[str]) -> None:
    """Refuse a file whose bytes are not those that were written.

    Raises:
        CheckpointError: with the digest the file carries and the one its bytes have.
    """
    # A flip in the first bytes of a sealed file is reported as damage, with both digests.
    if not data.startswith(_ZIP_START) and not has_sha256(data):
        refuse(path, f"is no checkpoint: {_kind(data)}")
    # A view: slicing bytes would copy the whole file.
    body, seal = memoryview(data)[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
    got = hashlib.sha256(body).hexdigest()
    if seal != _SEAL + got.encode("ascii"):
        carried = (
            ascii(seal[len(_SEAL) :].decode("latin-1"))[1:-1]
            if has_sha256(data)
            else f"none, it ends in {seal[-8:]!r}"
        )
        hint = "use an earlier checkpoint, or --init-from if it is a torch file from elsewhere"
        refuse(path, f"is damaged or cut off: expected SHA-256 {carried}, got {got}; {hint}")
    # A valid digest doesn't settle the layout: zip readers search for the archive's end.
    if body[-_ZIP_END_BYTES:-18] != _ZIP_END or body[-2:] != _SEAL_LENGTH:
        refuse(path, "doesn't end like an archive that torch wrote")


def check_archive(data: bytes, path: str | os.PathLike[str]) -> None:
    """Refuse a torch file that could do more than rebuild tensors and plain values, before torch sees it.

    Raises:
        CheckpointError: legacy formats, compressed or unknown entries, sizes that don't add up, a pickle program with
            anything but the operations that plain data needs.
    """
    if not data.startswith(_ZIP_START):
        refuse(path, f"is no torch zip file: {_kind(data)}")
    # counted first: listing two million entries takes gigabytes
    if data.count(_ZIP_ENTRY) > _MAX_ENTRIES:
        refuse(path, f"lists more than {_MAX_ENTRIES} entries")
    try:
        # All entries are checked before one is read: a deflated data.pkl could unpack to gigabytes.
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_entries(archive.infolist(), len(data), path=path)
            program = archive.read(
                next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            )
        _check_program(program, path)
    except CheckpointError:
        raise
    except (
        Exception
    ) as error:  # a parser fed with hostile bytes may raise anything; all of it means no
        refuse(path, f"is not readable as a torch zip file: {_line(error)}")


def refuse(path: str | os.PathLike[str], why: str) -> NoReturn:
    """Raise the CheckpointError about a file, in one line whatever the file made us quote."""
    raise CheckpointError(f"{shown(path)} {shown(why[:600])}.")


def _check_entries(
    entries: list[zipfile.ZipInfo], file_bytes: int, *, path: str | os.PathLike[str]
) -> None:
    roots = set()
    for entry in entries:
        match = _ENTRY_NAME.fullmatch(entry.filename)
        if match is None:
            refuse(path, f"holds {entry.filename[:80]!a}, which no checkpoint has")
        roots.add(match[1])
        if (
            entry.compress_type != zipfile.ZIP_STORED
            or entry.compress_size != entry.file_size
            or entry.flag_bits & 1
        ):
            refuse(
                path,
                f"holds {entry.filename[:80]!a} compressed or encrypted; torch stores it as it is",
            )
    # Of two entries of one name zipfile reads the last, and torch's reader could read the first.
    if len(roots) != 1 or len({entry.filename for entry in entries}) != len(entries):
        refuse(path, "holds several archives in one, or a name twice")
    if not any(entry.filename.endswith("/data.pkl") for entry in entries):
        refuse(path, "holds no data.pkl; it is a zip file, but not from torch.save")
    # Entries that overlap would make a small file load as a huge one.
    if sum(entry.file_size for entry in entries) > file_bytes:
        refuse(path, f"claims more bytes than the {file_bytes} it has")


def _check_program(program: bytes, path: str | os.PathLike[str]) -> None:
    for count, (operation, argument, _) in enumerate(pickletools.genops(program)):
        if not _OPERATIONS.fullmatch(operation.name):
            refuse(
                path, f"uses the pickle operation {operation.name}, which plain data never needs"
            )
        if operation.name == "GLOBAL" and not _GLOBALS.fullmatch(str(argument)):
            name = ".".join(str(argument)[:80].split(" "))
            refuse(
                path,
                f"names {name!a}; only tensors and plain values are loaded, never code or other objects",
            )
        if count >= MAX_OPERATIONS:
            refuse(path, f"needs more than {MAX_OPERATIONS} pickle operations")


def _kind(data: bytes) -> str:
    if not data:
        return "it is empty"
    # The pickled magic number of torch's legacy format; before that one, torch wrote tar archives.
    if data.startswith(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19") or data[257:262] == b"ustar":
        return "it has torch's format from before 1.6; load it there and save it again with a current torch.save"
    if data.startswith(b"\x80"):
        return "it is a bare pickle, which could run code"
    return f"it begins with {data[:8]!r}, a torch file with {_ZIP_START!r}; name a file such as runs/NAME/checkpoints/best.pt"


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (ascii(text[0][:200])[1:-1] if text else "") or type(error).__name__
