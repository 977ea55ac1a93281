"""A process with torch and fer_ignite imported, which forks one ``fer-ignite`` command after the other: 0.1 s, not 4 s.

It computes nothing itself: autograd's threads would not survive the fork. One JSON line in per command, one out with its
process id, and one with its exit status when it has ended.
"""

import atexit
import json
import os
import selectors
import signal
import sys

import torch._dynamo  # the optimizers import it
import torch._inductor  # use_deterministic_algorithms imports it
import torch.utils.flop_counter  # noqa: F401

from fer_ignite.checkpoint import failpoints
from fer_ignite.cli.main import main


def serve() -> list[str] | None:
    """Answers requests until the input ends; in a forked child, returns the command that it is to run."""
    waker, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken)
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(waker, selectors.EVENT_READ)
        buffer = b""
        while True:
            for key, _ in selector.select():
                if key.fd == waker:
                    os.read(waker, 4096)
                    tell_of_dead()
                    continue
                piece = os.read(0, 1 << 16)
                if not piece:
                    return None
                *requests, buffer = (buffer + piece).split(b"\n")
                for request in requests:
                    arguments = fork(json.loads(request))
                    if arguments is not None:
                        return arguments


def tell_of_dead() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        print(json.dumps({"pid": pid, "code": os.waitstatus_to_exitcode(status)}), flush=True)


def fork(request: dict) -> list[str] | None:
    pid = os.fork()
    if pid:
        print(json.dumps({"started": pid}), flush=True)
        return None
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    output = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(source, stream)
    os.environ.update(request["environment"])
    failpoints._FAULTS = tuple(failpoints.parse_faults(os.environ.get("FER_FAULT", ""), attempt=0))
    return request["arguments"]


if __name__ == "__main__":
    command = serve()
    if command is None:
        sys.exit(0)
    try:
        main(command)
    except SystemExit as end:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(end.code or 0))  # without taking torch to pieces, which is a second each time
