"""Calls with their name in the markup: `<function=name>...`, `name[ARGS]{...}`, `name(...)`."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from mlx_server_nano.chat.formats.base import JsonArguments, LiteralArguments, TextCall
from mlx_server_nano.chat.lexer import Source, Step, markers
from mlx_server_nano.chat.readers import json
from mlx_server_nano.chat.readers.context import Context
from mlx_server_nano.chat.readers.literals import Literals
from mlx_server_nano.chat.readers.tags import Tags

_NAME_LIMIT: Final = 256
_ATTRIBUTES: Final = re.compile(r"[^<>|\n]*")
_WELL_FORMED: Final = re.compile(r"""(?:\s+[\w:.-]+\s*=\s*(?:"[^"]*"|'[^']*'))*\s*/?""")
_ID: Final = re.compile(r"[^\s\[{]*")


def call(context: Context, syntax: TextCall) -> Step[bool]:
    """A call from its opening to its closing. False: it is none, and nothing was passed on."""
    source = context.source
    if syntax.open and not (yield from source.match(markers(*syntax.open))):
        return False
    yield from source.space()
    head = (yield from source.run(_class(syntax.name), _NAME_LIMIT)).strip()
    match = re.fullmatch(syntax.head, head)
    if match is None or len(head) > _NAME_LIMIT:
        return False
    call_id = head if match.groupdict().get("index") else None
    empty = False
    if syntax.quoted:
        yield from source.match(markers('"'))
        attributes = yield from source.run(_ATTRIBUTES, _NAME_LIMIT)
        empty = attributes.endswith("/")
        # Anything but attributes is text, and no text may be lost.
        if not _WELL_FORMED.fullmatch(attributes) or not (yield from source.match(markers(syntax.head_end))):
            return False
    else:
        endings = markers(*syntax.name_end, *syntax.name_stops, syntax.id_open)
        ending = yield from source.skip_to(endings)
        if not ending:
            return False
        if ending == syntax.id_open:
            call_id = yield from source.run(_ID, _NAME_LIMIT)
            ending = yield from source.match(markers(*syntax.name_end, *syntax.name_stops))
        if ending in syntax.name_stops:
            source.back(ending)
    if not context.accepts(match["name"]):
        return False
    context.start(match["name"], call_id)
    if empty:
        context.sink.arguments("{}")
    else:
        yield from _arguments(context, syntax, match["name"])
    return True


def _arguments(context: Context, syntax: TextCall, name: str) -> Step[None]:
    source, arguments = context.source, syntax.arguments
    if isinstance(arguments, LiteralArguments):
        yield from Literals(context, arguments, context.tools.schema(name), syntax.close[0]).read()
    elif isinstance(arguments, JsonArguments) or (yield from _is_object(source)):
        yield from json.arguments(source, context.sink.arguments, markers(*syntax.close, *context.stops.texts))
        if isinstance(arguments, JsonArguments) and arguments.suffix:
            yield from source.space()
            yield from source.match(markers(arguments.suffix.strip()))
    else:
        yield from Tags(context, arguments, context.tools.schema(name), syntax.close).read()
    yield from source.skip_to(markers(*syntax.close))


def _is_object(source: Source) -> Step[bool]:
    yield from source.space()
    return (yield from source.peek()) == "{"


@lru_cache(maxsize=64)
def _class(characters: str) -> re.Pattern[str]:
    return re.compile(f"(?:{characters})*", re.DOTALL)
