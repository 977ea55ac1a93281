"""Flags generated from the configuration's fields."""

import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import click
from click.shell_completion import CompletionItem

from fer_ignite.cli.shared_options import combined
from fer_ignite.config import GROUPS, Config, field_facts, merged, parse_yaml, read_yaml
from fer_ignite.errors import ConfigError

__all__ = [
    "COMMON_SETTINGS",
    "ConfigCommand",
    "config_options",
    "given_settings",
    "layer_options",
    "layered_settings",
    "show_all_settings",
]


def config_options(*names: str, hidden: Sequence[str] = ()) -> Callable[[Any], Any]:
    """Decorator: the flags of the named settings, or of all of them.

    Args:
        hidden: settings that the command refuses in a sentence of its own, and that its help leaves out.
    """

    def decorate(function: Any) -> Any:
        # Decorators are applied from the last to the first; reversed, the help has the fields' order.
        for name in reversed(names or tuple(Config.model_fields)):
            function = click.option(
                *_flags(name), **_attributes(name), hidden=name in hidden, cls=_Setting
            )(function)
        return function

    return decorate


class _Setting(click.Option):
    """A flag of a setting; its help section is the setting's group."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Choices where the setting has them, else files where it takes a text, else nothing."""
        choices = _choices(Config.model_fields[str(self.name)].annotation)
        if choices:
            return [CompletionItem(choice) for choice in choices if choice.startswith(incomplete)]
        return [CompletionItem(incomplete, type="file")] if self.metavar == "TEXT" else []


def _flags(name: str) -> list[str]:
    flag = name.replace("_", "-")
    return [f"--{flag}/--no-{flag}" if _is_switch(name) else f"--{flag}", name]


def _is_switch(name: str) -> bool:
    return Config.model_fields[name].annotation is bool


def _attributes(name: str) -> dict[str, Any]:
    facts = field_facts(name)
    text = facts["help"]
    details = [_range(name), facts["unit"]]
    if "[default" not in text:
        default = facts["default"]
        shown = (
            {True: "on", False: "off"}.get(default, default)
            if isinstance(default, bool)
            else default
        )
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else shown
        details.append(f"default: {shown}" if shown not in (None, "", {}) else "default: none")
    described = "; ".join(part for part in details if part)
    attributes: dict[str, Any] = {
        # None says that the flag was not given: a default here would win over the file and the
        # recipe.
        "default": None,
        "help": f"{text}  [{described}]" if described else text,
    }
    if not _is_switch(name):
        # Values stay text: the configuration's own validation is the only one.
        attributes |= {"type": str, "metavar": _metavar(name), "multiple": facts["repeat"]}
    return attributes


def _metavar(name: str) -> str:
    choices = _choices(Config.model_fields[name].annotation)
    if choices:
        return "|".join(choices)
    kinds = _plain_types(Config.model_fields[name].annotation)
    return "INT" if int in kinds else "NUMBER" if float in kinds else "TEXT"


