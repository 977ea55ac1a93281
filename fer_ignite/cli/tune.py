"""``fer-ignite tune``: hyperparameter search on the validation split."""

from typing import Any

import click

from fer_ignite.cli.options import ConfigCommand, config_options, layer_options, layered_settings
from fer_ignite.cli.shared_options import count_option, json_option
from fer_ignite.cli.values import loading_torch, require_data
from fer_ignite.config import check, parse_duration
from fer_ignite.errors import ConfigError

__all__ = ["command"]

# refused by the search, which continues by itself
_OF_ONE_RUN = ("exist_ok", "resume", "override", "score_test")


@click.command("tune", cls=ConfigCommand, short_help="Search for the best settings.")
@click.argument("space")
@count_option("--trials", 20, most=1_000_000, text="Trials in all, earlier ones included.")
@click.option(
    "--timeout", metavar="TIME", help="Begin no trial after this long, e.g. 90s, 15m, 1h30m."
)
@click.option(
    "--prune/--no-prune",
    default=True,
    show_default=True,
    help="Stop trials that are below the median at their epoch.",
)
@layer_options
@json_option
@config_options(hidden=_OF_ONE_RUN)
def command(
    space: str,
    trials: int,
    *,
    timeout: str | None,
    prune: bool,
    recipe: str | None,
    config_file: str | None,
    assignments: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> int:
    """Try settings from SPACE, a YAML file such as

    \b
      lr: {log: [0.0003, 0.03]}
      rotate: {float: [0, 30]}
      epochs: {int: [8, 24]}
      opt: [adamw, sgd]

    Each trial is a run in --out/--name, judged by --monitor on val; test is never looked at. The same command continues
    with an interrupted search, and started twice it works with two workers. best.yaml is for train --config.
    """
    import json

    given = layered_settings(recipe, config_file, assignments=assignments, flags=flags)
    config, seconds = check(given), parse_timeout(timeout)
    require_data([config.data])
    with loading_torch():
        from fer_ignite.apps.tune.search import TuneRequest, tune

    outcome = tune(
        config,
        TuneRequest(space=space, trials=trials, timeout_s=seconds, prune=prune),
        given=given,
        echo=lambda text: click.echo(text, err=True),
    )
    result = outcome.result
    assert result is not None  # a search that fails raises
    click.echo(json.dumps(result, indent=2) if as_json else trial_table(result))
    return outcome.exit_code


def parse_timeout(text: str | None) -> float | None:
    """Seconds out of ``90s`` or ``1h30m``.

    Raises:
        ConfigError: something else, or nothing above 0.
    """
    seconds = parse_duration(text)
    if seconds is not None and (not isinstance(seconds, float) or not 0 < seconds < float("inf")):
        raise ConfigError(f"--timeout {text}: give a time above 0, such as 90s, 15m or 1h30m.")
    return seconds


def trial_table(result: dict[str, Any]) -> str:
    """The search's outcome in lines."""
    counts = ", ".join(f"{count} {name}" for name, count in result["trials"].items() if count)
    lines = [f"trials      {counts or 'none'}"]
    if result["best"] is not None:
        best = result["best"]
        lines.append(
            f"best        {best['value']:.4f} on val, trial {best['trial']}, epoch {best['epoch']}"
        )
        lines += [f"  {name:15} {value}" for name, value in best["settings"].items()]
    if result["importance"]:
        lines.append(
            "importance  "
            + ", ".join(f"{name} {share:.2f}" for name, share in result["importance"].items())
        )
    return "\n".join([*lines, *result["files"]])
