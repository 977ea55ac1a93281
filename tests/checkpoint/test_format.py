import contextlib
import io
import json
import os
import pickletools
import random
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fer_ignite
from fer_ignite.checkpoint.format import (
    SCHEMA,
    load_checkpoint,
    load_weights_file,
    newest_valid,
    require_resumable,
    state_digest,
    write_checkpoint,
)
from fer_ignite.checkpoint.plain import operation_count, to_plain
from fer_ignite.errors import CheckpointError

TRACE = ("strace", "-f", "--seccomp-bpf", "-e")
CORPUS = Path(__file__).with_name("attack_corpus.py")


def save_bytes(mapping):
    buffer = io.BytesIO()
    write_checkpoint(mapping, buffer)
    return buffer.getvalue()


def content(iteration: int = 3) -> dict[str, Any]:
    """Everything that a resume needs, from real objects after a real step."""
    torch.manual_seed(iteration)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 7))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model(torch.randn(4, 6)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    return {
        "kind": "step",
        "config": {"lr": 0.01, "mean": [0.5], "out": None},
        "classes": ["angry", "happy"],
        "preprocessing": {"size": 48},
        "model": model.state_dict(),
        "ema": None,
        "optimizer": optimizer.state_dict(),
        "scheduler": {k: v for k, v in scheduler.state_dict().items() if not k.startswith("_")},
        "plateau": None,
        "scaler": {},
        "trainer": {"iteration": iteration, "epoch_length": 7, "max_epochs": 3},
        "early_stopping": {"counter": 1, "best_score": float("-inf")},
        "best": {"value": 0.5, "iteration": 2, "epoch": 1},
        "sums": {"loss": torch.tensor(1.5, dtype=torch.float64)},
        "handlers": {"mine": {"seen": (1, "a", True)}},
        "rng": {"torch": torch.get_rng_state(), "python": list(random.getstate()[1])},
        "data": {"source": "demo", "fingerprint": "0" * 64, "counts": {"train": 201}},
        "versions": {"torch": str(torch.__version__)},
        "world_size": 2,
        "outcome": "running",
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "step-3.pt"
    path.write_bytes(save_bytes(content()))
    return path


def refusal(path: Path) -> str:
    start = time.perf_counter()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert time.perf_counter() - start < 25
    assert "\n" not in message and len(message) < 1000
    return message


def test_what_was_saved_is_what_is_loaded(file: Path):
    loaded = load_checkpoint(file)
    assert state_digest({k: v for k, v in loaded.items() if k != "format"}) == state_digest(
        content()
    )
    assert loaded["handlers"]["mine"]["seen"] == (1, "a", True)
    require_resumable(loaded)


def test_the_file_is_an_ordinary_torch_and_zip_file_for_everybody_else(file: Path):
    assert torch.load(file, weights_only=True)["classes"] == ["angry", "happy"]
    assert torch.load(file, weights_only=True, mmap=True)["world_size"] == 2
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        body = file.read_bytes()[: -len(archive.comment)]
        assert archive.comment == b"fer_ignite sha256 " + sha256(body).hexdigest().encode()


def test_the_same_content_gives_the_same_bytes():
    assert save_bytes(content()) == save_bytes(content())


def test_optimizer_and_model_continue_from_the_loaded_state(file: Path):
    loaded = load_checkpoint(file)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 7))
    model.load_state_dict(loaded["model"])
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0)
    optimizer.load_state_dict(loaded["optimizer"])
    assert state_digest(optimizer.state_dict()) == state_digest(content()["optimizer"])


def test_each_of_300_single_bit_flips_is_refused_with_both_digests(file: Path):
    good, draws = file.read_bytes(), random.Random(1)
    for bit in draws.sample(range(len(good) * 8), 300):
        changed = bytearray(good)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        message = refusal(file)
        assert str(file) in message and re.search(
            r"expected SHA-256 .+, got [0-9a-f]{64}", message
        ), message


