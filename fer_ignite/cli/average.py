"""``fer-ignite average``: one checkpoint out of several, by averaging their weights."""

import json
from collections.abc import Sequence
from typing import Any

import click

from fer_ignite.cli.shared_options import (
    cache_option,
    choice_option,
    device_option,
    json_option,
    model_option,
)
from fer_ignite.cli.values import loading_torch, require_checkpoints, require_writable

__all__ = ["command"]


@click.command("average", short_help="Average the weights of checkpoints into one (model soup).")
@click.argument("checkpoints", nargs=-1, required=True, metavar="CKPT CKPT...")
@click.option("--out", required=True, metavar="FILE.pt", help="The checkpoint to write.")
@choice_option(
    "--method",
    choices=("greedy", "uniform"),
    default="greedy",
    text="greedy keeps a checkpoint in the average if val's accuracy does not fall; uniform averages all.",
)
@device_option
@model_option
@cache_option
@click.option("--exist-ok", is_flag=True, help="Replace an older file.")
@click.option("--quiet", is_flag=True, help="No table.")
@json_option
def command(checkpoints: Sequence[str], out: str, *, as_json: bool, **options: Any) -> int:
    """Write one checkpoint whose weights are the mean of several, of one run (train --keep-best 5) or of runs from one start.

    Batch statistics are computed again on train images, and the temperature is fitted again on val. Test is never read. The
    result is a checkpoint as any other, as fast as one of its parts. For networks that don't fit together, average their
    probabilities instead: evaluate A,B,C.
    """
    require_checkpoints(checkpoints)
    require_writable("--out", out)
    with loading_torch():
        from fer_ignite.inference.average import average_checkpoints

    result = average_checkpoints(checkpoints, out, **options)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    elif not options["quiet"]:
        for member in result["members"]:
            used = "averaged" if member["used"] else "left out"
            click.echo(f"{100 * member['accuracy']:6.2f} %  {used:8}  {member['checkpoint']}")
        click.echo(f"{100 * result['accuracy']:6.2f} %  on val, {result['file']}")
    return 0
