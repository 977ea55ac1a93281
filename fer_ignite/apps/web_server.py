"""HTTP server of demo and serve: reserves the port first; Ctrl-C and SIGTERM end it at once."""

import ipaddress
import logging
import os
import re
import signal
import socket
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import TYPE_CHECKING, Any

from fer_ignite.checkpoint.paths import network_title
from fer_ignite.data.images import printable
from fer_ignite.distributed.signals import Terminated, raise_on_sigterm
from fer_ignite.errors import ConfigError

if TYPE_CHECKING:
    from fer_ignite.inference.predictor import Predictor

__all__ = [
    "host_names",
    "is_loopback",
    "listen",
    "open_browser",
    "open_network",
    "reserve_port",
    "serve",
    "server_address",
    "strip_port",
]

_ENDING = (signal.SIGINT, signal.SIGTERM)
# An open page holds a stream: a shutdown that waited for it would never end.
_PATIENCE_S = 1


def listen(host: str, port: int, serve_on: Callable[[socket.socket], int]) -> int:
    """Reserves a port and serves on it.

    Args:
        serve_on: loads the network and serves until a signal; returns the exit code.
    Returns:
        That exit code; 143 where SIGTERM came while the network was loaded.
    Raises:
        ConfigError: see :func:`reserve_port`.
    """
    try:
        # Until uvicorn listens for it, SIGTERM would end the process and leave the demo's uploads.
        with raise_on_sigterm(), reserve_port(host, port) as listener:
            return serve_on(listener)
    except Terminated:
        return 128 + signal.SIGTERM


def open_network(checkpoint: str | Path | None, **options: Any) -> "tuple[Predictor, str]":
    """A predictor and its name for people; None opens the network that ships with the package.

    Args:
        options: see :func:`fer_ignite.inference.predictor.open_predictor`.
    """
    from fer_ignite.inference.predictor import open_predictor
    from fer_ignite.weights import shipped_checkpoint

    path = shipped_checkpoint() if checkpoint is None else checkpoint
    return open_predictor(path, **options), printable(network_title(path))


def reserve_port(host: str, port: int) -> socket.socket:
    """A listening socket; who calls before the page is ready waits.

    Args:
        port: 0 takes any free one.
    Raises:
        ConfigError: the port is in use or not allowed, or no interface of this machine has the address.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError):
        raise ConfigError(
            f"--host {host} is no address of this machine; leave it out for 127.0.0.1."
        ) from None
    try:
        if os.name == "posix":  # elsewhere this would let two programs share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(128)
    except OSError as error:
        listener.close()
        reason = (error.strerror or "can't be taken").lower()
        raise ConfigError(
            f"port {port} of {host}: {reason}; name another with --port, 0 for any free one."
        ) from None
    return listener


def server_address(listener: socket.socket) -> str:
    """Where a browser on this machine finds the page."""
    host, port = listener.getsockname()[:2]
    # Browsers need not open a wildcard address.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches the socket."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def host_names(listener: socket.socket) -> frozenset[str]:
    """The names by which a loopback page is called; empty, any name, for one that others reach."""
    return (
        frozenset({"localhost", "127.0.0.1", "::1", listener.getsockname()[0]})
        if is_loopback(listener)
        else frozenset()
    )


def strip_port(host: str) -> str:
    """The name in a Host header: ``[::1]:7860`` -> ``::1``; ``localhost:7860`` -> ``localhost``."""
    found = re.fullmatch(r"\[(.*)\](?::\d+)?|([^:]*)(?::\d+)?", host)
    return (found[1] or found[2] or "").lower() if found else host


def serve(
    application: Any,
    listener: socket.socket,
    *,
    on_ready: Callable[[], None],
    on_kill: Callable[[], None] = lambda: None,
) -> int:
    """Serves until SIGINT or SIGTERM.

    Args:
        application: ASGI.
        on_kill: tidies up before a second signal ends the process at once.
    Returns:
        The exit code: 130 or 143.
    """
    import uvicorn

    class Server(uvicorn.Server):
        ended_by = signal.SIGTERM
        should_exit: bool

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            on_ready()

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            # uvicorn's own raises the signal again at the end, which would end this process before it has tidied up.
            previous = {number: signal.signal(number, self.note) for number in _ENDING}
            try:
                yield
            finally:
                for number, handler in previous.items():
                    signal.signal(number, handler)

        def note(self, number: int, _: FrameType | None) -> None:
            if self.should_exit:
                on_kill()
                os._exit(128 + number)
            self.ended_by, self.should_exit = signal.Signals(number), True

    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    # h11: refuses a repeated Host and conflicting lengths itself.
    config = uvicorn.Config(
        application,
        http="h11",
        log_config=None,
        access_log=False,
        # No websockets: the demo's request guard checks HTTP requests only.
        ws="none",
        timeout_graceful_shutdown=_PATIENCE_S,
        server_header=False,
    )
    server = Server(config)
    server.run(sockets=[listener])
    return 128 + server.ended_by


def open_browser(address: str) -> None:
    """Opens a browser's tab where there is a screen; elsewhere ``webbrowser`` would put a text browser into the terminal."""
    if (
        os.name == "posix"
        and os.uname().sysname == "Linux"
        and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ)
    ):
        return
    Thread(target=webbrowser.open, args=(address,), daemon=True).start()
