"""Flags that several commands share; they need neither torch nor the configuration."""

from typing import Any

import click

__all__ = [
    "cache_option",
    "class_options",
    "collate_option",
    "device_option",
    "host_option",
    "model_option",
    "port_option",
    "tta_option",
    "weights_option",
]

host_option = click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0 lets others in, without a password.",
)


def port_option(default: int) -> Any:
    """Decorator: the port that a server listens on."""
    return click.option(
        "--port",
        type=click.IntRange(0, 65535),
        default=default,
        show_default=True,
        help="0 takes any free one.",
    )


tta_option = click.option(
    "--tta",
    type=click.Choice(["none", "flip", "shift10", "shift18"]),
    help="Views averaged.  [default: the run's]",
)
device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True
)
weights_option = click.option(
    "--weights",
    metavar="W,W,...",
    help="Weights of the checkpoints of an ensemble (A,B,...).  [default: equal]",
)
model_option = click.option(
    "--model", metavar="MODULE:CLASS", help="The run's own network class again, where it had one."
)
collate_option = click.option(
    "--collate-fn",
    metavar="MODULE:NAME",
    help="The run's own function that makes batches again, where it had one.",
)
cache_option = click.option("--cache", help="Folder of packed data sets.")


def class_options(function: Any) -> Any:
    """Decorator: how other data is read, and how its classes meet the network's."""
    for option in (
        click.option(
            "--restrict-classes",
            is_flag=True,
            help="Predict only classes that the data has; their probabilities are renormalised.",
        ),
        click.option(
            "--unknown-classes",
            type=click.Choice(["error", "drop"]),
            default="error",
            show_default=True,
            help="Faces of classes that the network doesn't know: stop, or leave them out and count them.",
        ),
        click.option(
            "--classes",
            help="Choose, rename or merge the data's classes: 'angry,happy,calm=neutral+sad'.",
        ),
        click.option(
            "--layout",
            metavar="NAME",
            help="Layout of other data, as in train.  [default: recognised]",
        ),
    ):
        function = option(function)
    return function
