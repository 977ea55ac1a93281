"""``fer-ignite demo``: local web page for predictions."""

from typing import Any

import click

from fer_ignite.cli.shared_options import checkpoint_options, server_options
from fer_ignite.cli.values import with_weights

__all__ = ["command"]


@click.command("demo", short_help="A local page: pictures in, expressions out.")
@click.argument("checkpoint", required=False, metavar="[CKPT]")
@server_options(7860)
@click.option(
    "--browser/--no-browser",
    default=True,
    show_default=True,
    help="Open a tab, where there is a screen.",
)
@click.option(
    "--detector",
    metavar="NAME|MODULE:FUNCTION",
    help="Face detector; none switches the detection off.  [default: the extra's]",
)
@checkpoint_options
def command(checkpoint: str | None, *, weights: str | None, **options: Any) -> int:
    """Open a page on this machine: upload or paste a picture, use the camera, or try an example.

    CKPT is a run's checkpoint, or an .onnx file that `fer-ignite export` has written; without it the network that ships
    with the package is used. Nothing is fetched from the network, and pictures are deleted at the end. Ctrl-C ends it.
    """
    from fer_ignite.apps.demo.run import run_demo

    checkpoint = with_weights(checkpoint, weights)
    return run_demo(checkpoint, echo=click.echo, **options)
