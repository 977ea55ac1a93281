"""``fer-ignite find-lr``: learning-rate range test."""

from typing import Any

import click

from fer_ignite.cli.options import ConfigCommand, config_options, layer_options, layered_settings
from fer_ignite.cli.shared_options import count_option, json_option
from fer_ignite.cli.values import loading_torch, require_data, require_writable
from fer_ignite.config import check

__all__ = ["command"]


@click.command("find-lr", cls=ConfigCommand, short_help="Find a learning rate by a range test.")
@layer_options
@click.option(
    "--plot", metavar="FILE", default="find-lr.png", show_default=True, help="The curve as PNG."
)
@count_option("--iterations", 200, least=20, most=100_000, text="Optimizer steps of the test.")
@click.option(
    "--start-lr", type=float, default=1e-6, show_default=True, help="Rate of the first step."
)
@click.option(
    "--end-lr", type=float, default=10.0, show_default=True, help="Rate of the last step."
)
@json_option
@config_options(hidden=("resume",))
def command(
    recipe: str | None,
    config_file: str | None,
    *,
    assignments: tuple[str, ...],
    plot: str,
    iterations: int,
    start_lr: float,
    end_lr: float,
    as_json: bool,
    **flags: Any,
) -> int:
    """Train for some steps with a learning rate that rises until the loss explodes; suggest the rate of the steepest fall.

    Takes the settings of train. Only train images are read, and nothing is kept but the picture.
    """
    import json

    require_writable("--plot", plot)
    config = check(layered_settings(recipe, config_file, assignments=assignments, flags=flags))
    require_data([config.data])
    with loading_torch():
        from fer_ignite.apps.tune.lr_finder import find_lr

    found = find_lr(config, plot=plot, iterations=iterations, start_lr=start_lr, end_lr=end_lr)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return 0
    end = (
        "it exploded there"
        if found["diverged"]
        else f"it never exploded: a higher --end-lr than {end_lr:g} may show more"
    )
    click.echo(
        f"suggestion  --lr {found['suggestion']:.2g}, where the loss falls fastest ({found['opt']}, batches of {found['batch_size']})\n"
        f"lowest      at {found['lowest']:.2g}, after {found['iterations']} steps; {end}\n"
        f"{plot}"
    )
    return 0
