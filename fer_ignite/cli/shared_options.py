"""Flags that several commands share; they need neither torch nor the configuration."""

from collections.abc import Callable, Sequence
from typing import Any

import click

__all__ = [
    "VIEWS",
    "cache_option",
    "checkpoint_options",
    "choice_option",
    "class_options",
    "combined",
    "count_option",
    "device_option",
    "faces_option",
    "json_option",
    "model_option",
    "scoring_options",
    "server_options",
    "split_option",
    "tta_option",
    "weights_option",
]

Decorator = Callable[[Any], Any]

VIEWS = ("none", "flip", "shift10", "shift18")


def combined(*options: Decorator) -> Decorator:
    """One decorator of several, whose flags are listed in ``--help`` in this order."""

    def decorate(function: Any) -> Any:
        """Adds the flags to a command's function."""
        # Decorators are applied from the last to the first.
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def choice_option(
    *names: str, choices: Sequence[str], default: str | None, text: str | None = None
) -> Decorator:
    """Decorator: a flag that takes one of some words; the help shows a default that is no None."""
    shown = default is not None
    return click.option(
        *names, type=click.Choice(choices), default=default, show_default=shown, help=text
    )


def count_option(
    flag: str, default: int | None, *, text: str, least: int = 1, most: int | None = None
) -> Decorator:
    """Decorator: a flag that takes a whole number; the help shows a default that is no None."""
    shown = default is not None
    return click.option(
        flag, type=click.IntRange(least, most), default=default, show_default=shown, help=text
    )


def split_option(*splits: str, text: str) -> Decorator:
    """Decorator: the split to score; val by default."""
    return choice_option("--split", choices=splits, default="val", text=text)


def faces_option(text: str) -> Decorator:
    """Decorator: whether faces are searched in pictures."""
    return choice_option("--faces", choices=("auto", "never", "always"), default="auto", text=text)


def server_options(port: int) -> Decorator:
    """Decorator: the address and the port that a server listens on."""
    host = click.option(
        "--host",
        default="127.0.0.1",
        show_default=True,
        help="Address to listen on; 0.0.0.0 lets others in, without a password.",
    )
    return combined(
        host, count_option("--port", port, least=0, most=65535, text="0 takes any free one.")
    )


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
tta_option = choice_option(
    "--tta", choices=VIEWS, default=None, text="Views averaged.  [default: the run's]"
)
device_option = choice_option(
    "--device",
    choices=("auto", "cpu", "cuda", "mps"),
    default="auto",
    text="Device; auto = CUDA, else MPS, else the CPU.",
)
model_option = click.option(
    "--model", metavar="MODULE:CLASS", help="The run's own network class again, where it had one."
)
weights_option = click.option(
    "--weights",
    metavar="W,W,...",
    help="Weights of the checkpoints of an ensemble (A,B,...).  [default: equal]",
)
cache_option = click.option("--cache", help="Folder of dataset caches.")

# How a checkpoint is opened for prediction.
checkpoint_options = combined(tta_option, device_option, model_option, weights_option)

# How checkpoints are opened and scored on their runs' data.
scoring_options = combined(
    tta_option,
    device_option,
    model_option,
    click.option(
        "--collate-fn",
        metavar="MODULE:NAME",
        help="The run's own function that makes batches again, where it had one.",
    ),
    cache_option,
)

# How other data is read, and how its classes meet the network's.
class_options = combined(
    click.option(
        "--layout", metavar="NAME", help="Layout of other data, as in train.  [default: recognised]"
    ),
    click.option(
        "--classes",
        help="Choose, rename or merge the data's classes: 'angry,happy,calm=neutral+sad'.",
    ),
    choice_option(
        "--bad-images",
        choices=("error", "skip"),
        default=None,
        text="Unusable images and csv rows: stop with a list of them, or skip them.  [default: the run's]",
    ),
    choice_option(
        "--unknown-classes",
        choices=("error", "drop"),
        default="error",
        text="Faces of classes that the network doesn't know: stop, or leave them out and count them.",
    ),
    click.option(
        "--restrict-classes",
        is_flag=True,
        help="Predict only classes that the data has; their probabilities are renormalised.",
    ),
)
