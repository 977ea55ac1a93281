"""Fault rows, measured many times: prints a table of row, target and measured, and where the kills fell."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]
os.environ.setdefault("FER_IGNITE_CACHE", tempfile.mkdtemp(prefix="fer-ignite-faults-"))

import night_answers  # noqa: E402
import night_growth  # noqa: E402
import night_kills  # noqa: E402
import night_launchers  # noqa: E402
import night_stops  # noqa: E402
from bench import Bench, Row  # noqa: E402

ROWS: dict[str, Callable[[Bench, int], Iterator[Row]]] = {
    "A1": night_kills.random_kills,
    "A2": night_kills.named_points,
    "A3": night_kills.every_boundary,
    "A4": night_kills.kills_in_a_row,
    "A7": night_stops.signals,
    "A8": night_stops.second_signals,
    "A9": night_stops.signals_out_of_turn,
    "A11": night_launchers.restarts,
    "A12": night_launchers.two_agents,
    "B3": night_launchers.hung_processes,
    "C8": night_answers.one_and_two_processes,
    "G1": night_growth.long_runs,
    "G2": night_growth.many_starts,
    "G3": night_growth.log_volume,
    "G4": night_growth.many_faces,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    thoroughly = "random kills in A1, and other rows in proportion [default: 100]"
    parser.add_argument("--trials", type=int, default=100, help=thoroughly)
    parser.add_argument(
        "--rows", default=",".join(ROWS), help=f"which, of {', '.join(ROWS)} [default: all]"
    )
    options = parser.parse_args()
    started_s, names = time.monotonic(), options.rows.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"--rows names {', '.join(unknown)}; the rows are {', '.join(ROWS)}")
    print("| row | target | measured |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="fer-ignite-faults-") as folder:
        bench = Bench(Path(folder))
        broken = [name for name in names if not complete(ROWS[name](bench, options.trials), name)]
        bench.server.close()
    print(f"\n{(time.monotonic() - started_s) / 60:.1f} minutes, {os.cpu_count()} cores.")
    return int(bool(broken))


def complete(rows: Iterator[Row], name: str) -> bool:
    """Prints the rows as they come; one that breaks off doesn't keep the next from being measured."""
    try:
        for row in rows:
            print("| " + " | ".join(row) + " |", flush=True)
    except (AssertionError, OSError, ValueError, subprocess.SubprocessError) as error:
        text = " ".join(str(error).split())[-200:]
        print(f"| {name} | | broke off: {type(error).__name__} {text} |", flush=True)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