def test_each_bit_of_the_seal_counts(file: Path):
    good = file.read_bytes()
    for bit in range(8 * (len(good) - 84), 8 * len(good)):
        changed = bytearray(good)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        refusal(file)


def test_each_of_200_truncations_is_refused(file: Path):
    good, draws = file.read_bytes(), random.Random(2)
    for length in draws.sample(range(len(good)), 200):
        file.write_bytes(good[:length])
        refusal(file)


@pytest.mark.parametrize(
    "data",
    [b"", b"hello\n", bytes(5000), b"\x89PNG\r\n\x1a\n" + bytes(100), b"<html>", b"PK\x03\x04"],
)
def test_what_never_was_a_checkpoint_is_refused(tmp_path: Path, data: bytes):
    (tmp_path / "x.pt").write_bytes(data)
    refusal(tmp_path / "x.pt")


def test_folders_fifos_devices_links_and_missing_files_are_refused_without_waiting(
    tmp_path: Path, file: Path
):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(file)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (
        tmp_path,
        tmp_path / "fifo",
        tmp_path / "link",
        tmp_path / "loop",
        tmp_path / "none",
    ):
        assert str(path) in refusal(path)
    refusal(Path("/dev/zero"))
    refusal(Path("zero\0byte"))
    assert "symbolic link" in refusal(tmp_path / "link")


def test_a_name_with_a_line_break_stays_one_line(tmp_path: Path):
    path = tmp_path / "a\nb.pt"
    path.write_bytes(b"nothing")
    assert "\\n" in refusal(path)


def test_a_checkpoint_of_another_format_says_so(tmp_path: Path):
    (tmp_path / "x.pt").write_bytes(reseal(save_bytes(content()), {"format": 99}))
    assert "format 99" in refusal(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"classes": []}, "classes"),
        ({"classes": ["a", "a"]}, "classes"),
        ({"model": {"weight": 3}}, "model.weight"),
        ({"trainer": {"iteration": -1}}, "iteration"),
        ({"outcome": "great"}, "outcome"),
        ({"world_size": True}, "world_size"),
        ({"config": [1]}, "config"),
    ],
)
def test_content_that_breaks_the_schema_is_neither_written_nor_read(
    tmp_path: Path, changes: dict, word: str
):
    with pytest.raises(CheckpointError, match=word):
        save_bytes(content() | changes)
    (tmp_path / "x.pt").write_bytes(reseal(save_bytes(content()), changes))
    assert word in refusal(tmp_path / "x.pt")


def reseal(good: bytes, changes: dict[str, Any]) -> bytes:
    """A file as a stranger could make it: another content under a valid seal."""
    buffer = io.BytesIO()
    torch.save(torch.load(io.BytesIO(good), weights_only=True) | changes, buffer)
    body = buffer.getvalue()[:-2] + (82).to_bytes(2, "little")
    return body + b"fer_ignite sha256 " + sha256(body).hexdigest().encode()


@pytest.mark.parametrize(
    "value", [np.float64(1), Path("x"), {1.5: 0}, {"a", "b"}, b"bytes", torch.float32, object()]
)
def test_a_value_that_could_not_be_loaded_is_not_saved_and_named(value: Any):
    with pytest.raises(CheckpointError, match=r"handlers\.mine\.0"):
        save_bytes(content() | {"handlers": {"mine": [value]}})


def test_a_state_with_more_values_than_are_read_is_not_saved_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for module in ("archive", "format"):  # 1,000,000, which takes seconds
        monkeypatch.setattr(f"fer_ignite.checkpoint.{module}.MAX_OPERATIONS", 6000)
    mixed = [1.5, "text", (1, 2, 3, 4), {"a": [None]}, torch.zeros(2, 3)]
    for count in (1, 10, 20):  # what is written, is read
        state = {f"{number:04d}.png": mixed for number in range(count)}
        (tmp_path / "x.pt").write_bytes(save_bytes(content() | {"handlers": {"mine": state}}))
        assert len(load_checkpoint(tmp_path / "x.pt")["handlers"]["mine"]) == count
    state = {f"{number:04d}.png": mixed for number in range(90)}
    with pytest.raises(CheckpointError, match=r"handlers\.mine takes about .* one tensor"):
        save_bytes(content() | {"handlers": {"mine": state, "small": {"seen": 3}}})


