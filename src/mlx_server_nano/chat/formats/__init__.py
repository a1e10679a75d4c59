"""The formats of all families, by name. Where a template shows the signs of several, the first counts."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from mlx_server_nano.chat.formats import literals, names, objects, tags
from mlx_server_nano.chat.formats.base import THINK, Format

PLAIN: Final = Format(name="plain")
THINKING: Final = Format(name="thinking", reasoning=THINK)

FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {
        value.name: value
        for module in (tags, names, literals, objects)
        for value in vars(module).values()
        if isinstance(value, Format)
    }
    | {PLAIN.name: PLAIN, THINKING.name: THINKING}
)
