"""``fer-ignite evaluate``: metrics of a checkpoint as a table, JSON or a plot."""

import os
from pathlib import Path
from typing import Any

import click

from fer_ignite.cli.values import require_writable
from fer_ignite.errors import error_for_exit_code

__all__ = ["command"]


@click.command("evaluate", short_help="Score a checkpoint on a split.")
@click.argument("checkpoint")
@click.option("--data", help="Other data than the run's.  [default: the run's]")
@click.option("--votes", help="FER+ votes for that data.")
@click.option(
    "--split",
    type=click.Choice(["val", "test", "train"]),
    default="val",
    show_default=True,
    help="test is scored only when requested by name; the run's test-access log counts the looks.",
)
@click.option(
    "--tta",
    type=click.Choice(["none", "flip", "shift10", "shift18"]),
    help="Views averaged.  [default: the run's]",
)
@click.option("--nproc", type=click.IntRange(1), help="Processes on this machine.  [default: 1]")
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    help="Images per batch and process.  [default: the run's]",
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True
)
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
@click.option(
    "--model", metavar="MODULE:CLASS", help="The run's own network class again, where it had one."
)
@click.option(
    "--collate-fn",
    metavar="MODULE:NAME",
    help="The run's own function that makes batches again, where it had one.",
)
@click.option("--cache", help="Where packs are kept.")
@click.option(
    "--json", "json_file", metavar="OUT", help="Write the result as JSON; - for the terminal."
)
@click.option("--plot", "plot_file", metavar="OUT.png", help="Draw the confusion matrix.")
@click.option("--quiet", is_flag=True, help="No table.")
def command(
    checkpoint: str,
    nproc: int | None,
    threads: int | None,
    start_method: str,
    json_file: str | None,
    plot_file: str | None,
    **options: Any,
) -> None:
    """Score CHECKPOINT on the validation split of its run, or on other data.

    Every face counts once, for any number of processes. Classes are matched by name.
    """
    import json

    from fer_ignite.checkpoint.atomic_io import write_text_durably
    from fer_ignite.distributed import leave
    from fer_ignite.inference.evaluate import EvaluateRequest, launch_evaluation
    from fer_ignite.training.plots import draw_confusion

    require_writable("--json", json_file)
    require_writable("--plot", plot_file)
    outcome = launch_evaluation(
        EvaluateRequest(checkpoint, **options),
        nproc=nproc,
        threads=threads,
        start_method=start_method,
    )
    if outcome.exit_code or outcome.result is None:
        error = error_for_exit_code(outcome.exit_code)(outcome.message or outcome.status)
        error.exit_code = outcome.exit_code or 1
        raise error
    result = outcome.result
    if int(os.environ.get("RANK") or 0) == 0:
        if not options["quiet"] and json_file != "-":
            click.echo(metric_table(result))
        if json_file == "-":
            click.echo(json.dumps(result, indent=2))
        elif json_file:
            write_text_durably(json_file, json.dumps(result, indent=2) + "\n")
        if plot_file:
            title = f"{result['split']}: {100 * result['accuracy']:.2f} %"
            draw_confusion(
                result["confusion_matrix"], result["class_names"], Path(plot_file), title=title
            )
    leave(outcome)


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


def metric_table(result: dict[str, Any]) -> str:
    """The result for people: totals, a row per expression, the confusion matrix."""
    names = result["class_names"]
    width = max(len(name) for name in names)
    lines = [
        f"{result['checkpoint']} on {result['split']} of {result['data']}: {result['n']} faces, tta {result['tta']}",
        f"accuracy {100 * result['accuracy']:.2f} %   UAR {100 * result['uar']:.2f} %   macro F1 "
        f"{100 * result['macro_f1']:.2f} %   weighted F1 {100 * result['weighted_f1']:.2f} %   loss {result['loss']:.4f}",
        describe_confidence(result),
        "",
        f"{'':{width}}  precision  recall      F1  support",
    ]
    for name in names:
        row = result["per_class"][name]
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
