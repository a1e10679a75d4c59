"""A value made of elements: `<a>1</a><b>x</b>` is an object, `<item>..</item><item>..</item>` an array (MiniMax M3)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from mlx_server_nano.chat.formats.base import TagArguments
from mlx_server_nano.chat.values import convert, properties, types_of

_SPACE: Final = re.compile(r"\s*")


def nested(text: str, syntax: TagArguments, schema: Any, root: Mapping[str, Any]) -> str:
    """The JSON for a value's text, elements or not. What is not well nested is taken as a string."""
    return json.dumps(_value(text, re.escape(syntax.open[0]), schema, root, 0), ensure_ascii=False)


def _value(text: str, opening: str, schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    types = types_of(schema, root)
    members = _members(text, opening) if depth < 32 else None
    if not members:
        if not text.strip() and types & {"array", "object"} and "string" not in types:
            return [] if "array" in types else {}
        return json.loads(convert(text, types))
    if "array" in types and "object" not in types and {key for key, _ in members} == {"item"}:
        items = schema.get("items") if isinstance(schema, Mapping) else None
        return [_value(inner, opening, items, root, depth + 1) for _, inner in members]
    found: dict[str, Any] = {}
    for key, inner in members:
        value = _value(inner, opening, _member_schema(schema, key), root, depth + 1)
        if key in found:
            earlier = found[key]
            found[key] = [*earlier, value] if isinstance(earlier, list) else [earlier, value]
        else:
            found[key] = value
    return found


def _member_schema(schema: Any, key: str) -> Any:
    if not isinstance(schema, Mapping):
        return None
    for option in (schema, *schema.get("anyOf", ()), *schema.get("oneOf", ())):
        if isinstance(option, Mapping) and key in properties(option):
            return properties(option)[key]
    return schema.get("additionalProperties")


def _members(text: str, opening: str) -> list[tuple[str, str]] | None:
    """The elements side by side that make up the text; None if it is anything else."""
    tag = re.compile(rf"{opening}(/?)([^<>/\s]+)>")
    members: list[tuple[str, str]] = []
    position = 0
    while (position := _SPACE.match(text, position).end()) < len(text):  # type: ignore[union-attr]
        first = tag.match(text, position)
        if first is None or first.group(1):
            return None
        depth = 1
        for found in tag.finditer(text, first.end()):
            if found.group(2) == first.group(2):
                depth += -1 if found.group(1) else 1
            if depth == 0:
                members.append((first.group(2), text[first.end() : found.start()]))
                position = found.end()
                break
        else:
            return None
    return members
