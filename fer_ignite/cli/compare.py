"""``fer-ignite compare A B``: paired comparison of two checkpoints on the same images."""

from typing import Any

import click

from fer_ignite.cli.shared_options import class_options, json_option, scoring_options, split_option
from fer_ignite.cli.values import loading_torch, require_checkpoints

__all__ = ["command"]


@click.command("compare", short_help="Test whether one checkpoint is better than another.")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--data", help="Other data than A's run's.  [default: A's]")
@split_option(
    "val",
    "test",
    text="test is scored only when requested by name; both runs' test-access logs count the evaluation.",
)
@class_options
@scoring_options
@json_option
def command(first: str, second: str, *, as_json: bool, **options: Any) -> int:
    """Score checkpoints A and B on the same faces: McNemar's test and a paired bootstrap interval of the difference."""
    import json

    require_checkpoints((first, second))
    with loading_torch():
        from fer_ignite.inference.comparison import compare

    result = compare(first, second, **options)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return 0
    low, high = result["difference_interval"]
    a, b = result["a"], result["b"]
    click.echo(
        f"{result['split']} of {result['data']}, {result['n']} faces\n"
        f"A {a['checkpoint']}: {100 * a['accuracy']:.2f} %\n"
        f"B {b['checkpoint']}: {100 * b['accuracy']:.2f} %\n"
        f"A - B {100 * result['difference']:+.2f} points, 95 % interval {100 * low:+.2f} to {100 * high:+.2f} (paired bootstrap)\n"
        f"only A right on {result['only_a']}, only B on {result['only_b']}; McNemar's exact p = {result['p']:.4f}"
    )
    return 0
