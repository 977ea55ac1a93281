"""``fer-ignite serve``: HTTP service for predictions."""

from typing import Any

import click

from fer_ignite.cli.shared_options import (
    device_option,
    host_option,
    model_option,
    port_option,
    tta_option,
    weights_option,
)
from fer_ignite.cli.values import with_weights

__all__ = ["command"]


@click.command("serve", short_help="An HTTP service: pictures in, JSON out.")
@click.argument("checkpoint", required=False, metavar="[CKPT|MODEL.onnx]")
@host_option
@port_option(8000)
@click.option(
    "--faces",
    type=click.Choice(["auto", "never", "always"]),
    default="auto",
    show_default=True,
    help="auto: the faces of whole photographs are found; never: each picture is one face.",
)
@click.option(
    "--max-bytes",
    type=click.IntRange(1000),
    default=20_000_000,
    show_default=True,
    help="Bytes of a request.",
)
@click.option(
    "--max-images",
    type=click.IntRange(1, 10_000),
    default=64,
    show_default=True,
    help="Pictures of a request.",
)
@click.option(
    "--per-minute",
    type=click.IntRange(0),
    default=600,
    show_default=True,
    help="Requests per minute of one client; 0 = any number.",
)
@tta_option
@device_option
@model_option
@weights_option
def command(checkpoint: str | None, *, weights: str | None, **options: Any) -> int:
    """Answer POST /predict with the expressions in one or several pictures.

    \b
      curl -F files=@a.jpg -F files=@b.jpg http://127.0.0.1:8000/predict
      curl --data-binary @a.jpg -H 'content-type: image/jpeg' http://127.0.0.1:8000/predict

    The answer: {"results": [{"file", "error", "faces": [{"label", "probability", "probabilities", "box"}]}]}. CKPT is a
    checkpoint, a run's folder, or an .onnx file, which needs no torch; without it the network that ships with the package is
    used. GET /health and /metrics (Prometheus). No picture is written to a disk.
    """
    from fer_ignite.apps.serve.run import run_service

    if checkpoint is not None:
        checkpoint = with_weights(checkpoint, weights)
    return run_service(checkpoint, echo=click.echo, **options)
