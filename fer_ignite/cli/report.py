"""``fer-ignite report``: HTML report of one run or of several."""

import json
from collections.abc import Sequence
from typing import Any

import click

from fer_ignite.cli.shared_options import class_options, json_option, scoring_options, split_option
from fer_ignite.cli.values import loading_torch, require_checkpoints, require_writable
from fer_ignite.errors import ConfigError

__all__ = ["command"]


@click.command("report", short_help="A run, or several, as one HTML page.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN|CKPT...")
@click.option(
    "--out",
    metavar="FILE.html",
    help="Where to.  [default: report.html in the run; comparison.html here for several]",
)
@split_option(
    "val",
    "test",
    "train",
    text="test is scored only when requested by name; the run's test-access log counts the evaluations.",
)
@click.option("--data", help="Other data than the run's.  [default: the run's]")
@click.option("--votes", help="FER+ votes to show beside faces.  [default: the run's, if any]")
@class_options
@scoring_options
@click.option(
    "--robustness",
    is_flag=True,
    help="Also score the faces under fixed corruptions, and show the table; one run's page only.",
)
@json_option
def command(runs: Sequence[str], out: str | None, *, as_json: bool, **options: Any) -> int:
    """Write one self-contained page about a run folder, a checkpoint or an ensemble (A,B,C); about several, a comparison.

    It opens in any browser, fetches nothing, and can be sent to others: note that it holds pictures of faces.
    """
    require_writable("--out", out)
    require_checkpoints(runs)
    if options["robustness"] and len(runs) > 1:
        raise ConfigError(
            "--robustness is for the page of one run; name one, or evaluate A B --robustness."
        )
    with loading_torch():
        from fer_ignite.apps.report.page import write_report

    written = write_report(runs, out=out, **options)
    if as_json:
        click.echo(json.dumps(written, default=str))
        return 0
    click.echo(
        "\n".join([*written["sentences"], f"{written['file']} ({written['bytes'] / 1e6:.1f} MB)"])
    )
    return 0
