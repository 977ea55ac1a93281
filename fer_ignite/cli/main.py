"""Entry point ``fer-ignite``: command lookup, hints for unknown commands and flags, errors as one line and an exit code."""

import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Sequence

import click

import fer_ignite
from fer_ignite.checkpoint.atomic_io import is_storage_failure, shown
from fer_ignite.errors import FerError, StorageError, help_link
from fer_ignite.terminal import forbid_colours, styled

__all__ = ["main"]

# One line each, so that --help imports no command's module.
_COMMANDS = {
    "train": "Train a network; with no option, on drawn demo faces.",
    "evaluate": "Score checkpoints on data.",
    "compare": "Test whether one checkpoint is better than another.",
    "report": "A run, or several, as one HTML page.",
    "average": "Average the weights of checkpoints into one (model soup).",
    "find-lr": "Find a learning rate by a range test.",
    "tune": "Search for the best settings.",
    "predict": "Name the expressions in image files.",
    "demo": "A local page: pictures in, expressions out.",
    "serve": "An HTTP service: pictures in, JSON out.",
    "export": "Write a checkpoint as ONNX, torch.export, OpenVINO, LiteRT, safetensors or a state dict.",
    "audit": "Find copies, blanks and wrong labels in a data set.",
    "pack": "Read a data set once into a dataset cache.",
    "info": "Versions and devices; what a checkpoint, dataset cache or run holds.",
    "completion": "Completion for bash, zsh or fish.",
}

_FIRST_STEPS = """\
First steps:

\b
  fer-ignite demo                              a page to try the shipped network with your own pictures
  fer-ignite train                             demo faces, one to four minutes
  fer-ignite train --data fer2013.csv          the real thing, some minutes
  fer-ignite evaluate runs/NAME/checkpoints/best.pt
  fer-ignite predict runs/NAME/checkpoints/best.pt face.jpg
"""


def _switch_colours_off(ctx: click.Context, parameter: click.Parameter, given: bool) -> None:
    if given:
        forbid_colours()


_NO_COLOR = click.Option(
    ["--no-color"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_switch_colours_off,
    help="No colours; NO_COLOR=1 in the environment does the same.",
)


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        # On demand: importing all commands would take as long as the slowest of them.
        module = importlib.import_module(f"fer_ignite.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        # A command may be looked up several times in a process, and its object stays the same.
        if _NO_COLOR not in command.params:
            command.params.append(_NO_COLOR)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click's own would import every command's module for its first line of help.
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-"):
            near = difflib.get_close_matches(name, _COMMANDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_COMMANDS)}."
            raise click.UsageError(f"there is no command {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    epilog=_FIRST_STEPS,
    help=fer_ignite.__doc__.split("\n")[0],
)
@click.version_option(fer_ignite.__version__, prog_name="fer-ignite")
@click.pass_context
def program(ctx: click.Context) -> None:
    """Groups the commands; alone it shows what to do first."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program and ends the process with the exit codes of :mod:`fer_ignite.errors`."""
    _leave_if_final()
    # Pillow's warning above 89 MP: such an image is refused with a sentence of ours.
    warnings.filterwarnings("ignore", message=r"Image size .* exceeds limit")
    try:
        # standalone_mode=False: click would print errors in its own form and end with its own
        # codes.
        code = program.main(args=arguments, prog_name="fer-ignite", standalone_mode=False)
    except click.NoSuchOption as error:
        # Before UsageError, of which it is a kind.
        code = _print_error(_no_such_flag(error), 2)
    except click.UsageError as error:
        code = _print_error(error.format_message(), 2)
    except (click.exceptions.Abort, KeyboardInterrupt):
        code = _print_error("interrupted.", 130)
    except click.ClickException as error:
        code = _print_error(error.format_message(), 2)
    except FerError as error:
        code = _print_error(f"{error}{help_link(error)}", error.exit_code)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): nothing is left to say.
        _silence_stdout()
        code = 0
    except OSError as error:
        if not is_storage_failure(error):
            raise
        failed = _storage_error(error)
        code = _print_error(f"{failed}{help_link(failed)}", failed.exit_code)
    # With standalone_mode=False click returns what the command's function returns: a code or None.
    sys.exit(code if isinstance(code, int) else 0)


def _leave_if_final() -> None:
    # torchrun starts whatever fails again; an end that must not be repeated is repeated at once, without the work.
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        from fer_ignite.distributed import leave, previous_final_outcome

        outcome = previous_final_outcome()
        if outcome is not None:
            error = outcome.as_error()
            _print_error(f"{error}{help_link(error)}", outcome.exit_code)
            leave(outcome)


def _storage_error(error: OSError) -> StorageError:
    """Of what has no path of its own: standard output (`> FILE`), or a library's temporary file."""
    try:
        sys.stdout.flush()
    except OSError:
        _silence_stdout()
    place = shown(error.filename) if error.filename else "standard output or a temporary file"
    return StorageError(
        f"{place} can't be written: {error.strerror}; make room and give the command again."
    )


def _silence_stdout() -> None:
    """What is still in the buffer goes nowhere: the interpreter's flush at its exit would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _no_such_flag(error: click.NoSuchOption) -> str:
    """The flag that was meant: by what other trainers call the setting, else by spelling."""
    from fer_ignite.config import nearest_setting

    assert error.ctx is not None
    parameters = error.ctx.command.params
    positive = [flag for parameter in parameters for flag in parameter.opts]
    flags = positive + [flag for parameter in parameters for flag in parameter.secondary_opts]
    given = error.option_name.lstrip("-")
    # A switch that is to be off: --no-augmnt means --no-augment, not --augment.
    settings = [(sign, nearest_setting(given.removeprefix(sign))) for sign in ("no-", "")]
    meant = [
        flag
        for sign, setting in settings
        if given.startswith(sign)
        and setting is not None
        and (flag := f"--{sign}{setting.replace('_', '-')}") in flags
    ]
    # Among the positive ones: all negative ones look alike.
    near = meant or difflib.get_close_matches(error.option_name, positive, n=1)
    hint = f"did you mean {near[0]}?" if near else f"{error.ctx.command_path} --help lists them."
    return f"there is no flag {error.option_name}; {hint}"


def _print_error(message: str, code: int) -> int:
    text = " ".join(message.split())
    click.echo(f"{styled('fer-ignite:', 'error', stream=sys.stderr)} {text}", err=True)
    return code
