"""``fer-ignite train``: settings from recipe, file and flags; one run or one per seed or fold."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import yaml

from fer_ignite.checkpoint.paths import require_entry
from fer_ignite.cli.options import ConfigCommand, config_options, layer_options, layered_settings
from fer_ignite.cli.shared_options import json_option
from fer_ignite.cli.values import loading_torch, require_data, require_writable
from fer_ignite.config import Config, check, json_schema
from fer_ignite.errors import CheckpointError, ConfigError, help_link
from fer_ignite.stores.store import is_url

if TYPE_CHECKING:
    from fer_ignite.distributed import Outcome

__all__ = ["command", "read_flags"]


@click.command("train", cls=ConfigCommand, short_help="Train a network.")
@layer_options
@click.option(
    "--print-config", is_flag=True, help="Print the whole resolved configuration and stop."
)
@click.option(
    "--print-schema",
    is_flag=True,
    help="Print the settings as a JSON schema, for editors, and stop.",
)
@click.option(
    "--plot-lr", metavar="FILE", help="Draw the learning-rate schedule to FILE (png) and stop."
)
@click.option(
    "--seeds",
    metavar="INT,INT,...",
    help="Train once per seed; mean and spread.  [default: --seed's one]",
)
@json_option
@config_options()
def command(
    recipe: str | None,
    config_file: str | None,
    *,
    assignments: tuple[str, ...],
    print_config: bool,
    print_schema: bool,
    plot_lr: str | None,
    seeds: str | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Train a network; with no option, on drawn demo faces.

    The run's folder, runs/NAME, gets checkpoints, history, pictures and summary.json. Precedence: flags and --set, then
    --config, then --recipe, then (with --resume) the checkpoint, then defaults.
    """
    if print_schema:
        click.echo(json.dumps(json_schema(), indent=2))
        return 0
    given = layered_settings(recipe, config_file, assignments=assignments, flags=flags)
    config = check(given)
    if print_config:
        click.echo(
            yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
            nl=False,
        )
        return 0
    require_data([config.data])
    _require_named_checkpoints(config)
    with loading_torch():
        from fer_ignite.distributed import leave
        from fer_ignite.runs import execute

    if plot_lr:
        require_writable("--plot-lr", plot_lr)
        from fer_ignite.runs.previews import plot_lr_schedule

        click.echo(plot_lr_schedule(config, plot_lr))
        return 0
    if seeds:
        outcome = execute.launch_seeds(config, given=given, seeds=parse_seeds(seeds))
    else:
        outcome = execute.launch_training(config, given=given)
    _print_outcome(outcome, quiet=config.quiet, as_json=as_json)
    leave(outcome)


def _require_named_checkpoints(config: Config) -> None:
    """Fails before torch is imported where nothing lies under ``--resume`` or ``--teacher``.

    Raises:
        CheckpointError: as the check of a file's content words it.
    """
    # Here: it imports numpy, which --help does without.
    from fer_ignite.distributed.torchrun import requeue_count, restart_count

    # A restarted job continues its own run, also where the checkpoint that it began with has been removed.
    if restart_count() or requeue_count():
        return
    resume = (str(config.resume),) if config.resumes_from_named else ()
    for flag, names in (("--resume", resume), ("--teacher", config.teacher)):
        for name in names:
            if is_url(name):
                continue
            try:
                require_entry(name)
            except CheckpointError as error:
                raise CheckpointError(f"{flag}: {error}") from None


def read_flags(arguments: Sequence[str]) -> dict[str, Any]:
    """The settings that flags of ``fer-ignite train`` give, for a launcher of one's own.

    Args:
        arguments: what would stand behind ``fer-ignite train``.
    Returns:
        Only what was given, recipe and file included; :func:`fer_ignite.config.check` makes the configuration of it.
    Raises:
        ConfigError: an unknown flag, one that doesn't set a training run's settings, or one without its value.
    """
    try:
        given = command.make_context("fer-ignite train", list(arguments)).params
    except click.UsageError as error:
        raise ConfigError(error.format_message()) from None
    except click.exceptions.Exit as ended:  # --help
        raise SystemExit(ended.exit_code) from None
    recipe, file, assignments = (
        given.pop(name) for name in ("recipe", "config_file", "assignments")
    )
    for name in sorted(set(given) - set(Config.model_fields)):
        if given.pop(name):
            flag = "--json" if name == "as_json" else "--" + name.replace("_", "-")
            raise ConfigError(
                f"{flag} is of fer-ignite train itself and sets nothing; leave it out."
            )
    return layered_settings(recipe, file, assignments=assignments, flags=given)


def _print_outcome(outcome: "Outcome", *, quiet: bool, as_json: bool) -> None:
    from fer_ignite.distributed import is_main_process

    result = outcome.result
    if outcome.message:
        link = help_link(outcome.as_error()) if outcome.exit_code else ""
        click.echo(f"fer-ignite: {outcome.message}{link}", err=True)
    # With --quiet the run's logger prints no result, so that the lines come from here.
    if quiet and result is not None and "status" in result and is_main_process():
        from fer_ignite.runs.banner import result_lines

        click.echo("\n".join(result_lines(result)), err=True)
    if outcome.exit_code == 0 and result is not None and {"seeds", "folds"} & set(result):
        click.echo(runs_table(result), err=True)
    if as_json and is_main_process():
        ending = {name: getattr(outcome, name) for name in ("exit_code", "status", "message")}
        click.echo(json.dumps({**ending, **(result or {})}, default=str))


def parse_seeds(text: str) -> list[int]:
    """Seeds out of ``0,1,2``.

    Raises:
        ConfigError: something else, or a seed twice.
    """
    parts = [part.strip() for part in text.split(",")]
    seeds = [int(part) for part in parts if part.isdecimal()]
    # Fewer where a part is no number, and where a seed occurs twice.
    if len(set(seeds)) < len(parts):
        raise ConfigError(
            f"--seeds {text!r} is no list of different whole numbers; write --seeds 0,1,2."
        )
    return seeds


def runs_table(result: dict[str, Any]) -> str:
    """Mean and standard deviation over seeds or folds, a line per split."""
    kind = "seeds" if "seeds" in result else "folds"
    lines = [f"{kind} {', '.join(map(str, result[kind]))}: mean +- standard deviation"]
    for split in ("val", "test"):
        if split in result:
            values = "   ".join(
                f"{name} {100 * m:.2f} +- {100 * s:.2f} %"
                for name, (m, s) in result[split].items()
                if name != "loss"
            )
            lines.append(f"{split:5} {values}")
        if (scores := result.get("ensemble", {}).get(split)) is not None:
            lines.append(
                f"{split:5} ensemble of {len(result['folders'])}: accuracy {100 * scores['accuracy']:.2f} %   "
                f"uar {100 * scores['uar']:.2f} %   macro_f1 {100 * scores['macro_f1']:.2f} %"
            )
    return "\n".join(lines)
