"""Flags that several commands share; they need neither torch nor the configuration."""

import click

__all__ = ["cache_option", "collate_option", "device_option", "model_option", "tta_option"]

tta_option = click.option(
    "--tta",
    type=click.Choice(["none", "flip", "shift10", "shift18"]),
    help="Views averaged.  [default: the run's]",
)
device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True
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
