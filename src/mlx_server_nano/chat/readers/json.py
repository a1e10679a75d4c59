"""JSON values, and calls written as JSON objects."""

from __future__ import annotations

import json
from typing import Final

from mlx_server_nano.chat.formats.base import JsonCall
from mlx_server_nano.chat.lexer import Emit, Markers, Source, Step, drop, markers
from mlx_server_nano.chat.readers.context import Context

_IN_STRING: Final = markers('"', "\\")
_SHORT: Final = 1024
_STRUCTURE: Final = ('"', "{", "}", "[", "]", ",")


def value(source: Source, emit: Emit, stops: Markers) -> Step[bool]:
    """Pass a JSON value on as it is. True: it is complete. False: it was cut short by a marker of `stops` outside a string
    (not consumed) or by the end of the text. Text that is no JSON is passed on up to the same places."""
    structure = markers(*_STRUCTURE, *stops.texts)
    depth = 0
    while True:
        found = yield from source.until(structure, emit)
        if found == '"':
            emit(found)
            if not (yield from _string(source, emit)):
                return False
        elif found in ("{", "["):
            emit(found)
            depth += 1
        elif found in ("}", "]") and depth:
            emit(found)
            depth -= 1
        elif found == "," and depth:
            emit(found)
        else:
            source.back(found)
            return found in _STRUCTURE
        if depth == 0:
            return True


def arguments(source: Source, emit: Emit, stops: Markers) -> Step[None]:
    """A JSON object or array; or, if neither stands here, all text up to a marker of `stops`."""
    yield from source.space()
    if (yield from source.peek()) in ("{", "["):
        yield from value(source, emit, stops)
    else:
        source.back((yield from source.until(stops, emit)))


def _string(source: Source, emit: Emit) -> Step[bool]:
    """The rest of a string, with its closing mark. False: the text ended in it."""
    while True:
        found = yield from source.until(_IN_STRING, emit)
        emit(found)
        if found != "\\":
            return found == '"'
        emit((yield from source.take()))


def string(source: Source) -> Step[str | None]:
    """A string, decoded. None if none stands here, or the text ends in it."""
    if (yield from source.peek()) != '"':
        return None
    parts = [(yield from source.take())]
    if not (yield from _string(source, parts.append)):
        return None
    return _decoded("".join(parts))


def _short(source: Source) -> Step[str | None]:
    """As `string`, for keys and names. None if it gets too long for one: no text shall be held back for it."""
    if (yield from source.peek()) != '"':
        return None
    raw = yield from source.take()
    while len(raw) < _SHORT:
        piece, found = yield from source.within(_IN_STRING, _SHORT)
        raw += piece + found
        if found != "\\":
            return _decoded(raw) if found else None
        raw += yield from source.take()
    return None


def _decoded(raw: str) -> str:
    try:
        return str(json.loads(raw, strict=False))
    except ValueError:
        return raw[1:-1]


def call(context: Context, syntax: JsonCall) -> Step[bool]:
    """A call that is a JSON object. False: it is none, and nothing was passed on."""
    source = context.source
    if (yield from source.take()) != "{":
        return False
    reader = _Envelope(context, syntax)
    while (yield from reader.member()):
        pass
    return reader.close()


class _Envelope:
    """An object's members, one by one; the arguments stream once the name is known."""

    def __init__(self, context: Context, syntax: JsonCall) -> None:
        self._context = context
        self._syntax = syntax
        self._name = ""
        self._id: str | None = None
        self._early: list[str] = []
        self._started = False

    def member(self) -> Step[bool]:
        """Read a member. False: there is no further one."""
        source = self._context.source
        yield from source.space()
        char = yield from source.peek()
        if char in (",", "}"):
            yield from source.take()
            return char == ","
        key = yield from _short(source)
        if key is None:
            return False
        yield from source.space()
        if (yield from source.peek()) != ":":
            return False
        yield from source.take()
        yield from source.space()
        return (yield from self._value(key))

    def _value(self, key: str) -> Step[bool]:
        syntax, source, stops = self._syntax, self._context.source, self._context.stops
        if syntax.name_is_key and not self._name:
            self._name = key
            return self._begin() and (yield from self._arguments())
        if key in syntax.name and not self._name:
            name = yield from _short(source)
            self._name = name or ""
            return bool(name) and ((self._context.tentative and not self._early) or self._begin())
        if key in syntax.arguments:
            if self._name and not self._begin():
                return False
            return (yield from self._arguments())
        if key in syntax.id and not self._started and (yield from source.peek()) == '"':
            self._id = yield from _short(source)
            return self._id is not None
        if self._context.tentative and not self._started and key != "type":
            return False
        return (yield from value(source, drop, stops))

    def _begin(self) -> bool:
        """Start the call, if the name is right."""
        if not self._started and self._context.accepts(self._name):
            self._context.start(self._name, self._id)
            self._started = True
            self._context.sink.arguments("".join(self._early))
        return self._started

    def _arguments(self) -> Step[bool]:
        source, stops = self._context.source, self._context.stops
        emit: Emit = self._context.sink.arguments if self._started else self._early.append
        position = source.mark()
        if (yield from source.peek()) == '"':
            # Some models write the arguments as OpenAI's wire has them: JSON in a string.
            text = yield from string(source)
            if text is not None and text.lstrip().startswith("{"):
                emit(text)
                return True
            source.rewind(position)
        if self._started:
            source.release()
        return (yield from value(source, emit, stops))

    def close(self) -> bool:
        if not self._started and self._name and not self._context.tentative:
            self._begin()
        return self._started
