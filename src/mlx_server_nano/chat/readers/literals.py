"""Arguments written as literals: `f(a=1, b='x')` in Python, `f{a:1,b:<|"|>x<|"|>}` in Gemma's notation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from mlx_server_nano.chat.formats.base import LiteralArguments
from mlx_server_nano.chat.lexer import Emit, Step, markers
from mlx_server_nano.chat.readers.context import Context
from mlx_server_nano.chat.values import escape, literal, properties, quote

_SEPARATORS: Final = re.compile(r"[\s,]*")
_KEY: Final = re.compile(r"[^\s=:,()\[\]{}<>\"']*")
_BRACKETS: Final = {"(": ")", "[": "]", "{": "}"}
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\\": "\\", "'": "'", '"': '"', "\n": ""}
_CODES: Final = {"x": 2, "u": 4, "U": 8}
_DEEPEST: Final = 64  # nested values beyond this are passed on as text
_HEX: Final = re.compile(r"[0-9a-fA-F]*")


class Literals:
    """Reads the arguments of one call up to its closing bracket (not consumed), as a JSON object."""

    def __init__(self, context: Context, syntax: LiteralArguments, schema: Mapping[str, Any], close: str) -> None:
        self._source = context.source
        self._emit: Emit = context.sink.arguments
        self._assign = syntax.assign
        self._stops = context.stops
        self._quotes = markers(syntax.raw, '"""', "'''", '"', "'")
        self._raw = syntax.raw
        self._token_ends = markers(*"()[]{},\"'", *context.stops.texts)
        self._names = list(properties(schema))
        self._close = close
        self._depth = 0

    def read(self) -> Step[bool]:
        """True: the arguments are complete."""
        self._emit("{")
        if not (yield from self._members(self._close, self._assign, self._names)):
            return False
        self._emit("}")
        return True

    def _members(self, close: str, assign: str, names: list[str]) -> Step[bool]:
        """`key assign value` pairs up to `close` (not consumed). A value without a key gets the next of `names`."""
        count = 0
        while True:
            yield from self._source.skip(_SEPARATORS)
            if (yield from self._over(close)):
                return (yield from self._source.peek()) == close
            self._emit(", " if count else "")
            key = yield from self._key(assign)
            self._emit(quote(names[count] if count < len(names) else f"arg{count}") if key is None else key)
            self._emit(": ")
            count += 1
            if not (yield from self._value(close)):
                return False

    def _over(self, close: str) -> Step[bool]:
        char = yield from self._source.peek()
        return not char or char == close or (yield from self._stopped())

    def _stopped(self) -> Step[bool]:
        found = yield from self._source.match(self._stops)
        self._source.back(found)
        return bool(found)

    def _key(self, assign: str) -> Step[str | None]:
        """A key with its sign of assignment, as JSON; None, and nothing consumed, if a value stands here instead."""
        position = self._source.mark()
        parts: list[str] = []
        opening = yield from self._source.match(self._quotes)
        if opening:
            yield from self._string(opening, parts.append)
            key = "".join(parts)
        else:
            key = escape((yield from self._source.run(_KEY)))
        yield from self._source.space()
        assigned = yield from self._source.match(markers(assign))
        if not assigned:
            self._source.rewind(position)
        self._source.release()
        return f'"{key}"' if assigned else None

    def _value(self, close: str) -> Step[bool]:
        """True: the value is complete."""
        source = self._source
        yield from source.space()
        opening = yield from source.match(self._quotes)
        if opening:
            self._emit('"')
            if not (yield from self._string(opening, self._emit)):
                return False
            self._emit('"')
            return True
        char = yield from source.peek()
        if char not in ("{", "[", "(") or self._depth == _DEEPEST:
            return (yield from self._token(close))
        self._depth += 1
        complete = yield from (self._object() if char == "{" else self._list(_BRACKETS[char]))
        self._depth -= 1
        return complete

    def _object(self) -> Step[bool]:
        yield from self._source.take()
        self._emit("{")
        if not (yield from self._members("}", ":", [])):
            return False
        self._emit((yield from self._source.take()))
        return True

    def _list(self, close: str) -> Step[bool]:
        yield from self._source.take()
        self._emit("[")
        count = 0
        while True:
            yield from self._source.skip(_SEPARATORS)
            if (yield from self._over(close)):
                break
            self._emit(", " if count else "")
            count += 1
            if not (yield from self._value(close)):
                return False
        if (yield from self._source.peek()) != close:
            return False
        yield from self._source.take()
        self._emit("]")
        return True

    def _token(self, close: str) -> Step[bool]:
        """An unquoted value: a number, a keyword, or an expression, which is passed on as text."""
        parts: list[str] = []
        expected: list[str] = []
        while True:
            found = yield from self._source.until(self._token_ends, parts.append)
            if not found or found in self._stops.texts:
                self._source.back(found)
                self._emit(literal("".join(parts)))
                return False
            if found in ("'", '"'):
                parts.append(found)
                continue
            if not expected and found in (",", close, ")", "]", "}"):
                self._source.back(found)
                self._emit(literal("".join(parts)))
                return found in (",", close)
            parts.append(found)
            if found in _BRACKETS:
                expected.append(_BRACKETS[found])
            elif expected and found == expected[-1]:
                expected.pop()

    def _string(self, opening: str, emit: Emit) -> Step[bool]:
        """A string after its opening mark, as the inside of a JSON string. False: the text ended in it."""
        source = self._source
        ends = markers(opening) if opening == self._raw else markers(opening, "\\")
        while True:
            found = yield from source.until(ends, lambda text: emit(escape(text)))
            if found != "\\":
                return bool(found)
            emit(escape((yield from self._escape())))

    def _escape(self) -> Step[str]:
        """The character that Python means by an escape after its backslash; the escape as it is if Python knows none."""
        char = yield from self._source.take()
        if char not in _CODES:
            return _ESCAPES.get(char, "\\" + char)
        width = _CODES[char]
        digits = ""
        while len(digits) < width and _HEX.fullmatch((yield from self._source.peek()) or "?"):
            digits += yield from self._source.take()
        code = int(digits, 16) if len(digits) == width else 0x110000
        return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else "\\" + char + digits
