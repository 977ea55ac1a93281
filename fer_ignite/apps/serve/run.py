"""``run_service``: from a checkpoint or an .onnx file to a listening service."""

import socket
from collections.abc import Callable
from pathlib import Path

from fer_ignite.apps.web_server import (
    host_names,
    is_loopback,
    listen,
    open_network,
    serve,
    server_address,
)
from fer_ignite.imports import require_library
from fer_ignite.inference.photographs import built_in_detector
from fer_ignite.terminal import status

__all__ = ["run_service"]


def run_service(
    checkpoint: str | Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    faces: str = "auto",
    max_bytes: int = 20_000_000,
    max_images: int = 64,
    max_pixels: int = 100_000_000,
    per_minute: int = 600,
    device: str = "auto",
    model: str | None = None,
    tta: str | None = None,
    echo: Callable[[str], None] = print,
) -> int:
    """Serves predictions over HTTP until SIGINT or SIGTERM.

    Args:
        checkpoint: a checkpoint, a run's folder or an exported ``.onnx`` file; None = the network that comes with the package.
        port: 0 takes any free one.
        faces: "auto": the faces of whole photographs are found; "never": each picture is one face; "always".
        max_bytes, max_images, max_pixels, per_minute: see :class:`fer_ignite.apps.serve.application.ServiceLimits`.
        model, tta: see :func:`fer_ignite.inference.predictor.open_predictor`.
        echo: called with the service's address.
    Returns:
        The exit code: 130 or 143.
    Raises:
        ConfigError: FastAPI or uvicorn is not installed, or for "always" the detector's library; the port can't be taken.
        CheckpointError: the file can't be used.
    """
    # Starlette imports without python_multipart, and fails at the first form.
    for name in ("fastapi", "uvicorn", "python_multipart"):
        require_library(name, extra="serve", purpose="fer-ignite serve")

    if faces == "always":
        # Without the detector's library each request would be answered with 500.
        built_in_detector()

    def serve_on(listener: socket.socket) -> int:
        with status("loading the network"):
            # Imported with the port reserved: an occupied one is reported at once.
            from fer_ignite.apps.serve.application import ServiceLimits, build_application
            from fer_ignite.apps.serve.batcher import Batcher

            predictor, network = open_network(checkpoint, device=device, model=model, tta=tta)
            batcher = Batcher(predictor, faces=faces)
        application = build_application(
            batcher,
            network=network,
            limits=ServiceLimits(max_bytes, max_images, max_pixels, per_minute),
            hosts=host_names(listener),
        )
        address = server_address(listener)

        def on_ready() -> None:
            echo(f"The service is at {address}predict (also health, metrics); Ctrl-C ends it.")
            if not is_loopback(listener):
                echo(
                    "Others can reach it, without a password: put a proxy with one in front of it."
                )

        try:
            return serve(application, listener, on_ready=on_ready)
        finally:
            batcher.close()

    return listen(host, port, serve_on)
