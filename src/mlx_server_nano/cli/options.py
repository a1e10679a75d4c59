"""Command-line options from the table of settings."""

from __future__ import annotations

import click

from mlx_server_nano.config import SETTINGS, Setting
from mlx_server_nano.config.client import URL_VARIABLE


def setting_options() -> list[click.Option]:
    """One option for each setting. Values stay text: `config.resolve` parses those of flags and environment alike."""
    return [_option(setting) for setting in SETTINGS]


def some_options(*names: str) -> list[click.Option]:
    """The options of these settings alone."""
    return [_option(setting) for setting in SETTINGS if setting.name in names]


def server_options() -> list[click.Option]:
    """How to reach a server that runs, for `config.connection`."""
    url = click.Option(
        ["url", "--url"],
        metavar="URL",
        help=f"The server to talk to. [env {URL_VARIABLE}, default http://127.0.0.1:8000, or MLX_SERVER_PORT there]",
    )
    key = click.Option(
        ["api_key", "--api-key"],
        metavar="KEY",
        help="A key of the server. Better the variable or a file. [env MLX_API_KEY]",
    )
    file = click.Option(
        ["api_key_file", "--api-key-file"],
        metavar="PATH",
        help="A file with a key; of several the first is sent. [env MLX_API_KEY_FILE]",
    )
    return [url, key, file]


def _option(setting: Setting) -> click.Option:
    declarations = [setting.name, setting.flag]
    notes = [] if setting.env is None else [f"env {setting.env}"]
    if setting.default_text:
        notes.append(f"default {setting.default_text}")
    text = f"{setting.help} [{', '.join(notes)}]" if notes else setting.help
    if not setting.metavar:
        return click.Option(declarations, is_flag=True, default=None, help=text)
    if setting.repeatable:
        return click.Option(declarations, metavar=setting.metavar, multiple=True, callback=_joined, help=text)
    return click.Option(declarations, metavar=setting.metavar, default=None, help=text)


def _joined(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> str | None:
    return ",".join(values) or None
