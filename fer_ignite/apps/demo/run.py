"""Starts the demo: port, network, detector and page, served until a signal ends it."""

import functools
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_ignite.apps.demo.request_guard import RequestGuard
from fer_ignite.apps.web_server import (
    host_names,
    is_loopback,
    listen,
    open_browser,
    open_network,
    serve,
    server_address,
)
from fer_ignite.checkpoint.paths import require_checkpoint
from fer_ignite.errors import ConfigError
from fer_ignite.imports import require_library
from fer_ignite.terminal import status

if TYPE_CHECKING:
    from fer_ignite.apps.demo.request_guard import Application
    from fer_ignite.apps.faces.detection import Detector

__all__ = ["run_demo"]


def run_demo(
    checkpoint: str | Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    detector: str | None = None,
    device: str = "auto",
    model: str | None = None,
    tta: str | None = None,
    browser: bool = True,
    echo: Callable[[str], None] = print,
) -> int:
    """Serves the demo page until SIGINT or SIGTERM.

    Args:
        checkpoint: a checkpoint or an exported ``.onnx`` file; None = the network that ships with the package.
        port: 0 takes any free one.
        detector: of faces, as ``open_detector`` takes it; None = its default, and where that is not installed, as
            with "none", the page reads single faces.
        model, tta: see :func:`fer_ignite.inference.predictor.open_predictor`.
        browser: open a tab, where there is a screen.
        echo: called with the page's address, and what is missing, in sentences.
    Returns:
        The exit code: 130 or 143.
    Raises:
        ConfigError: Gradio is not installed, the port can't be taken, there is no such detector.
        CheckpointError: the file can't be used.
    """
    require_library("gradio", extra="demo", purpose="fer-ignite demo")

    def serve_on(listener: socket.socket) -> int:
        # Not TemporaryDirectory: a signal between its making the folder and the with block would leave the folder.
        folder = Path(tempfile.gettempdir(), f"fer-ignite-demo-{secrets.token_hex(8)}")
        # A second signal ends the process without the finally block: the uploads are removed first.
        forget = functools.partial(shutil.rmtree, folder, ignore_errors=True)
        try:
            folder.mkdir(mode=0o700)
            if checkpoint is not None:
                require_checkpoint(checkpoint)
            with status("loading the network and the page"):
                application, missing = _prepare(
                    checkpoint, folder, detector=detector, device=device, model=model, tta=tta
                )
            address = server_address(listener)

            def on_ready() -> None:
                for sentence in _opening(address, missing, alone=is_loopback(listener)):
                    echo(sentence)
                if browser:
                    open_browser(address)

            guard = RequestGuard(application, hosts=host_names(listener), folder=folder)
            return serve(guard, listener, on_ready=on_ready, on_kill=forget)
        finally:
            forget()

    return listen(host, port, serve_on)


def _prepare(
    checkpoint: str | Path | None, folder: Path, *, detector: str | None, **options: Any
) -> tuple["Application", str | None]:
    from fer_ignite.apps.demo.analyzer import ImageAnalyzer
    from fer_ignite.apps.demo.examples import draw_examples
    from fer_ignite.apps.faces.face_reader import FaceReader

    predictor, network = open_network(checkpoint, **options)
    found, missing = _detector(detector)
    reader = None if found is None else FaceReader(predictor, found)
    # After the network is opened: one of timm's hub may be fetched, which this forbids.
    _configure_gradio(folder)
    from fer_ignite.apps.demo.page import build_page

    return build_page(
        ImageAnalyzer(predictor, reader),
        draw_examples(),
        network=f"{network} (ships with the package)" if checkpoint is None else network,
        missing=missing,
        folder=folder,
    ), missing


def _detector(name: str | None) -> tuple["Detector | None", str | None]:
    """A detector, or why there is none; one that was requested by name must be there."""
    from fer_ignite.apps.faces.detection import open_detector

    if name == "none":
        return None, "faces are not detected (--detector none)."
    if name is not None:
        return open_detector(name), None
    try:
        return open_detector(), None
    except ConfigError as error:
        return None, str(error)


def _configure_gradio(folder: Path) -> None:
    """Sets what Gradio reads at import: no telemetry, no requests to its hub, and uploads in a folder that is deleted."""
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    os.environ["GRADIO_TEMP_DIR"] = str(folder.resolve())


def _opening(address: str, missing: str | None, *, alone: bool) -> list[str]:
    sentences = [f"The page is at {address} (Ctrl-C ends it)."]
    if missing is not None:
        sentences.append(f"It reads pictures of one face each: {missing}")
    if not alone:
        sentences.append(
            "Whoever reaches this machine can use the page: it has no password. Cameras work only here."
        )
    return sentences