def _choices(annotation: Any) -> tuple[str, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _plain_types(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(part for option in get_args(annotation) for part in _plain_types(option))
    return (annotation,)


def _is_text(name: str) -> bool:
    field = Config.model_fields.get(name)
    return field is not None and {*_plain_types(field.annotation)} <= {str, type(None)}


def _range(name: str) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = []
    for constraint in Config.model_fields[name].metadata:
        for attribute, sign in signs.items():
            value = getattr(constraint, attribute, None)
            if value is not None:
                # With %g the bounds of the seeds would read 4.29497e+09 and 9.22337e+18.
                text = f"2^{math.log2(value):g}" if value >= 2**32 else f"{value:g}"
                bounds.append(f"{sign} {text}")
    return ", ".join(bounds)


def given_settings(values: Mapping[str, Any], assignments: tuple[str, ...] = ()) -> dict[str, Any]:
    """The settings given on the command line, as flags and as ``--set key=value``.

    Raises:
        ConfigError: an assignment without '=', or a setting given twice with different values.
    """
    # () is click's value of a repeatable flag that was not given.
    given = {name: value for name, value in values.items() if value is not None and value != ()}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"--set {assignment!r} assigns nothing; write --set key=value, e.g. --set lr=0.05."
            )
        key = key.strip().replace("-", "_")
        try:
            value = parse_yaml(text)
        except ValueError:
            # Text that is no YAML, such as the glob of --set freeze=*.bias.
            value = text
        # --set name=5, or =2026-11-30: the text as it was written, not YAML's number or date.
        if _is_text(key) and not isinstance(value, (str, list, dict, type(None))):
            value = text.strip()
        # A flag's value is text and that of --set is read as YAML: "3" and 3 don't differ.
        if key in given and given[key] != value and str(given[key]) != text:
            raise ConfigError(
                f"{key} is given twice, as {given[key]!r} and as {value!r}; keep one of them."
            )
        given[key] = value
    return given


# Settings from elsewhere than single flags.
layer_options = combined(
    click.option(
        "--recipe",
        metavar="NAME",
        help="Settings of a shipped recipe; fer-ignite info lists them.  [default: quick's, built in]",
    ),
    click.option("--config", "config_file", metavar="FILE", help="Settings from a YAML file."),
    click.option(
        "--set",
        "assignments",
        metavar="KEY=VALUE",
        multiple=True,
        help="Any setting by name; repeatable.",
    ),
)


def layered_settings(
    recipe: str | None,
    config_file: str | None,
    *,
    assignments: tuple[str, ...],
    flags: Mapping[str, Any],
) -> dict[str, Any]:
    """The settings that were given: by the recipe, over it the file's, over these the command line's.

    Raises:
        ConfigError: there is no such recipe or file, or one of them can't be read.
    """
    from fer_ignite.recipes import read_recipe

    return merged(
        read_recipe(recipe) if recipe else {},
        read_yaml(config_file) if config_file else {},
        given_settings(flags, assignments),
    )


# What --help shows of a command that takes all settings; --help-all shows the others too.
COMMON_SETTINGS = (
    "data",
    "classes",
    "votes",
    "model",
    "init_from",
    "image_size",
    "epochs",
    "batch_size",
    "opt",
    "lr",
    "weight_decay",
    "sched",
    "loss",
    "patience",
    "seed",
    "max_time",
    "name",
    "resume",
    "device",
    "precision",
    "nproc",
)
_HELP_ALL = "fer_ignite.help_all"


def show_all_settings(ctx: click.Context) -> None:
    """Has the help of this context's command show every setting."""
    # On the context: the command's object serves later calls in this process too.
    ctx.meta[_HELP_ALL] = True


def _print_all_help(ctx: click.Context, parameter: click.Parameter, given: bool) -> None:
    # Shell completion parses the line as well, and must print nothing else.
    if given and not ctx.resilient_parsing:
        show_all_settings(ctx)
        click.echo(ctx.get_help())
        ctx.exit()


class ConfigCommand(click.Command):
    """A command whose help groups flags by topic, and which refuses a flag given twice.

    One that takes all settings shows the common ones with ``--help``, and gets ``--help-all``.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        settings = {option.name for option in self.params if isinstance(option, _Setting)}
        self.takes_all = settings == set(Config.model_fields)
        if self.takes_all:
            flag = click.Option(
                ["--help-all"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_print_all_help,
                help=f"Show all {len(Config.model_fields)} settings and exit.",
            )
            self.params.append(flag)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Command": []}
        sections |= {group: [] for group in GROUPS}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                if (
                    self.takes_all
                    and isinstance(parameter, _Setting)
                    and parameter.name not in COMMON_SETTINGS
                    and not ctx.meta.get(_HELP_ALL)
                ):
                    continue
                group = (
                    field_facts(str(parameter.name))["group"]
                    if isinstance(parameter, _Setting)
                    else "Command"
                )
                sections[group].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records, col_max=34)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # click takes the last of two equal flags without a word, which hides mistakes in long commands.
        repeatable = {
            flag for p in self.get_params(ctx) if getattr(p, "multiple", False) for flag in p.opts
        }
        seen: set[str] = set()
        for argument in args:
            flag = argument.split("=", 1)[0]
            # --x and --no-x set the same.
            plain = flag.replace("--no-", "--", 1) if flag.startswith("--no-") else flag
            if argument == "--":
                break
            if flag.startswith("--") and flag not in repeatable:
                if plain in seen:
                    raise click.UsageError(f"{flag} is given twice; keep one of them.", ctx)
                seen.add(plain)
        return super().parse_args(ctx, args)
