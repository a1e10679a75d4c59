"""Command-line options from the table of settings."""

from __future__ import annotations

import click

from mlx_server_nano.config import SETTINGS, Setting


def setting_options() -> list[click.Option]:
    """One option for each setting. Values stay text: `config.resolve` parses those of flags and environment alike."""
    return [_option(setting) for setting in SETTINGS]


def _option(setting: Setting) -> click.Option:
    declarations = [setting.name, setting.flag]
    text = setting.help
    notes = [] if setting.env is None else [f"env {setting.env}"]
    if isinstance(setting.default, bool):
        notes.append(f"default {'on' if setting.default else 'off'}")
        return click.Option(declarations, is_flag=True, default=None, help=f"{text} [{', '.join(notes)}]")
    if setting.default is not None:
        notes.append(f"default {_text(setting)}")
    help_text = f"{text} [{', '.join(notes)}]" if notes else text
    return click.Option(declarations, metavar=setting.metavar, default=None, help=help_text)


def _text(setting: Setting) -> str:
    if setting.metavar == "SIZE":
        return f"{setting.default >> 20}M"
    return f"{setting.default:g}" if isinstance(setting.default, float) else str(setting.default)
