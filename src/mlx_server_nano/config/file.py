"""The configuration file (TOML): every setting under its flag's name, and a table `[models."NAME"]` for a model."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mlx_server_nano.config.errors import SettingError
from mlx_server_nano.config.models import MODEL_KEYS, ModelOptions, build
from mlx_server_nano.config.settings import SETTINGS

_MODELS: Final = "models"
_ALIAS: Final = "alias"


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """settings: values by the settings' names. aliases: what the models' tables call their models besides. models: the tables,
    by the names that they stand under."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    aliases: tuple[tuple[str, str], ...] = ()
    models: tuple[tuple[str, ModelOptions], ...] = ()


def read(path: Path) -> ConfigFile:
    """Raises SettingError, which names the file and the key at fault."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # neither UTF-8 nor TOML
        raise SettingError(f"{path}: {error}") from None
    try:
        return _file(content)
    except ValueError as error:
        raise SettingError(f"{path}: {error}") from None


def _file(content: dict[str, Any]) -> ConfigFile:
    tables = content.pop(_MODELS, {})
    settings = {setting.key: setting for setting in SETTINGS if setting.in_file}
    _refuse_unknown(content, (*settings, _MODELS))
    values = {}
    for key, value in content.items():
        try:
            values[settings[key].name] = settings[key].read(value)
        except ValueError as error:
            shown = "the value" if settings[key].secret else _shown(value)
            raise ValueError(f"{key}: {shown} is {error}") from None
    aliases, models = _models(tables)
    if twice := {name for name, _ in values.get(_ALIAS, ())} & {name for name, _ in aliases}:
        raise ValueError(f"{_ALIAS}: {min(twice)!r} is an alias in a model's table too")
    return ConfigFile(values, aliases, models)


def _models(tables: Any) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, ModelOptions], ...]]:
    if not isinstance(tables, dict):
        raise ValueError(f'{_MODELS}: not tables such as [{_MODELS}."mlx-community/Qwen3-4B-4bit"]')
    keys = {key.name: key for key in MODEL_KEYS}
    aliases: dict[str, str] = {}
    models: dict[str, ModelOptions] = {}
    seen: dict[str, str] = {}
    for name, table in tables.items():
        where = f"{_MODELS}.{json.dumps(name, ensure_ascii=False)}"
        if not isinstance(table, dict):
            raise ValueError(f"{where}: not a table")
        if (other := seen.setdefault(_one_model(name), name)) != name:
            raise ValueError(f"{where}: {other!r} has a table already, and is the same model")
        for alias in _aliases(table.pop(_ALIAS, []), where):
            if aliases.setdefault(alias, name) != name:
                raise ValueError(f"{where}.{_ALIAS}: {alias!r} stands for {aliases[alias]!r} already")
        _refuse_unknown(table, (*keys, _ALIAS), where)
        values = {}
        for key, value in table.items():
            try:
                values[key] = keys[key].kind.read(value)
            except ValueError as error:
                raise ValueError(f"{where}.{key}: {_shown(value)} is {error}") from None
        models[name] = build(values)
    return tuple(aliases.items()), tuple(models.items())


def _aliases(value: Any, where: str) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{where}.{_ALIAS}: {_shown(value)} is neither a name nor a list of names")
    return names


def _one_model(name: str) -> str:
    """Equal for names that are sure to mean the same: the Hub ignores case."""
    return name if name.startswith(("/", "~", ".")) or "/" not in name else name.casefold()


def _refuse_unknown(given: Mapping[str, Any], known: Iterable[str], where: str = "") -> None:
    known = tuple(known)
    for key in given:
        if key in known:
            continue
        place = f"{where}: " if where else ""
        if where and isinstance(given[key], dict):
            raise ValueError(f'{place}unknown key {key!r}; a name with dots is written in quotes, as [{_MODELS}."a.b"]')
        near = difflib.get_close_matches(key, known, 1)
        raise ValueError(f"{place}unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
