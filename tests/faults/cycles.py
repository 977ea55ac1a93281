"""``python cycles.py FACES OUT N``: N times train and evaluate, then N times crash, in one process that starts two each."""

import json
import os
import sys
from pathlib import Path

import support

from fer_ignite import evaluate, train
from fer_ignite.errors import FerError


def main() -> None:
    faces, out, cycles = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    several = {"nproc": 2, "start_method": "forkserver", "epochs": 1}
    os.environ["FER_TEST_FAIL"] = (
        "1:ITERATION_COMPLETED:ValueError"  # now: a fork server keeps what it began with
    )
    descriptors = []
    for number in range(2 * cycles):
        crash = number >= cycles
        name, handlers = f"run-{number}", ["handlers:fail_at"] if crash else []
        try:
            train(support.config_of(faces, out, **{**several, "name": name, "handlers": handlers}))
            evaluate(
                out / name / "checkpoints" / "best.pt", nproc=2 if number % 2 else None, quiet=True
            )
            assert not crash, "it should have failed"
        except FerError as error:
            assert crash and "the handler's own words" in str(error), error
        descriptors.append(len(os.listdir("/proc/self/fd")))
    print(json.dumps({"descriptors": descriptors[-1] - descriptors[1]}))


if __name__ == "__main__":
    main()
