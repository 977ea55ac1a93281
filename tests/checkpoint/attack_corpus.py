"""Hostile checkpoints, built by hand: ``make FOLDER`` writes them, ``load FOLDER`` tries them and prints JSON lines.

A process of its own, because a loader that fails its test may crash, hang or execute what it reads. Nothing here is
dangerous: every payload only creates the file ``canary`` in the current folder.
"""

import collections
import io
import json
import pickle
import random
import resource
import struct
import sys
import tarfile
import time
import zipfile
import zlib
from hashlib import sha256
from pathlib import Path

TENSOR = (  # a float32 tensor [4] over storage "0", as torch.save writes it; the numbers are filled in
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
    b"X\x03\x00\x00\x00cpu%(numel)stQ%(offset)s%(shape)s\x85%(stride)s\x85\x89ccollections\nOrderedDict\n)RtR"
)


def number(value: int) -> bytes:
    size = (value.bit_length() + 8) // 8
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def tensor(*, numel: int = 4, offset: int = 0, shape: int = 4, stride: int = 1) -> bytes:
    values = {"numel": numel, "offset": offset, "shape": shape, "stride": stride}
    return TENSOR % {name.encode(): number(value) for name, value in values.items()}


def in_dict(value: bytes) -> bytes:
    return b"\x80\x02}X\x01\x00\x00\x00a" + value + b"s."


