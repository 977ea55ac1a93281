"""``fer-ignite evaluate``: metrics of checkpoints on data sets as a table, JSON, csv or a plot."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from fer_ignite.checkpoint.paths import ensemble_members
from fer_ignite.cli.shared_options import (
    cache_option,
    class_options,
    collate_option,
    device_option,
    model_option,
    tta_option,
)
from fer_ignite.cli.values import (
    loading_torch,
    require_checkpoints,
    require_data,
    require_writable,
    with_weights,
)
from fer_ignite.errors import ConfigError, error_for_exit_code

__all__ = ["command"]


@click.command("evaluate", short_help="Score checkpoints on data.")
@click.argument("checkpoints", nargs=-1, required=True, metavar="CKPT...")
@click.option(
    "--data",
    "sources",
    multiple=True,
    help="Other data than the run's; repeatable.  [default: the run's]",
)
@click.option("--votes", help="FER+ votes for that data.")
@class_options
@click.option(
    "--split",
    type=click.Choice(["val", "test", "train", "all"]),
    default="val",
    show_default=True,
    help="test is scored only when requested by name; the run's test-access log counts the looks at its own.",
)
@tta_option
@click.option(
    "--weights",
    metavar="val|W,W,...",
    help="Weights of the checkpoints of an ensemble; val finds them on val.  [default: equal]",
)
@click.option("--nproc", type=click.IntRange(1), help="Processes on this machine.  [default: 1]")
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    help="Images per batch and process.  [default: the run's]",
)
@device_option
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "fp16", "bf16"]),
    help="Arithmetic.  [default: the run's]",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="CPU threads per process.  [default: cores over processes]",
)
@click.option(
    "--start-method",
    type=click.Choice(["spawn", "forkserver", "fork"]),
    default="spawn",
    show_default=True,
)
@model_option
@collate_option
@cache_option
@click.option(
    "--json", "json_file", metavar="OUT", help="Write the result as JSON; - for the terminal."
)
@click.option(
    "--predictions",
    "predictions_file",
    metavar="OUT.csv",
    help="Write a line per face: id, split, label, predicted, a probability per class.",
)
@click.option(
    "--robustness",
    is_flag=True,
    help="Also score the faces under fixed corruptions: crops, scale, rotation, light, blur, noise, JPEG, small size, occlusion.",
)
@click.option("--plot", "plot_file", metavar="OUT.png", help="Draw the confusion matrix.")
@click.option("--quiet", is_flag=True, help="No table.")
def command(
    checkpoints: Sequence[str],
    sources: Sequence[str],
    *,
    nproc: int | None,
    threads: int | None,
    start_method: str,
    json_file: str | None,
    predictions_file: str | None,
    plot_file: str | None,
    weights: str | None,
    **options: Any,
) -> None:
    """Score checkpoints (or the best ones of runs' folders) on the validation split of their runs, or on other data.

    Every face counts once, for any number of processes. Faces of other sizes and colours are fitted to the network; classes are
    matched by name and meaning (anger = angry). Several checkpoints or data sets give one table. A,B,C (comma separated) is an
    ensemble: the mean of their probabilities.
    """
    require_checkpoints(checkpoints)
    require_data(sources)
    for flag, file in (
        ("--json", json_file),
        ("--plot", plot_file),
        ("--predictions", predictions_file),
    ):
        require_writable(flag, file)
    with loading_torch():
        from fer_ignite.checkpoint.atomic_io import write_text_durably
        from fer_ignite.distributed import leave
        from fer_ignite.inference.evaluate import EvaluateRequest, launch_evaluation

        if weights == "val":
            checkpoints = [_with_weights_of_val(name, options) for name in checkpoints]
        else:
            checkpoints = [with_weights(name, weights) for name in checkpoints]
    several = len(checkpoints) > 1 or len(sources) > 1
    if several and (plot_file or predictions_file):
        raise ConfigError(
            "--plot and --predictions are about one checkpoint on one data set; give one of each."
        )
    main = int(os.environ.get("RANK") or 0) == 0
    results = []
    for data in sources or (None,):
        for checkpoint in checkpoints:
            outcome = launch_evaluation(
                EvaluateRequest(
                    checkpoint, data=data, with_faces=bool(predictions_file), **options
                ),
                nproc=nproc,
                threads=threads,
                start_method=start_method,
            )
            if outcome.exit_code or outcome.result is None:
                error = error_for_exit_code(outcome.exit_code)(outcome.message or outcome.status)
                error.exit_code = outcome.exit_code or 1
                raise error
            results.append(outcome.result)
    if main:
        faces = results[0].pop("faces", None)
        shown = {"results": results} if several else results[0]
        if not options["quiet"] and json_file != "-":
            click.echo(cross_table(results) if several else metric_table(results[0]))
            for result in results if options["robustness"] else ():
                click.echo(f"\n{robustness_text(result)}")
        if json_file == "-":
            click.echo(json.dumps(shown, indent=2))
        elif json_file:
            write_text_durably(json_file, json.dumps(shown, indent=2) + "\n")
        if predictions_file:
            _write_predictions(results[0], faces, file=predictions_file)
        if plot_file:
            _draw(results[0], plot_file)
    leave(outcome)


def _with_weights_of_val(name: str, options: dict[str, Any]) -> str:
    from fer_ignite.checkpoint.paths import ensemble_name
    from fer_ignite.inference.evaluate import fit_ensemble_weights

    passed_on = ("tta", "model", "collate_fn", "device", "cache", "quiet")
    found = fit_ensemble_weights(name, **{option: options[option] for option in passed_on})
    shown = ",".join(f"{weight:.4g}" for weight in found)
    click.echo(f"weights found on val: --weights {shown}", err=True)
    # A member without weight would make no valid name, and change nothing.
    paths = [member.path for member in ensemble_members(name)]
    return ensemble_name(paths, [max(weight, 1e-6) for weight in found])


def _write_predictions(result: dict[str, Any], faces: Any, *, file: str) -> None:
    from fer_ignite.inference.predictions import prediction_rows, write_predictions_csv

    rows = prediction_rows(faces, result["class_names"], temperature=result["temperature"])
    write_predictions_csv(file, result["class_names"], rows=rows)


def _draw(result: dict[str, Any], file: str) -> None:
    from fer_ignite.training.plots import draw_confusion

    title = f"{result['split']}: {100 * result['accuracy']:.2f} %"
    draw_confusion(result["confusion_matrix"], result["class_names"], path=Path(file), title=title)


def cross_table(results: Sequence[dict[str, Any]]) -> str:
    """Accuracy and UAR in per cent of every checkpoint (a column each) on every data set (a row each)."""
    columns = list(dict.fromkeys(result["checkpoint"] for result in results))
    rows = list(dict.fromkeys((result["data"], result["split"]) for result in results))
    cells = {
        (result["data"], result["split"], result["checkpoint"]): (
            f"{100 * result['accuracy']:.2f} ({100 * result['uar']:.2f})"
        )
        for result in results
    }
    names = [_short_name(column) for column in columns]
    heads = [f"{Path(data).name or data}, {split}" for data, split in rows]
    first = max(map(len, [*heads, "accuracy % (UAR %)"]))
    widths = [max(len(name), 15) for name in names]
    lines = [
        f"{'accuracy % (UAR %)':{first}}"
        + "".join(f"  {name:>{width}}" for name, width in zip(names, widths, strict=True))
    ]
    for head, (data, split) in zip(heads, rows, strict=True):
        found = [cells.get((data, split, column), "-") for column in columns]
        lines.append(
            f"{head:{first}}"
            + "".join(f"  {cell:>{width}}" for cell, width in zip(found, widths, strict=True))
        )
    notes = [
        f"{_short_name(result['checkpoint'])} on {Path(result['data']).name}: {line}"
        for result in results
        for line in class_lines(result)
    ]
    return "\n".join([*lines, *([""] if notes else []), *dict.fromkeys(notes)])


def _short_name(checkpoint: str) -> str:
    """The run's name where the checkpoint lies in a run, else the file's; those of an ensemble joined by a plus."""
    paths = [Path(member.path) for member in ensemble_members(checkpoint)]
    return "+".join(
        path.parent.parent.name if path.parent.name == "checkpoints" else path.stem
        for path in paths
    )


def class_lines(result: dict[str, Any]) -> list[str]:
    """How the data's classes met the network's, where there is something to say."""
    lines = []
    if result["renamed"]:
        lines.append(f"classes: {result['renamed']}")
    if result["dropped"]:
        counts = ", ".join(f"{name} {count}" for name, count in result["dropped"].items())
        lines.append(f"left out, unknown to the network: {counts}")
    if result["absent"]:
        lines.append(
            f"not in the data: {', '.join(result['absent'])}; UAR and F1 are over the others"
        )
    if result["restricted"]:
        lines.append("only the data's classes could be predicted (--restrict-classes)")
    return lines


def describe_confidence(result: dict[str, Any]) -> str:
    """How sure the accuracy and the probabilities are, in one line."""
    low, high = result["accuracy_interval"]
    calibrated = (
        f"{100 * result['ece_calibrated']:.2f} % at temperature {result['temperature']:.2f}"
    )
    text = (
        f"95 % interval of the accuracy {100 * low:.2f} to {100 * high:.2f} %   calibration error {100 * result['ece']:.2f} %, "
        + (calibrated if result["calibrated"] else "not calibrated")
    )
    fresh = result.get("without_train_duplicates")
    if fresh is not None and fresh["n"] < result["n"]:
        text += f"\nwithout the {result['n'] - fresh['n']} faces that occur in train too: {100 * fresh['accuracy']:.2f} %"
    return text


def robustness_text(result: dict[str, Any]) -> str:
    """The robustness table for people: a row per corruption and severity, their mean and the calibration."""
    table = result["robustness"]
    width = max(
        len(f"{kind} {severity}")
        for kind, part in table["corruptions"].items()
        for severity in part
    )
    lines = [
        f"{_short_name(result['checkpoint'])} on {result['split']} under corruptions",
        f"{'':{width}}  accuracy     UAR  calibration error",
    ]

    def line(name: str, row: dict[str, float]) -> str:
        return f"{name:{width}}  {100 * row['accuracy']:7.2f}%  {100 * row['uar']:5.2f}%  {100 * row['ece']:16.2f}%"

    lines.append(line("clean", table["clean"]))
    for kind, part in table["corruptions"].items():
        lines += [line(f"{kind} {severity}", row) for severity, row in part.items()]
    lines.append(line("mean of the kinds", table["mean"]))
    if table["robust_temperature"] is not None:
        errors = table["robust_ece"]
        lines.append(
            f"at temperature {table['robust_temperature']:.2f}, fitted on all of these, the calibration error is "
            f"{100 * errors['clean']:.2f} % on clean faces and {100 * errors['mean']:.2f} % in the mean "
            f"(now, at {table['temperature']:.2f}: {100 * table['clean']['ece']:.2f} and {100 * table['mean']['ece']:.2f} %)"
        )
    return "\n".join(lines)


def metric_table(result: dict[str, Any]) -> str:
    """The result for people: totals, a row per expression, the confusion matrix."""
    names = result["class_names"]
    width = max(len(name) for name in names)
    lines = [
        f"{result['checkpoint']} on {result['split']} of {result['data']}: {result['n']} faces, tta {result['tta']}",
        f"accuracy {100 * result['accuracy']:.2f} %   UAR {100 * result['uar']:.2f} %   macro F1 "
        f"{100 * result['macro_f1']:.2f} %   weighted F1 {100 * result['weighted_f1']:.2f} %   loss {result['loss']:.4f}",
        describe_confidence(result),
        *class_lines(result),
        "",
        f"{'':{width}}  precision  recall      F1  support",
    ]
    for name in names:
        row = result["per_class"][name]
        if not row["support"]:
            lines.append(f"{name:{width}}  {'-':>9}  {'-':>6}  {'-':>6}  {0:7d}")
            continue
        lines.append(
            f"{name:{width}}  {100 * row['precision']:9.2f}  {100 * row['recall']:6.2f}  {100 * row['f1']:6.2f}  {row['support']:7d}"
        )
    cell = max(8, width + 1)
    lines += ["", f"{'true / predicted':{width}}" + "".join(f"{name:>{cell}}" for name in names)]
    head = max(width, len("true / predicted"))
    for name, row in zip(names, result["confusion_matrix"], strict=True):
        lines.append(f"{name:{head}}" + "".join(f"{count:>{cell}}" for count in row))
    if "test_evaluations" in result:
        lines += [
            "",
            f"the test split has been looked at {result['test_evaluations']} time(s) with this run's networks",
        ]
    return "\n".join(lines)
