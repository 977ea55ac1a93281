"""Checks every claim about GPUs on the GPU at hand: one row per claim, ok, fails or skipped, with its figure.

The parts come in the order of their worth. Results are written after each part, so that a check which runs out of time has
lost nothing; the next one continues with the parts that are missing.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

import correctness  # noqa: E402
import speed  # noqa: E402
import torch  # noqa: E402
import training  # noqa: E402
from common import ROOT, Check, Part, Row, postponed  # noqa: E402

from fer_ignite.distributed.machine import detect_machine  # noqa: E402
from fer_ignite.training.session import versions  # noqa: E402

PARTS: dict[str, Part] = {
    "resume": correctness.resume,
    "overflow": correctness.overflow,
    "batches": correctness.batches,
    "synchronisations": correctness.synchronisations,
    "against_cpu": correctness.against_cpu,
    "refusals": correctness.refusals,
    "bare_step": speed.trainer_against_bare_step,
    "quick": training.quick,
    "means": speed.means,
    "lightning": speed.against_lightning,
    "gpu_recipe": training.gpu_recipe,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="time for all parts (default: 8)"
    )
    parser.add_argument(
        "--parts", help=f"comma-separated, run even where they are done: {', '.join(PARTS)}"
    )
    parser.add_argument(
        "--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument(
        "--data",
        default=os.environ.get("FER2013_CSV", "demo:7000"),
        help="default: $FER2013_CSV, else drawn faces",
    )
    parser.add_argument(
        "--work", default=str(ROOT / "runs" / "gpu-check"), help="folder of the runs"
    )
    parser.add_argument("--out", help="JSON file (default: docs/runs/gpu/<device>.json)")
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="smallest sizes: every part's code on a CPU within a minute or two",
    )
    given = parser.parse_args()
    chosen = given.parts.split(",") if given.parts else []
    if unknown := sorted(set(chosen) - set(PARTS)):
        parser.error(f"there is no part {unknown[0]!r}; choose from {', '.join(PARTS)}")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error(
            "there is no CUDA device here; --tiny --device cpu runs every part's code on the CPU"
        )
    if given.device == "cpu" and not given.tiny:
        parser.error("--device cpu goes with --tiny: --tiny runs every part's code on the CPU")
    device = torch.device(given.device)
    out = (
        Path(given.out)
        if given.out
        else ROOT / "docs" / "runs" / "gpu" / f"{device_name(device)}.json"
    )
    work = Path(given.work).absolute()
    work.mkdir(parents=True, exist_ok=True)
    data = "demo:210" if given.tiny else given.data
    check = Check(device, given.tiny, data, work, time.monotonic() + 60 * given.minutes)
    found = read_results(out) | {"about": about(device, data)}
    for name in chosen or [
        name for name in PARTS if not found["parts"].get(name, {}).get("finished")
    ]:
        run_part(name, check, found, out)
    failed = [
        row for part in found["parts"].values() for row in part["rows"] if row["status"] == "fails"
    ]
    print(f"\n{len(failed)} rows fail. Written to {out}.")
    sys.exit(1 if failed else 0)


def run_part(name: str, check: Check, found: dict[str, Any], out: Path) -> None:
    """Runs one part, prints its rows as they come and writes the JSON."""
    rows: list[Row] = []
    started = time.monotonic()
    if check.left_s() <= 0:
        rows.append(postponed(name))
        print_row(rows[0])
        if not found["parts"].get(name, {}).get("rows"):
            write_part(name, rows, started, found, out, finished=False)
    else:
        finished = True
        try:
            for row in PARTS[name](check):
                rows.append(row)
                print_row(row)
                write_part(name, rows, started, found, out, finished=False)
        except Exception as error:  # the parts behind it still run
            finished = False
            lines = str(error).strip().splitlines() or [""]
            rows.append(Row(name, "fails", f"{type(error).__name__}: {lines[0][:200]}"))
            print_row(rows[-1])
        finished &= not any(row.postponed for row in rows)
        write_part(name, rows, started, found, out, finished=finished)


def write_part(
    name: str, rows: list[Row], started: float, found: dict[str, Any], out: Path, *, finished: bool
) -> None:
    """Writes what is known so far: a check that is killed loses no row."""
    found["parts"][name] = {
        "rows": [vars(row) for row in rows],
        "seconds": round(time.monotonic() - started, 1),
        "finished": finished,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")


def print_row(row: Row) -> None:
    print(f"{row.status:8}{row.name}{': ' if row.figure else ''}{row.figure}", flush=True)


def read_results(out: Path) -> dict[str, Any]:
    """What an earlier check left, or nothing."""
    try:
        found = json.loads(out.read_text())
        return {"parts": {name: found["parts"][name] for name in PARTS if name in found["parts"]}}
    except (OSError, ValueError, KeyError):
        return {"parts": {}}


def device_name(device: torch.device) -> str:
    """The device's name as a file name."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    return "-".join(name.lower().split())


def about(device: torch.device, data: str) -> dict[str, Any]:
    """Device, versions and data of the check."""
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
    return {
        "device": device_name(device),
        "memory_gib": round(memory / 2**30, 1),
        "cpus": detect_machine().cores,
        "cuda": torch.version.cuda,
        **versions(),
        "data": "FER2013" if not data.startswith("demo:") else data,
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
