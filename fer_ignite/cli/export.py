"""``fer-ignite export``: a checkpoint as one checked file, with its model card."""

from typing import Any

import click

from fer_ignite.cli.shared_options import (
    VIEWS,
    cache_option,
    choice_option,
    count_option,
    json_option,
    model_option,
    weights_option,
)
from fer_ignite.cli.values import loading_torch, require_checkpoints, with_weights

__all__ = ["command"]


@click.command(
    "export",
    short_help="Write a checkpoint as ONNX, torch.export, OpenVINO, LiteRT, safetensors or a state dict.",
)
@click.argument("checkpoint")
@choice_option(
    "--format",
    "form",
    choices=("onnx", "torch-export", "openvino", "litert", "safetensors", "state-dict"),
    default="onnx",
    text="onnx, torch-export, openvino and litert hold the preprocessing and the softmax, the others weights alone.",
)
@click.option(
    "--out", metavar="FILE", help="The file.  [default: beside the checkpoint, under its name]"
)
@click.option(
    "--half", is_flag=True, help="Store weights as fp16; arithmetic stays fp32; not for litert."
)
@click.option("--int8", is_flag=True, help="Quantise, calibrated on train faces; onnx only.")
@count_option("--calibration-faces", 512, text="Train faces for --int8.")
@choice_option(
    "--tta",
    choices=VIEWS,
    default=None,
    text="Views averaged inside; shift10 takes ten times as long as none.  [default: the run's]",
)
@click.option(
    "--data", help="Data whose validation faces the file is checked on.  [default: the run's]"
)
@click.option("--votes", help="FER+ votes for that data.")
@count_option("--limit", 5000, text="Validation faces to check on, at most.")
@model_option
@weights_option
@cache_option
@click.option("--exist-ok", is_flag=True, help="Replace an older export and its card.")
@click.option("--quiet", is_flag=True, help="No report.")
@json_option
def command(checkpoint: str, as_json: bool, *, weights: str | None, **options: Any) -> int:
    """Write CHECKPOINT as one file for use elsewhere; classes, preprocessing and temperature are inside.

    The file is checked against the checkpoint on validation faces. In fp32 it is kept only if no probability differs by more
    than 0.001. With --half or --int8 it is kept whatever the difference, as long as its answers are finite numbers: the
    report says how far they are from the checkpoint's. Several checkpoints (A,B,C) become one file, an ensemble. A model card is written beside it. The test split is never read.
    """
    import json

    checkpoint = with_weights(checkpoint, weights)
    require_checkpoints([checkpoint])
    with loading_torch():
        from fer_ignite.apps.export.exporter import export_checkpoint

    result = export_checkpoint(checkpoint, **options)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    elif not options["quiet"]:
        click.echo(describe_export(result))
    return 0


def describe_export(result: dict[str, Any]) -> str:
    """The result for people."""
    check, accuracy = result["check"], result["check"]["accuracy"]
    faces = (
        check["source"] if check["drawn"] else f"{check['n']} validation faces of {check['source']}"
    )
    lines = [
        f"{result['file']}: {result['format']}, {result['weights']} weights, {result['bytes'] / 1e6:.2f} MB, views {result['tta']}",
        f"{result['card']}: its model card",
        f"checked against the checkpoint in fp32 on {faces}:",
        f"  largest difference of a probability {check['largest_difference']:.2g}, mean {check['mean_difference']:.2g}",
        f"  equal decisions {100 * check['equal_decisions']:.2f} %",
    ]
    if accuracy:
        low, high = accuracy["difference_interval"]
        lines.append(
            f"  accuracy {100 * accuracy['checkpoint']:.2f} % -> {100 * accuracy['export']:.2f} %, difference "
            f"{100 * accuracy['difference']:+.2f} points, 95 % interval {100 * low:+.2f} to {100 * high:+.2f} (paired bootstrap)"
        )
    else:
        lines.append("  accuracy: not measured on drawn faces")
    return "\n".join([*lines, *(f"note: {note}" for note in result["notes"])])
