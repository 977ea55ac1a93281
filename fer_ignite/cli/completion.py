"""``fer-ignite completion``: shell completion."""

import click
from click.shell_completion import get_completion_class

__all__ = ["command"]

_HOW = """\
\b
Load it in every new shell:
  bash   echo 'eval "$(fer-ignite completion bash)"' >> ~/.bashrc
  zsh    echo 'eval "$(fer-ignite completion zsh)"' >> ~/.zshrc
  fish   fer-ignite completion fish > ~/.config/fish/completions/fer-ignite.fish
"""


@click.command("completion", short_help="Completion for bash, zsh or fish.", epilog=_HOW)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Prints the script that completes fer-ignite's commands, options and choices in SHELL."""
    completion = get_completion_class(shell)
    assert completion is not None  # click has all three
    click.echo(
        # click derives the variable from the program's name and looks at no other.
        completion(ctx.find_root().command, {}, "fer-ignite", "_FER_IGNITE_COMPLETE").source()
    )