@pytest.mark.parametrize("count", [0, 1, 2, 1000, 2500])
@pytest.mark.parametrize(
    "item", [1.5, "text", [1], {"a": 1}, OrderedDict(a=()), (1, 2, 3, 4), torch.zeros(1, 2, 3, 4)]
)
def test_the_counted_operations_are_at_least_those_that_are_written(count: int, item: Any):
    for value in ([item] * count, {f"k{number}": item for number in range(count)}):
        plain = to_plain(value, ())
        buffer = io.BytesIO()
        torch.save(plain, buffer)
        with zipfile.ZipFile(buffer) as archive:
            program = archive.read("archive/data.pkl")
        written = sum(1 for _ in pickletools.genops(program)) - 2  # PROTO and STOP
        assert written <= operation_count(plain) + 10  # names of types, once


@pytest.mark.parametrize("value", [torch.eye(3).to_sparse(), torch.zeros(3, device="meta")])
def test_a_tensor_that_could_not_be_loaded_is_not_saved_and_named(value: torch.Tensor):
    with pytest.raises(CheckpointError, match=r"handlers\.mine\.0 .* dense"):
        save_bytes(content() | {"handlers": {"mine": [value]}})


def test_an_expanded_tensor_is_saved_whole(tmp_path: Path):
    wide = torch.ones(1).expand(1_000_000)
    (tmp_path / "x.pt").write_bytes(save_bytes(content() | {"handlers": {"mine": [wide]}}))
    assert torch.equal(load_checkpoint(tmp_path / "x.pt")["handlers"]["mine"][0], wide)


def test_a_view_is_saved_without_the_storage_behind_it():
    whole = torch.randn(100_000)
    assert len(save_bytes(content() | {"model": {"part": whole[:4]}})) < 50_000


def test_model_and_versions_suffice_to_evaluate_but_not_to_resume(tmp_path: Path):
    needed = {name for name, entry in SCHEMA.items() if entry.needed_for == "evaluate"}
    assert needed == {"format", "kind", "config", "classes", "preprocessing", "model"}
    (tmp_path / "x.pt").write_bytes(save_bytes({k: v for k, v in content().items() if k in needed}))
    loaded = load_checkpoint(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="optimizer"):
        require_resumable(loaded)


def test_the_newest_whole_resume_point_is_found_and_the_damaged_ones_reported(tmp_path: Path):
    for iteration in (5, 20, 100):
        (tmp_path / f"step-{iteration}.pt").write_bytes(save_bytes(content(iteration)))
    os.link(tmp_path / "step-100.pt", tmp_path / "last.pt")
    found = newest_valid(tmp_path)
    assert found is not None and found.path.name == "step-100.pt" and found.skipped == []
    with (tmp_path / "step-100.pt").open("r+b") as damaged:
        damaged.truncate(1000)
    found = newest_valid(tmp_path)
    assert (
        found is not None
        and found.path.name == "step-20.pt"
        and found.mapping["trainer"]["iteration"] == 20
    )
    assert [path.name for path, _ in found.skipped] == ["step-100.pt"]


def test_last_alone_is_enough_to_resume_and_nothing_at_all_is_no_error(tmp_path: Path):
    assert newest_valid(tmp_path) is None
    assert newest_valid(tmp_path / "none") is None
    (tmp_path / "last.pt").write_bytes(save_bytes(content(8)))
    found = newest_valid(tmp_path)
    assert found is not None and found.path.name == "last.pt"


