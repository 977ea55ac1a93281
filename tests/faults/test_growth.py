"""Long runs do not grow: memory, file descriptors, threads (a short form of row G1)."""

import os
import threading

import pytest

from fer_ignite import Config, Events, train


def resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads Linux's /proc")
def test_fifty_epochs_leave_memory_descriptors_and_threads_as_twenty_did(tmp_path):
    seen = []

    def note(session):
        @session.trainer.on(Events.EPOCH_COMPLETED)
        def count(engine):
            seen.append((resident_mb(), len(os.listdir("/proc/self/fd")), threading.active_count()))

    config = Config(
        data="demo:140", epochs=50, batch_size=32, model_args={"widths": [8, 8], "blocks": [0, 0]}, precision="fp32",
        threads=1, out=str(tmp_path), quiet=True,
    )  # fmt: skip
    train(config, handlers=[note])
    (memory, files, threads), last = seen[19], seen[-1]
    assert last[0] - memory <= 10, [round(entry[0]) for entry in seen]
    assert (last[1], last[2]) == (files, threads)
