"""`mlx-server-nano completion`: click's completion of commands, options and the names of models."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from mlx_server_nano.cli.app import PROGRAM, commands

_VARIABLE = f"_{PROGRAM.replace('-', '_').upper()}_COMPLETE"


def _completion(shell: str) -> None:
    """Print what makes a shell complete commands, options and models.

    \b
    bash, in ~/.bashrc:   eval "$(mlx-server-nano completion bash)"
    zsh, in ~/.zshrc:     eval "$(mlx-server-nano completion zsh)"
    fish:  mlx-server-nano completion fish > ~/.config/fish/completions/mlx-server-nano.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"there is no completion for {shell}")
    click.echo(kind(commands, {}, PROGRAM, _VARIABLE).source())


completion = click.Command(
    "completion",
    callback=_completion,
    params=[click.Argument(["shell"], type=click.Choice(["bash", "zsh", "fish"]))],
    help=_completion.__doc__,
)
