"""``fer-ignite audit``: duplicates, blank images and likely label errors of a data set."""

from typing import Any

import click

from fer_ignite.cli.options import ConfigCommand, config_options, given_settings
from fer_ignite.cli.shared_options import (
    VIEWS,
    choice_option,
    count_option,
    device_option,
    json_option,
    model_option,
)
from fer_ignite.cli.values import FiniteRange, loading_torch, require_checkpoints, require_data
from fer_ignite.config import DATA_SETTINGS, check

__all__ = ["command"]

# Without votes, which here check the label scores and become no labels.
_DATA = (*DATA_SETTINGS, "quiet")


@click.command(
    "audit", cls=ConfigCommand, short_help="Find copies, blanks and wrong labels in a data set."
)
@click.argument("data")
@click.option(
    "--checkpoint",
    metavar="CKPT",
    help="Network that scores the labels.  [default: small networks, out of fold]",
)
@click.option(
    "--votes", metavar="CSV", help="FER+ votes to validate the label scores; they change no label."
)
@click.option(
    "--out",
    metavar="FOLDER",
    default="audit",
    show_default=True,
    help="Gets audit.csv, audit.html, audit.json.",
)
@click.option("--exist-ok", is_flag=True, help="Replace an audit that the folder holds.")
@count_option(
    "--folds",
    5,
    least=2,
    most=100,
    text="Small networks; each scores images that it was not trained on.",
)
@count_option("--epochs", 6, most=1000, text="Epochs of each.")
@click.option(
    "--labels/--no-labels",
    default=True,
    show_default=True,
    help="Score the labels; the rest takes seconds.",
)
@choice_option(
    "--label-method",
    choices=("own", "cleanlab"),
    default="own",
    text="Method that scores the labels; cleanlab needs the extra audit.",
)
@click.option(
    "--drop-above",
    type=FiniteRange(0, 1),
    default=0.7,
    show_default=True,
    help="Score from which a train label is marked to be dropped.",
)
@choice_option("--tta", choices=VIEWS, default="flip", text="Views averaged.")
@device_option
@model_option
@json_option
@config_options(*_DATA)
def command(data: str, checkpoint: str | None, *, as_json: bool, **options: Any) -> int:
    """Look at every image of DATA, in all splits.

    Finds exact and near copies (also cut, scaled or mirrored) within and across splits, copies with different labels,
    blank and broken images, and labels that are probably wrong. audit.csv has a row per image; train --exclude audit.csv
    leaves the train images out whose column drop says yes: edit it as you like.
    """
    import json

    settings = given_settings({name: options.pop(name) for name in _DATA})
    config = check({**settings, "data": data})
    require_data([data])
    require_checkpoints([checkpoint])
    with loading_torch():
        from fer_ignite.apps.audit.pipeline import AuditRequest, audit

    report = audit(config, AuditRequest(checkpoint=checkpoint, **options))
    click.echo(
        json.dumps(report, indent=2)
        if as_json
        else "\n".join([*report["sentences"], *report["files"]])
    )
    return 0
