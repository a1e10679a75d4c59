"""Values written as text to JSON, led by the tool's JSON Schema."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlx_server_nano.types import Tool

Types = frozenset[str]

TYPES: Final[Types] = frozenset(("string", "number", "integer", "boolean", "array", "object", "null"))
_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_INTEGER: Final = re.compile(r"[+-]?\d{1,4000}")
_KEYWORDS: Final = {"true": "true", "false": "false", "null": "null", "none": "null"}
# What a JSON or Python literal can begin with; any other text is a string without looking further.
LITERAL_START: Final = frozenset("{[\"'-+.0123456789tTfFnN")
_NAMES: Final = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "list": "array",
    "dict": "object",
}


def quote(text: str) -> str:
    """A JSON string."""
    return json.dumps(text, ensure_ascii=False)


def escape(text: str) -> str:
    """The inside of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


class Toolbox:
    """The tools of a request, by name, and what their parameters may be."""

    __slots__ = ("_tools",)

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = {tool.name: tool.parameters or {} for tool in tools}

    def declares(self, name: str) -> bool:
        """Whether a tool has this name; true for every name if none is declared."""
        return not self._tools or self.knows(name)

    def knows(self, name: str) -> bool:
        return self.resolve(name) in self._tools

    def resolve(self, name: str) -> str:
        """The declared tool that the model means: as written, or without a namespace that it put in front."""
        if name in self._tools:
            return name
        bare = name.rpartition(".")[2]
        return bare if bare in self._tools else name

    def schema(self, name: str) -> dict[str, Any]:
        return self._tools.get(self.resolve(name), {})


def properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """An object schema's properties; empty if it names none."""
    found = schema.get("properties")
    return found if isinstance(found, Mapping) else {}


def types_of(schema: Any, root: Mapping[str, Any]) -> Types:
    """The JSON types that a schema allows; empty: it does not say. `root` is where its `$ref`s point into."""
    return _types_of(schema, root, 0)


def _types_of(schema: Any, root: Mapping[str, Any], depth: int) -> Types:
    if not isinstance(schema, Mapping) or depth > 16:
        return frozenset()
    if isinstance(reference := schema.get("$ref"), str):
        return _types_of(_lookup(reference, root), root, depth + 1)
    declared = schema.get("type")
    if isinstance(declared, str):
        return frozenset((_NAMES.get(declared, declared),))
    if isinstance(declared, list):
        return frozenset(_NAMES.get(name, name) for name in declared if isinstance(name, str))
    for key in ("anyOf", "oneOf"):
        if isinstance(options := schema.get(key), list):
            each = [_types_of(option, root, depth + 1) for option in options]
            return frozenset().union(*each) if all(each) else frozenset()
    if isinstance(parts := schema.get("allOf"), list):
        known = [found for part in parts if (found := _types_of(part, root, depth + 1))]
        return frozenset.intersection(*known) if known else frozenset()
    if isinstance(values := schema.get("enum"), list):
        return frozenset(_type_name(value) for value in values)
    if "const" in schema:
        return frozenset((_type_name(schema["const"]),))
    return frozenset(("object",)) if "properties" in schema else frozenset()


def _lookup(reference: str, root: Mapping[str, Any]) -> Any:
    node: Any = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        node = node.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(node, Mapping) else None
    return node


def _type_name(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    for kind, name in ((str, "string"), (int, "integer"), (float, "number"), (list, "array")):
        if isinstance(value, kind):
            return name
    return "object"


def is_text(types: Types) -> bool:
    """Whether only a string will do, so that any text is taken as it is."""
    return types == {"string"}


def convert(text: str, types: Types) -> str:
    """The JSON for a value that the model wrote as text.

    A string parameter keeps its text. Otherwise the text is read as a JSON or Python literal of an allowed type; what does
    not fit is passed on as a string, for the client to judge.
    """
    if is_text(types):
        return quote(text)
    stripped = text.strip()
    literal = _literal(stripped, types)
    return quote(text) if literal is None else literal


def _literal(text: str, types: Types) -> str | None:
    keyword = _KEYWORDS.get(text.lower())
    if keyword is not None:
        missing = "string" not in types if keyword == "null" else not types
        fits = missing or ("null" if keyword == "null" else "boolean") in types
        # Without a schema only what JSON and Python themselves write is a literal: TRUE may be text.
        return keyword if fits and (types or text in ("true", "false", "null", "True", "False", "None")) else None
    if "integer" in types and _INTEGER.fullmatch(text):
        return str(int(text))
    if _NUMBER.fullmatch(text):
        return text if not types or types & {"number", "integer"} else None
    if text[:1] in ("{", "["):
        wanted = "object" if text[0] == "{" else "array"
        return _container(text) if not types or wanted in types else None
    if text[:1] == '"' and not types:
        return _json(text)
    return None


def _container(text: str) -> str | None:
    found = _json(text)
    if found is not None:
        return found
    try:
        return json.dumps(ast.literal_eval(text), ensure_ascii=False, allow_nan=False)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _json(text: str) -> str | None:
    """The text if it is JSON."""
    try:
        json.loads(text, parse_constant=_reject)
    except (ValueError, RecursionError):
        return None
    return text


def _reject(constant: str) -> None:
    raise ValueError(constant)


def literal(token: str) -> str:
    """The JSON for an unquoted token of a language that quotes its strings (Python, Gemma's): number, keyword, or text."""
    stripped = token.strip()
    found = _literal(stripped, frozenset())
    if found is not None and stripped[:1] != '"':
        return found
    try:
        value = ast.literal_eval(stripped)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return quote(stripped)
    finite = isinstance(value, int | float) and value == value and abs(value) != float("inf")  # noqa: PLR0124
    return json.dumps(value) if finite else quote(stripped)
