import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fer_ignite.distributed.signals import SignalFlag, Terminated, raise_on_sigterm


def run_python(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_flag_notes_a_signal_and_gives_the_handlers_back(signum):
    before = signal.getsignal(signum)
    with SignalFlag() as flag:
        assert flag.signum == 0
        os.kill(os.getpid(), signum)
        assert flag.signum == signum
    assert signal.getsignal(signum) is before


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_process_at_once(signum):
    code = (
        "import os, sys; from fer_ignite.distributed.signals import SignalFlag\n"
        "with SignalFlag():\n"
        "    os.kill(os.getpid(), 15); os.kill(os.getpid(), int(sys.argv[1])); print('still here')"
    )
    done = run_python(code, int(signum))
    assert (done.returncode, done.stdout) == (128 + signum, "")


def test_sigterm_raises_without_a_handler_for_a_soft_stop():
    with pytest.raises(Terminated), raise_on_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.skipif(sys.platform != "linux", reason="other systems don't say who sent a signal")
def test_a_forked_loader_worker_heeds_its_parent_only():
    code = (
        "import os, time; from fer_ignite.distributed.signals import SignalFlag, reset_signals\n"
        "flag = SignalFlag().install(); reset_signals(0)\n"
        "os.kill(os.getpid(), 2); os.kill(os.getpid(), 15); time.sleep(0.2); print('alive', flush=True); time.sleep(30)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "alive\n"
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals are Linux's")
def test_a_process_ends_with_its_parent():
    parent = (
        "import subprocess, sys, time, os\n"
        "child = 'import os, sys, time; from fer_ignite.distributed.signals import die_with_parent; '\\\n"
        "        'die_with_parent(int(sys.argv[1])); print(os.getpid(), flush=True); time.sleep(60)'\n"
        "subprocess.Popen([sys.executable, '-c', child, str(os.getpid())])\n"
        "time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
        until = time.monotonic() + 5
        while _is_running(child) and time.monotonic() < until:
            time.sleep(0.05)
        assert not _is_running(child)


def test_a_process_whose_parent_is_already_gone_ends_at_once():
    done = run_python(
        "from fer_ignite.distributed.signals import die_with_parent; die_with_parent(1 << 30); print('alive')"
    )
    assert (done.returncode, done.stdout) == (137, "")


def test_starting_the_launcher_package_imports_no_torch():
    done = run_python("import sys, fer_ignite.distributed; print('torch' in sys.modules)")
    assert done.stdout == "False\n"


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def default_action():
    """(signal) -> its action is the default for this test, also where the tests were started by nohup."""
    previous = {}

    def restore(number):
        previous[number] = signal.signal(number, signal.SIG_DFL)

    yield restore
    for number, action in previous.items():
        signal.signal(number, action)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_notice_signal_stops_softly_and_never_ends_the_process_at_once(name, default_action):
    number = getattr(signal, name)
    default_action(number)
    with SignalFlag() as flag:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert flag.signum == number
        os.kill(os.getpid(), signal.SIGTERM)  # as schedulers send it behind their notice
        assert flag.signum == signal.SIGTERM


def test_sighup_stays_ignored_where_nohup_ignores_it():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with SignalFlag() as flag:
            os.kill(os.getpid(), signal.SIGHUP)
            assert flag.signum == 0
    finally:
        signal.signal(signal.SIGHUP, previous)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_stop_signal_before_the_first_step_raises_with_its_number(name, default_action):
    number = getattr(signal, name)
    default_action(number)
    with pytest.raises(Terminated) as ended, raise_on_sigterm():
        os.kill(os.getpid(), number)
        time.sleep(5)
    assert ended.value.signum == number
