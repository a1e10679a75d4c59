"""Flags over the environment over the configuration file over the defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mlx_server_nano.config.aliases import check
from mlx_server_nano.config.environment import environment
from mlx_server_nano.config.errors import SettingError
from mlx_server_nano.config.file import ConfigFile, read
from mlx_server_nano.config.settings import SETTINGS, Setting, Settings


def resolve(flags: Mapping[str, str | bool | None], variables: Mapping[str, str] | None = None) -> Settings:
    """Settings from flags (by setting name; None: not given) over the environment over the file that these name over the
    defaults.

    Raises SettingError for an unusable value or file, and for aliases that contradict each other.
    """
    told = given(flags, environment() if variables is None else variables)
    path = told.get("config")
    file = ConfigFile() if path is None else read(path)
    values = {**file.settings, **told}
    own = values.get("alias", ())
    values["alias"] = (*own, *((name, model) for name, model in file.aliases if name not in dict(own)))
    settings = Settings(**values, models=file.models)
    try:
        check(settings.alias, settings.model_map)
    except ValueError as error:
        raise SettingError(f"{path}: alias: {error}" if path and "alias" not in told else f"--alias: {error}") from None
    return settings


def given(
    flags: Mapping[str, str | bool | None], variables: Mapping[str, str], settings: Iterable[Setting] = SETTINGS
) -> dict[str, Any]:
    """What flags and variables say of these settings. Raises SettingError."""
    values: dict[str, Any] = {}
    for setting in settings:
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
    return values
