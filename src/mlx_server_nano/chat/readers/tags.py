"""Arguments written as tags: `<parameter=key>value</parameter>` and its relatives."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from mlx_server_nano.chat.formats.base import TagArguments
from mlx_server_nano.chat.lexer import Emit, Step, markers
from mlx_server_nano.chat.readers.context import Context
from mlx_server_nano.chat.readers.elements import nested
from mlx_server_nano.chat.values import (
    LITERAL_START,
    TYPES,
    Types,
    convert,
    escape,
    is_text,
    properties,
    quote,
    types_of,
)

_KEY_LIMIT: Final = 512
_CDATA_OPEN: Final = "<![CDATA["
_CDATA_CLOSE: Final = "]]>"
_ATTRIBUTE: Final = re.compile(r'(\w+)="([^"]*)"')


class Tags:
    """Reads the parameters of one call, which one of `close` ends."""

    def __init__(
        self, context: Context, syntax: TagArguments, schema: Mapping[str, Any], close: tuple[str, ...]
    ) -> None:
        self._context = context
        self._syntax = syntax
        self._schema = schema
        self._close = close
        self._body = markers(*syntax.open, *close, *context.stops.texts)
        self._count = 0

    def read(self) -> Step[None]:
        """All parameters, up to the call's end (not consumed)."""
        source, sink = self._context.source, self._context.sink
        while True:
            found = yield from source.until(self._body, sink.content)
            if found not in self._syntax.open:
                source.back(found)
                break
            if not (yield from self._parameter(found)):
                return
        sink.arguments("}" if self._count else "{}")

    def _parameter(self, opening: str) -> Step[bool]:
        """A parameter after its opening. False: the text ended in it."""
        source, syntax = self._context.source, self._syntax
        position = source.mark()
        head, found = yield from source.within(markers(syntax.key_end, "\n"), _KEY_LIMIT)
        key, _, attributes = head.partition('"') if syntax.quoted else (head.strip(), "", "")
        if found != syntax.key_end or not key or key.startswith("/"):
            source.rewind(position)
            source.release()
            self._context.sink.content(opening)
            return bool((yield from source.peek()))
        source.release()
        if syntax.value_open:
            yield from source.space()
            if not (yield from source.match(markers(syntax.value_open))) and (yield from self._at_end()):
                return True
        return (yield from self._value(key, dict(_ATTRIBUTE.findall(attributes))))

    def _at_end(self) -> Step[bool]:
        """Whether another parameter, the call's end or the text's end stands here."""
        source = self._context.source
        position = source.mark()
        found = yield from source.match(self._body)
        over = not found and not (yield from source.peek())
        source.rewind(position)
        source.release()
        return bool(found) or over

    def _value(self, key: str, attributes: Mapping[str, str]) -> Step[bool]:
        schema = properties(self._schema).get(key)
        types = types_of(schema, self._schema) or _declared(attributes)
        if key == self._syntax.wrapper and schema is None and properties(self._schema):
            return (yield from self._wrapped(key, types))
        self._context.sink.arguments((", " if self._count else "{") + quote(key) + ": ")
        self._count += 1
        return (yield from self._typed(key, schema, types))

    def _typed(self, key: str, schema: Any, types: Types) -> Step[bool]:
        source, sink, syntax = self._context.source, self._context.sink, self._syntax
        ends = self._ends(key)
        if syntax.cdata and (yield from source.match(markers(_CDATA_OPEN))):
            ends = {_CDATA_CLOSE + text: own for text, own in ends.items()}
        elif syntax.line:
            yield from source.match(markers("\n"))
        if is_text(types) or (yield from self._is_prose(types)):
            sink.arguments('"')
            complete = yield from self._text(ends, lambda text: sink.arguments(escape(text)))
            if complete:
                sink.arguments('"')
            return complete
        parts: list[str] = []
        complete = yield from self._text(ends, parts.append)
        text = "".join(parts)
        if not complete and not text:
            return False
        sink.arguments(nested(text, syntax, schema, self._schema) if syntax.nested else convert(text, types))
        return complete

    def _is_prose(self, types: Types) -> Step[bool]:
        """Whether the value, for all that its first character tells, can only be a string; so that it may stream."""
        if self._syntax.nested or (types and "string" not in types):
            return False
        char = yield from self._context.source.peek()
        return bool(char) and not char.isspace() and char not in LITERAL_START and char != self._syntax.close[0]

    def _wrapped(self, key: str, types: Types) -> Step[bool]:
        """A parameter that may hold all parameters."""
        parts: list[str] = []
        complete = yield from self._text(self._ends(key), parts.append)
        text = convert("".join(parts), types)
        keys = _keys(text)
        if self._count == 0 and keys and keys <= set(properties(self._schema)):
            self._context.sink.arguments(text.strip()[:-1].rstrip())
        else:
            self._context.sink.arguments((", " if self._count else "{") + quote(key) + ": " + text)
        self._count += 1
        return complete

    def _ends(self, key: str) -> dict[str, bool]:
        """What may end the value: its closing tag (True), or where that is missing the end of the call."""
        closing = self._syntax.close.format(key=key) if self._syntax.nested else self._syntax.close
        ends = {text: text == closing for text in (*self._close, *self._context.stops.texts, closing)}
        return {"\n" + text: own for text, own in ends.items()} | ends if self._syntax.line else ends

    def _text(self, ends: Mapping[str, bool], emit: Emit) -> Step[bool]:
        """Pass the value's text on. True: it ended, and its closing tag is consumed (the call's end is not).

        A tag in the middle of the text is text: the value's own counts where another tag follows, the call's at the end.
        """
        source = self._context.source
        wanted = markers(*ends)
        while True:
            found = yield from source.until(wanted, emit)
            if not found:
                return False
            position = source.mark()
            followed = yield from source.skip_to(self._body)
            while followed and not ends[found]:
                followed = yield from source.skip_to(self._body)
            passed = source.since(position)
            yield from source.space()
            over = bool(followed) or not (yield from source.peek())
            source.rewind(position)
            source.release()
            if over:
                if not ends[found]:
                    source.back(found.removeprefix("\n"))
                return True
            emit(found)
            if not ends[found]:
                # None of the tags that follow ends the value either.
                emit(passed)
                yield from source.match(markers(passed))


def _declared(attributes: Mapping[str, str]) -> Types:
    """The type that the model itself wrote beside the value."""
    if "string" in attributes:
        return frozenset(("string",)) if attributes["string"] == "true" else frozenset()
    return frozenset((attributes["type"],)) & TYPES if "type" in attributes else frozenset()


def _keys(text: str) -> set[str]:
    found = json.loads(text)
    return set(found) if isinstance(found, dict) else set()
