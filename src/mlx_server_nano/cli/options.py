"""Command-line options from the table of settings."""

from __future__ import annotations

import click

from mlx_server_nano.config import SETTINGS, Setting


def setting_options() -> list[click.Option]:
    """One option for each setting. Values stay text: `config.resolve` parses those of flags and environment alike."""
    return [_option(setting) for setting in SETTINGS]


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