def test_a_folder_with_damaged_checkpoints_only_is_refused(tmp_path: Path):
    (tmp_path / "step-1.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        newest_valid(tmp_path)


def test_foreign_weights_are_loaded_and_old_formats_get_a_sentence(tmp_path: Path, file: Path):
    path, weights = tmp_path / "foreign.pth", nn.Linear(2, 2).state_dict()
    torch.save(weights, path)
    assert state_digest(load_weights_file(path)) == state_digest(weights)
    torch.save(
        {"model_state_dict": weights, "epoch": 3, "weight": nn.Parameter(torch.ones(1))}, path
    )
    assert load_weights_file(path)["epoch"] == 3
    assert "--init-from" in refusal(path)
    torch.save(weights, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"before 1\.6"):
        load_weights_file(path)
    assert "model" in load_weights_file(file)
    file.write_bytes(file.read_bytes().replace(b"angry", b"hangr"))
    with pytest.raises(CheckpointError, match="expected SHA-256"):
        load_weights_file(file)


def test_a_digest_depends_on_content_alone():
    weights = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(1, dtype=torch.bfloat16)}
    same = OrderedDict(
        a=weights["a"].clone(), b=torch.arange(6.0).reshape(3, 2).T.contiguous().T.reshape(2, 3)
    )
    assert state_digest(weights) == state_digest(same)
    turned = torch.empty(3, 2).T.copy_(weights["b"])
    assert not turned.is_contiguous() and state_digest(weights | {"b": turned}) == state_digest(
        weights
    )
    others = [
        weights | {"b": weights["b"].double()},
        weights | {"b": weights["b"].reshape(3, 2)},
        weights | {"b": -weights["b"]},
        {"c": weights["b"], "a": weights["a"]},
        {"a": weights["a"]},
        weights | {"n": 1},
    ]
    assert len({state_digest(other) for other in [weights, *others]}) == 7


def test_only_one_module_unpickles():
    package = Path(fer_ignite.__path__[0])
    sources = {
        path.relative_to(package).as_posix(): path.read_text() for path in package.rglob("*.py")
    }
    forbidden = re.compile(
        r"weights_only=False[^,]|pickle\.loads?\(|Unpickler|add_safe_globals|joblib|allow_pickle=True"
    )
    assert [name for name, text in sources.items() if forbidden.search(text)] == []
    assert [name for name, text in sources.items() if "torch.load(" in text] == [
        "checkpoint/format.py"
    ]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(fer_ignite.__path__[0]).parent),
    }
    return subprocess.run(
        arguments, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
def test_hostile_files_are_refused_sealed_or_not_without_running_anything(tmp_path: Path):
    folder = tmp_path / "files"
    folder.mkdir()
    assert run(sys.executable, str(CORPUS), "make", str(folder), cwd=tmp_path).returncode == 0
    command = [sys.executable, str(CORPUS), "load", str(folder)]
    if can_trace(tmp_path):
        command = [*TRACE, "trace=execve,execveat,mkdir", "-o", str(tmp_path / "trace"), *command]
    result = run(*command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    *answers, memory = [json.loads(line) for line in result.stdout.splitlines()]
    assert len({answer["name"] for answer in answers}) >= 70
    assert [answer for answer in answers if not answer["answer"].startswith("refused")] == []
    assert max(answer["seconds"] for answer in answers) < 5
    largest = max(path.lstat().st_size for path in folder.iterdir())
    assert memory["grown_mb"] < 3 * largest / 2**20 + 300
    assert not (tmp_path / "canary").exists()
    if (tmp_path / "trace").exists():
        _, mark, loading = (tmp_path / "trace").read_text().partition('mkdir("begin"')
        assert mark and "exec" not in loading


@pytest.mark.slow
def test_changed_bytes_under_a_valid_seal_never_crash_the_reader(tmp_path: Path, file: Path):
    result = run(sys.executable, str(CORPUS), "fuzz", str(file), "800", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    outcomes = json.loads(result.stdout)
    assert sum(outcomes.values()) == 800 and outcomes["refused"] > 100


def can_trace(folder: Path) -> bool:
    if shutil.which("strace") is None:
        return False
    with contextlib.suppress(OSError):
        return (
            subprocess.run(
                [*TRACE, "trace=execve", "-o", str(folder / "probe"), "true"], check=False
            ).returncode
            == 0
        )
    return False
