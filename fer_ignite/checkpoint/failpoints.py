"""Failpoints for crash tests: ``FER_FAULT=point:rank:iteration`` sends SIGKILL.

``FER_FAULT=point:rank:iteration[:attempt]``, several separated by commas. The first time that the process of that rank
reaches the point at that iteration or later, it sends itself SIGKILL. ``attempt`` counts torchrun's restarts, from 0.
Without the variable a point costs one comparison.
"""

import os
import signal
from collections.abc import Callable, Iterator
from typing import NamedTuple

__all__ = ["POINTS", "SAVE_POINTS", "Fault", "parse_faults", "reach", "reaching"]

# In the order in which a save passes them; of best.pt's save they are called best-<point>.
SAVE_POINTS = (
    "before-open",
    "mid-write",
    "after-write",
    "after-fsync",
    "after-rename",
    "after-dirsync",
    "before-prune",
    "mid-prune",
)
POINTS = (
    *SAVE_POINTS,
    *(f"best-{point}" for point in SAVE_POINTS[:-1]),  # best.pt replaces itself: nothing is pruned
    "during-validation",
    "during-resume",
)


class Fault(NamedTuple):
    """One death: where, in which process, and not before which iteration."""

    point: str
    rank: int
    iteration: int


def parse_faults(text: str, *, attempt: int) -> Iterator[Fault]:
    """The faults of ``text`` that belong to this attempt.

    Raises:
        ValueError: a point that doesn't exist, or another form; a test that kills nothing must not pass.
    """
    for entry in filter(None, text.split(",")):
        point, rank, iteration, *rest = entry.split(":")
        if point not in POINTS:
            raise ValueError(f"FER_FAULT names {point!r}, the points are {', '.join(POINTS)}")
        if int(rest[0] if rest else 0) == attempt:
            yield Fault(point, int(rank), int(iteration))


# Parsed at import, so that a misspelt point ends the program before it trains.
_FAULTS = tuple(
    parse_faults(
        os.environ.get("FER_FAULT", ""),
        attempt=int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
    )
)


def reach(point: str, *, rank: int, iteration: int) -> None:
    """Die here if ``FER_FAULT`` says so."""
    for fault in _FAULTS:
        if fault.point == point and fault.rank == rank and iteration >= fault.iteration:
            # SIGKILL runs no finally block and no exit handler, as where memory runs out.
            os.kill(os.getpid(), signal.SIGKILL)


def reaching(*, rank: int, iteration: int, prefix: str = "") -> Callable[[str], None]:
    """A function of the point alone, for code that knows neither rank nor iteration."""

    def reached(point: str) -> None:
        reach(prefix + point, rank=rank, iteration=iteration)

    return reached
