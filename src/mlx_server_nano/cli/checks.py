"""Names in the settings that can mean nothing, told before anything starts and without a look at the disk."""

from __future__ import annotations

import json
from collections.abc import Iterator

from mlx_server_nano.config import SettingError, Settings
from mlx_server_nano.models.names import is_path, is_possible, is_repository


def check(settings: Settings) -> None:
    """Raises SettingError."""
    aliases = dict(settings.alias)
    for name, target in settings.alias:
        if target not in aliases and not is_possible(target):
            raise SettingError(f"--alias: {name!r} stands for {target!r}, which can be no model's name")
    for name, options in settings.models:
        if name not in aliases and not is_possible(name):
            raise SettingError(f"{_table(settings, name)}: {name!r} is no alias and can be no model's name")
        adapter = options.loading.adapter
        if adapter is not None and not (is_path(adapter) or is_repository(adapter)):
            raise SettingError(
                f"{_table(settings, name)}.adapter: {adapter!r} is neither a folder's path (./name, ~/name, /name) nor a Hub"
                " repository (owner/name)"
            )
        if name in aliases and options.loading.trust_remote_code is not None:
            raise SettingError(
                f"{_table(settings, name)}.trust-remote-code: the code is that of the model behind the alias; its own table"
                " is the place"
            )
    for source, name in _formats(settings):
        from mlx_server_nano.chat.formats import FORMATS

        if name not in FORMATS:
            raise SettingError(f"{source}: there is no format {name!r}; there are {', '.join(sorted(FORMATS))}")


def _formats(settings: Settings) -> Iterator[tuple[str, str]]:
    """The formats that are named, each with where it is."""
    for _, name in settings.tool_format:
        yield "--tool-format", name
    for model, options in settings.models:
        if options.requests.tool_format is not None:
            yield f"{_table(settings, model)}.tool-format", options.requests.tool_format


def _table(settings: Settings, model: str) -> str:
    return f"{settings.config}: models.{json.dumps(model, ensure_ascii=False)}"
