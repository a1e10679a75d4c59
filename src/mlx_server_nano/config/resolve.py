"""Flags over the environment over the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_server_nano.config import aliases
from mlx_server_nano.config.environment import environment
from mlx_server_nano.config.errors import SettingError
from mlx_server_nano.config.settings import SETTINGS, Settings


def resolve(flags: Mapping[str, str | bool | None], variables: Mapping[str, str] | None = None) -> Settings:
    """Settings from flags (by setting name; None: not given) over the environment over the defaults.

    Raises SettingError for an unusable value, and for aliases that contradict each other.
    """
    variables = environment() if variables is None else variables
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        raw = flags.get(setting.name)
        source = setting.flag
        if raw is None and setting.env is not None and setting.env in variables:
            raw, source = variables[setting.env], setting.env
        if raw is None:
            continue
        if isinstance(raw, bool):
            values[setting.name] = raw
            continue
        try:
            values[setting.name] = setting.parse(raw)
        except ValueError as error:
            raise SettingError(f"{source}: {'the value' if setting.secret else repr(raw)} is {error}") from None
    settings = Settings(**values)
    aliases.check(settings.alias, settings.model_map)
    return settings
