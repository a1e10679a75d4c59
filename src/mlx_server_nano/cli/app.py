"""The command `mlx-server-nano`. Commands are imported when they are called, so that `--help` and short commands start fast."""

from __future__ import annotations

import importlib
import sys
from typing import Final

import click
from click.shell_completion import CompletionItem

from mlx_server_nano import __version__

PROGRAM: Final = "mlx-server-nano"
DEFAULT_COMMAND: Final = "serve"

# Name to `module:attribute`.
COMMANDS: Final = {
    "serve": "mlx_server_nano.cli.serve:serve",
    "pull": "mlx_server_nano.cli.cached:pull",
    "list": "mlx_server_nano.cli.cached:list_command",
    "rm": "mlx_server_nano.cli.cached:rm",
    "ps": "mlx_server_nano.cli.running:ps",
    "load": "mlx_server_nano.cli.running:load_command",
    "stop": "mlx_server_nano.cli.running:stop",
    "chat": "mlx_server_nano.cli.chat:chat",
    "bench": "mlx_server_nano.cli.bench:bench",
    "doctor": "mlx_server_nano.cli.doctor:doctor",
    "service": "mlx_server_nano.cli.service:service",
    "completion": "mlx_server_nano.cli.completion:completion",
}


class Commands(click.Group):
    """Without a command's name, the arguments are those of the default command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{COMMANDS[cmd_name]} is no command")
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {name for param in self.get_params(ctx) for name in param.opts}
        if ctx.resilient_parsing and not args:
            return super().parse_args(ctx, args)  # a shell wants to know which commands there are
        if not args or (args[0].startswith("-") and args[0] not in own):
            args = [DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Options of the default command too."""
        default = self.get_command(ctx, DEFAULT_COMMAND)
        options = default.shell_complete(ctx, incomplete) if default and incomplete.startswith("-") else []
        return [*super().shell_complete(ctx, incomplete), *options]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The default command's options, then the commands."""
        default = self.get_command(ctx, DEFAULT_COMMAND)
        records = [
            record
            for param in (*(default.params if default else ()), *self.get_params(ctx))
            if (record := param.get_help_record(ctx)) is not None
        ]
        with formatter.section("Options"):
            formatter.write_dl(records)
        self.format_commands(ctx, formatter)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110},
    options_metavar="[OPTIONS]",
    subcommand_metavar="[COMMAND]",
)
@click.version_option(__version__, prog_name=PROGRAM)
def commands() -> None:
    """An OpenAI-compatible server for language models on MLX. Without a command it serves."""


def main(args: list[str] | None = None) -> None:
    """Run and exit: 0, 1 for a failure, 2 for arguments or settings that are unusable. Errors are one line on stderr."""
    try:
        result = commands.main(args, PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"{PROGRAM}: {' '.join(error.format_message().split())}", err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)  # interrupted before a server could handle the signal, as a shell reports it
    sys.exit(result if isinstance(result, int) else 0)
