"""``fer-ignite evaluate``: metrics of checkpoints on data sets as a table, JSON, csv or a plot."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from fer_ignite.cli.evaluation_tables import cross_table, metric_table, robustness_text
from fer_ignite.cli.shared_options import (
    choice_option,
    class_options,
    count_option,
    scoring_options,
    split_option,
)
from fer_ignite.cli.values import (
    loading_torch,
    require_checkpoints,
    require_data,
    require_writable,
    with_weights,
)
from fer_ignite.errors import ConfigError

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
@split_option(
    "val",
    "test",
    "train",
    "all",
    text="test is scored only when requested, alone or within all; the run's test-access log counts those of its own test.",
)
@scoring_options
@click.option(
    "--weights",
    metavar="val|W,W,...",
    help="Weights of the checkpoints of an ensemble; val finds them on val.  [default: equal]",
)
@count_option("--nproc", None, text="Processes on this machine.  [default: 1]")
@count_option("--batch-size", None, text="Images per batch and process.  [default: the run's]")
@choice_option(
    "--precision",
    choices=("auto", "fp32", "fp16", "bf16"),
    default=None,
    text="Arithmetic.  [default: the run's]",
)
@count_option("--threads", None, text="CPU threads per process.  [default: cores over processes]")
@choice_option(
    "--start-method",
    choices=("spawn", "forkserver", "fork"),
    default="spawn",
    text="How processes start.",
)
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
    files = {"--json": json_file, "--plot": plot_file, "--predictions": predictions_file}
    for flag, file in files.items():
        require_writable(flag, file)
    with loading_torch():
        from fer_ignite.distributed import is_main_process, leave
        from fer_ignite.inference.evaluate import launch_evaluation
        from fer_ignite.inference.request import EvaluateRequest
    several = len(checkpoints) > 1 or len(sources) > 1
    if several and (plot_file or predictions_file):
        raise ConfigError(
            "--plot and --predictions are about one checkpoint on one data set; give one of each."
        )
    if weights == "val":
        checkpoints = [_fit_weights_on_val(name, options) for name in checkpoints]
    else:
        checkpoints = [with_weights(name, weights) for name in checkpoints]
    results = []
    for data, checkpoint in itertools.product(sources or (None,), checkpoints):
        outcome = launch_evaluation(
            EvaluateRequest(checkpoint, data=data, with_faces=bool(predictions_file), **options),
            nproc=nproc,
            threads=threads,
            start_method=start_method,
        )
        if outcome.exit_code or outcome.result is None:
            raise outcome.as_error()
        results.append(outcome.result)
    if is_main_process():
        # Taken out: --json holds figures, --predictions the single faces.
        outputs = results[0].pop("faces", None)
        if not options["quiet"] and json_file != "-":
            click.echo(cross_table(results) if several else metric_table(results[0]))
            for result in results if options["robustness"] else ():
                click.echo(f"\n{robustness_text(result)}")
        if json_file:
            _write_json({"results": results} if several else results[0], json_file)
        if predictions_file:
            _write_predictions(results[0], outputs, file=predictions_file)
        if plot_file:
            _draw(results[0], plot_file)
    # Not a return: under torchrun the interpreter's orderly exit aborts now and then (see leave).
    leave(outcome)


def _write_json(values: dict[str, Any], file: str) -> None:
    from fer_ignite.checkpoint.atomic_io import write_output

    text = json.dumps(values, indent=2)
    if file == "-":
        click.echo(text)
    else:
        write_output(file, text + "\n")


def _fit_weights_on_val(name: str, options: dict[str, Any]) -> str:
    from fer_ignite.checkpoint.paths import ensemble_members, ensemble_name
    from fer_ignite.inference.ensemble_weights import fit_ensemble_weights

    passed_on = ("tta", "model", "collate_fn", "device", "cache", "quiet")
    found = fit_ensemble_weights(name, **{option: options[option] for option in passed_on})
    shown = ",".join(f"{weight:.4g}" for weight in found)
    click.echo(f"weights found on val: --weights {shown}", err=True)
    # A member without weight would make no valid name, and change nothing.
    paths = [member.path for member in ensemble_members(name)]
    return ensemble_name(paths, [max(weight, 1e-6) for weight in found])


def _write_predictions(result: dict[str, Any], outputs: Any, *, file: str) -> None:
    from fer_ignite.inference.predictions import prediction_rows, write_predictions_csv

    rows = prediction_rows(outputs, result["class_names"], temperature=result["temperature"])
    write_predictions_csv(file, result["class_names"], rows=rows)


def _draw(result: dict[str, Any], file: str) -> None:
    from fer_ignite.training.plots import draw_confusion

    title = f"{result['split']}: {100 * result['accuracy']:.2f} %"
    draw_confusion(result["confusion_matrix"], result["class_names"], path=Path(file), title=title)
