"""`fer-ignite demo` from start to end: what it refuses, what it says, how it ends."""

import re
import signal
import sys
import time

import pytest

from fer_ignite.apps.faces import detection
from fer_ignite.apps.web_server import reserve_port
from fer_ignite.errors import ConfigError


def test_a_port_in_use_ends_it_with_code_2_before_anything_is_loaded(cli):
    pytest.importorskip("gradio")
    with reserve_port("127.0.0.1", 0) as taken:
        ended = cli("demo", "absent.pt", "--port", str(taken.getsockname()[1]))
    assert ended.code == 2 and "in use" in ended.err and ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--port", "70000"), "--port"),
        (("--host", "192.0.2.1"), "192.0.2.1"),
        (("absent.pt", "--port", "0"), "absent.pt"),
        (("absent.onnx", "--port", "0"), "absent.onnx"),
        (("--detector", "absent", "--port", "0"), "absent"),
    ],
)
def test_what_can_t_be_done_is_said_in_one_line(cli, arguments, said):
    pytest.importorskip("gradio")
    ended = cli("demo", *arguments)
    assert ended.code == 2 and said in ended.err and ended.err.count("\n") == 1


def test_without_gradio_it_names_the_extra(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    ended = cli("demo")
    assert ended.code == 2 and '[demo]"' in ended.err


def test_without_a_detector_the_page_still_reads_single_faces(monkeypatch):
    from fer_ignite.apps.demo import run

    def none_installed(name="x"):
        raise ConfigError(f'{name} is not installed: pip install ".[faces]".')

    monkeypatch.setattr(detection, "open_detector", none_installed)
    assert run._detector(None) == (None, 'x is not installed: pip install ".[faces]".')
    with pytest.raises(ConfigError, match="mine is not installed"):
        run._detector("mine")


@pytest.mark.slow
@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_ends_it_at_once_though_the_page_is_being_looked_at(start, presses):
    import httpx

    program = start("--detector", "none")
    address = program.address()
    with httpx.stream("GET", f"{address}/gradio_api/heartbeat/someone", timeout=60) as held:
        assert held.status_code == 200
        for _ in range(presses - 1):
            program.process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        code, seconds = program.end(signal.SIGINT)
    said = program.log.read_text()
    assert code == 130 and seconds < 20
    assert list(program.temporary.iterdir()) == []
    assert re.fullmatch(
        r"The page is at http://127\.0\.0\.1:\d+/ \(Ctrl-C ends it\)\.\n"
        r"It reads pictures of one face each: faces are not detected \(--detector none\)\.\n",
        said,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_it_while_it_is_still_loading(start, number, code):
    program = start()
    end = time.monotonic() + 60
    # made when the port is taken, before anything large is loaded
    while not list(program.temporary.iterdir()):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert program.end(number)[0] == code, program.log.read_text()
    assert list(program.temporary.iterdir()) == [] and "Traceback" not in program.log.read_text()
