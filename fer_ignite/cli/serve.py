"""``fer-ignite serve``: HTTP service for predictions."""

from typing import Any

import click

from fer_ignite.cli.shared_options import (
    checkpoint_options,
    count_option,
    faces_option,
    server_options,
)
from fer_ignite.cli.values import with_weights

__all__ = ["command"]


@click.command("serve", short_help="An HTTP service: pictures in, JSON out.")
@click.argument("checkpoint", required=False, metavar="[CKPT|MODEL.onnx]")
@server_options(8000)
@faces_option(
    "auto: the faces of whole photographs are found; never: each picture is one face; always: faces are searched in every picture."
)
@count_option("--max-bytes", 20_000_000, least=1000, text="Largest request, in bytes.")
@count_option("--max-images", 64, most=10_000, text="Most pictures in a request.")
@count_option("--max-pixels", 100_000_000, text="Most pixels of a request's pictures together.")
@count_option(
    "--per-minute", 600, least=0, text="Requests per minute of one client; 0 = any number."
)
@checkpoint_options
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

    checkpoint = with_weights(checkpoint, weights)
    return run_service(checkpoint, echo=click.echo, **options)