class Call:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def zipped(program: bytes, **more: bytes) -> bytes:
    entries = {"archive/data.pkl": program, "archive/version": b"3\n", "archive/data/0": bytes(16)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in (entries | more).items():
            archive.writestr(name, content)
    return buffer.getvalue()


def sealed(raw: bytes) -> bytes:
    """With a valid seal: whoever can write a file can also hash it."""
    body = raw[:-2] + struct.pack("<H", 82)
    return body + b"fer_ignite sha256 " + sha256(body).hexdigest().encode()


def bomb(entry: str) -> bytes:
    """1 GiB of zeros deflated to about 1 MB, its headers patched from stored to deflated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = block * 1024 + b"\x03\x00"
    raw = bytearray(zipped(in_dict(tensor(numel=1 << 28, shape=1 << 28)), **{entry: packed}))
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        local, central = archive.getinfo(entry).header_offset, archive.start_dir
        for info in archive.infolist():
            if info.filename == entry:
                break
            central += 46 + len(info.filename)
    struct.pack_into("<H", raw, local + 8, 8)
    struct.pack_into("<I", raw, local + 22, 1 << 30)
    struct.pack_into("<H", raw, central + 10, 8)
    struct.pack_into("<I", raw, central + 24, 1 << 30)
    return bytes(raw)


def legacy_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(call_system(), 2)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def call_system() -> Call:
    import os

    return Call(os.system, "touch canary")


def corpus() -> dict[str, bytes]:
    import importlib
    import subprocess

    laughs = b"\x80\x02]q\x00K\x01a" + b"".join(
        b"]q" + bytes([level]) + b"(" + (b"h" + bytes([level - 1])) * 10 + b"e"
        for level in range(1, 30)
    )
    evil = {
        f"os.system, protocol {protocol}": zipped(pickle.dumps(call_system(), protocol))
        for protocol in range(6)
    } | {
        "eval": zipped(pickle.dumps(Call(eval, "open('canary', 'w')"), 2)),
        "getattr chain": zipped(
            pickle.dumps(Call(getattr, Call(importlib.import_module, "os"), "system"), 2)[:-1]
            + b"X\x0c\x00\x00\x00touch canary\x85R."
        ),
        "subprocess": zipped(pickle.dumps(Call(subprocess.Popen, ["touch", "canary"]), 2)),
        "torch.hub": zipped(
            b"\x80\x02ctorch.hub\nload\nX\x01\x00\x00\x00.X\x01\x00\x00\x00x\x86R."
        ),
        "bare pickle": pickle.dumps(call_system(), 2),
        "legacy magic": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
        + pickle.dumps(call_system(), 2),
        "legacy tar": legacy_tar(),
    }
    shapes = {
        "set item on tensor": zipped(in_dict(tensor() + b"K\x00K\x01s")),
        "build on tensor": zipped(in_dict(tensor() + b"}X\x01\x00\x00\x00aK\x01sb")),
        "numel mismatch": zipped(in_dict(tensor(numel=1 << 20, shape=1 << 20))),
        "huge numel": zipped(in_dict(tensor(numel=1 << 60, shape=4))),
        "huge shape": zipped(in_dict(tensor(shape=1 << 50))),
        "huge shape, stride 0": zipped(in_dict(tensor(shape=1 << 50, stride=0))),
        "negative offset": zipped(in_dict(tensor(offset=-(1 << 20)))),
        "negative stride": zipped(in_dict(tensor(stride=-1))),
        "sparse tensor": zipped(b"\x80\x02ctorch._utils\n_rebuild_sparse_tensor\n)R."),
        "nesting of a million": zipped(b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b"."),
        "nesting of a thousand": zipped(in_dict(b"]" * 1000 + b"a" * 999)),
        "a list that holds itself": zipped(in_dict(b"]q\x00h\x00a")),
        "ten to the thirtieth": zipped(laughs + b"}X\x01\x00\x00\x00ah\x1ds."),
        "string of four gigabytes": zipped(in_dict(b"X\xff\xff\xff\xff")),
        "not a mapping": zipped(b"\x80\x02]."),
        "truncated program": zipped(in_dict(tensor())[:-20]),
    }
    containers = {
        "TorchScript": zipped(
            in_dict(b"K\x01"), **{"archive/code/__torch__.py": b"", "archive/constants.pkl": b")."}
        ),
        "deflate bomb": bomb("archive/data/0"),
        "deflate bomb as program": bomb("archive/data.pkl"),
        "path out of the archive": zipped(in_dict(b"K\x01"), **{"../archive/data/1": b""}),
        "two archives": zipped(
            in_dict(b"K\x01"), **{"other/data.pkl": pickle.dumps(call_system(), 2)}
        ),
        "entries without end": zipped(
            in_dict(b"K\x01"), **{"archive/data/1": b"PK\x01\x02" * 200_000}
        ),
        "no program": zipped(b"").replace(b"data.pkl", b"data/777"),
    }
    return evil | shapes | containers


def make(folder: Path) -> None:
    for name, raw in corpus().items():
        (folder / f"{name}.raw").write_bytes(raw)
        (folder / f"{name}.sealed").write_bytes(sealed(raw))
    (folder / "symlink.sealed").symlink_to("/etc/passwd")


def load(folder: Path) -> None:
    from fer_ignite.checkpoint.format import load_checkpoint, load_weights_file
    from fer_ignite.errors import CheckpointError

    Path("begin").mkdir()  # a mark in the system call trace: importing torch starts ldconfig
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in sorted(folder.iterdir()):
        for loader in (load_checkpoint, load_weights_file):
            start = time.perf_counter()
            try:
                answer = f"loaded {loader(path)!r:.100}"
            except CheckpointError as error:
                answer = f"refused: {error}"
            seconds = time.perf_counter() - start
            print(
                json.dumps(
                    {
                        "name": path.name,
                        "loader": loader.__name__,
                        "answer": answer,
                        "seconds": seconds,
                    }
                )
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"grown_mb": (peak - before) / 1024}))


def fuzz(path: Path, count: int) -> None:
    """Changes bytes of a good checkpoint and seals it again, so that torch's own reader has to cope."""
    from fer_ignite.checkpoint.format import load_checkpoint
    from fer_ignite.errors import CheckpointError

    good, draws = path.read_bytes()[:-82], random.Random(7)
    body = good[:-2] + b"\x00\x00"
    outcomes: collections.Counter[str] = collections.Counter()
    for _ in range(count):
        changed = bytearray(body)
        for _ in range(draws.choice((1, 1, 2, 8))):
            changed[draws.randrange(4, len(changed) - 22)] = draws.randrange(256)
        path.write_bytes(sealed(bytes(changed)))
        try:
            load_checkpoint(path)
            outcomes["loaded"] += 1
        except CheckpointError:
            outcomes["refused"] += 1
    print(json.dumps(outcomes))


if __name__ == "__main__":
    command, target, *rest = sys.argv[1:]
    if command == "fuzz":
        fuzz(Path(target), int(rest[0]))
    else:
        {"make": make, "load": load}[command](Path(target))
