"""Grammars that hold a model to its own format: calls whose arguments validate, or an answer that does.

They are in llguidance's dialect of Lark (https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md), written from
the same tables that the machine reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlx_server_nano.chat.formats.base import (
    Block,
    Format,
    Header,
    JsonArguments,
    JsonCall,
    LiteralArguments,
    Route,
    TagArguments,
    TextCall,
)
from mlx_server_nano.chat.values import Types, is_text, properties, types_of
from mlx_server_nano.types import Tool

_NO_ARGUMENTS: Final[Mapping[str, Any]] = {"type": "object", "properties": {}, "additionalProperties": False}
_SPACE: Final = r"/[ \n\r\t]{0,4}/"
_PYTHON_STRING: Final = r'/"(?:[^"\\\n\r]|\\["\\nt])*"/'
# Bounded, since a model that has lost its way may write white space for ever.
_JSON_SPACE: Final = r"[ \n\r\t]{0,24}"


def call_grammar(
    format: Format,
    tools: Sequence[Tool],
    *,
    special_tokens: Mapping[str, int],
    required: bool,
    parallel: bool,
    answer: str | None = None,
    starts_in_reasoning: bool = False,
) -> str:
    """A grammar for calls of these tools.

    required: the answer is a call, after reasoning if the model reasons. Otherwise it is free until a call begins; from
    there on the call must be right. answer: it is not free, but either calls or this body, a Lark expression. parallel:
    more calls may follow. special_tokens: the tokens that the grammar engine keeps apart from text, by name. The
    arguments validate against each tool's `parameters`.
    """
    writer = _Writer(format, special_tokens)
    if answer is not None and not required:
        return writer.calls_or_answer(tools, parallel, answer, starts_in_reasoning)
    return writer.calls(tools, required, parallel, starts_in_reasoning)


def answer_grammar(
    format: Format, body: str, *, special_tokens: Mapping[str, int], starts_in_reasoning: bool = False
) -> str:
    """A grammar for an answer whose content is `body` (a Lark expression, see `json_body`), after reasoning."""
    return _Writer(format, special_tokens).answer(body, starts_in_reasoning)


def json_body(schema: Mapping[str, Any] | None) -> str:
    """The Lark expression for JSON that validates against a schema; None: any JSON object."""
    bounded = {
        **(schema if schema is not None else {"type": "object"}),
        "x-guidance": {"whitespace_pattern": _JSON_SPACE},
    }
    return f"%json {json.dumps(bounded, ensure_ascii=False)}"


class _Writer:
    """Writes rules; the methods return expressions for them."""

    def __init__(self, form: Format, special_tokens: Mapping[str, int]) -> None:
        self._form = form
        self._special = special_tokens
        names = sorted((re.escape(name) for name in special_tokens), key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(names)})") if names else None
        self._rules: list[str] = ["TEXT: /(?s:.*)/"]

    def calls(self, tools: Sequence[Tool], required: bool, parallel: bool, inside: bool) -> str:
        header = self._call_header()
        calls = self._rule("calls", self._blocks(tools, header, parallel))
        if required:
            return self._grammar(f"{self._reasoning(inside)} {calls}")
        if header is not None:
            content = self._literal(header.writes[Route.CONTENT])
            return self._grammar(f"{self._reasoning(inside)} ({content} TEXT | {calls})")
        return self._grammar(f"{self._reasoning(inside)} {self._free(tools, parallel)}")

    def answer(self, body: str, inside: bool) -> str:
        return self._grammar(f"{self._reasoning(inside)} {self._content(body)}")

    def calls_or_answer(self, tools: Sequence[Tool], parallel: bool, body: str, inside: bool) -> str:
        calls = self._rule("calls", self._blocks(tools, self._call_header(), parallel))
        return self._grammar(f"{self._reasoning(inside)} ({calls} | {self._rule('content', self._content(body))})")

    def _content(self, body: str) -> str:
        header = self._call_header()
        head = self._literal(header.writes[Route.CONTENT]) if header is not None else ""
        return f"{head} {self._rule('answer', body)}"

    def _grammar(self, start: str) -> str:
        return "\n".join([f"start: {' '.join(start.split())}", *self._rules, ""])

    def _rule(self, name: str, expression: str, options: str = "") -> str:
        """A new rule's name. Expressions with %json must stand in a rule of their own."""
        unique = f"{name}_{len(self._rules)}"
        self._rules.append(f"{unique}{options}: {expression}")
        return unique

    def _literal(self, text: str) -> str:
        """This text, its special tokens as tokens; {index} and {id} stand for what the model may choose there."""
        parts: list[str] = []
        for piece in re.split(r"(\{index\}|\{id\})", text):
            if piece == "{index}":
                parts.append("/[0-9]{1,3}/")
            elif piece == "{id}":
                parts.append("/[a-zA-Z0-9]{9}/")
            else:
                parts += self._tokens(piece)
        return " ".join(parts)

    def _tokens(self, text: str) -> list[str]:
        pieces = self._split.split(text) if self._split else [text]
        return [f"<[{self._special[p]}]>" if p in self._special else _string(p) for p in pieces if p]

    def _until(self, text: str) -> str:
        """Any text up to and with this one, at its first occurrence."""
        first, *rest = self._tokens(text)
        if first.startswith("<["):
            return " ".join(["TEXT", first, *rest])
        return " ".join([self._rule("until", f"TEXT {first}", "[lazy]"), *rest])

    def _call_header(self) -> Header | None:
        return next((header for header in self._form.headers if header.writes), None)

    def _reasoning(self, inside: bool) -> str:
        """Reasoning: to be ended where the prompt has begun it, else allowed."""
        header, reasoning = self._call_header(), self._form.reasoning
        if header is not None:
            body = self._until(header.next)
            return body if inside else f"({self._literal(header.writes[Route.REASONING])} {body})?"
        if reasoning is None:
            return ""
        body = f"{self._until(reasoning.close[0])} {_SPACE}"
        return body if inside else f"({self._literal(reasoning.open[0])} {body})?"

    def _free(self, tools: Sequence[Tool], parallel: bool) -> str:
        """Text in which calls may begin at any place."""
        block = self._form.blocks[0]
        call = self._rule("call", self._alternatives(tools, block))
        if block.bare is not None:
            # Nothing but its first character tells a call: an answer that begins otherwise is text.
            opening = block.open[0]
            first = self._rule("calls", self._several(call, block, parallel))
            return f"(/[^{re.escape(opening)}](?s:.*)/ | {first})?"
        rest = self._rule("rest", self._after_opening(call, block, parallel))
        begun = self._rule("begun", f"{self._until(block.open[0])} {rest}")
        return f"{begun}* TEXT" if parallel else f"(TEXT | {begun})"

    def _blocks(self, tools: Sequence[Tool], header: Header | None, parallel: bool) -> str:
        if header is not None:
            return self._messages(tools, header, parallel)
        block = self._form.blocks[0]
        call = self._rule("call", self._alternatives(tools, block))
        if block.bare is not None:
            return self._several(call, block, parallel)
        opening = self._literal(block.open[0])
        one = self._rule("block", f"{opening} {self._after_opening(call, block, parallel)}")
        again = parallel and not block.listed and not block.several
        return f"{one} ({_SPACE} {one})*" if again else one

    def _messages(self, tools: Sequence[Tool], header: Header, parallel: bool) -> str:
        """Calls that are messages with a header each."""
        options = []
        for tool in tools:
            head = self._literal(header.writes[Route.CALL].replace("{name}", tool.name))
            if self._form.blocks:
                block = self._form.blocks[0]
                inner = self._rule("call", self._alternatives([tool], block))
                body = f"{self._literal(block.open[0])} {self._after_opening(inner, block, False)}"
            else:
                body = self._rule("arguments", json_body(tool.parameters or _NO_ARGUMENTS))
            options.append(self._rule("message", f"{head} {body}"))
        one = self._rule("call", " | ".join(options))
        return f"{one} ({self._literal(header.next)} {one})*" if parallel else one

    def _after_opening(self, call: str, block: Block, parallel: bool) -> str:
        pad = _string(block.pad) if block.pad else ""
        close = self._literal(block.pad + block.close[0]) if block.close else ""
        return f"{pad} {self._several(call, block, parallel)} {close}"

    def _several(self, call: str, block: Block, parallel: bool) -> str:
        if block.listed:
            return f'"[" {call} (", " {call})* "]"' if parallel else f'"[" {call} "]"'
        if block.several and parallel:
            between = _string(block.pad) if block.pad else ""
            return f"{call} ({between} {call})*"
        return call

    def _alternatives(self, tools: Sequence[Tool], block: Block) -> str:
        syntax = block.calls[0]
        written = [
            self._object(tool, syntax) if isinstance(syntax, JsonCall) else self._text(tool, syntax, block)
            for tool in tools
        ]
        return " | ".join(self._rule("tool", expression) for expression in written)

    def _object(self, tool: Tool, syntax: JsonCall) -> str:
        arguments = self._rule("arguments", json_body(tool.parameters or _NO_ARGUMENTS))
        name = json.dumps(tool.name, ensure_ascii=False)
        if syntax.name_is_key:
            return f'{_string("{" + name + ": ")} {arguments} "}}"'
        head = f'{{"{syntax.name[0]}": {name}, "{syntax.arguments[0]}": '
        return f'{_string(head)} {arguments} "}}"'

    def _text(self, tool: Tool, syntax: TextCall, block: Block) -> str:
        opening = syntax.open[0] if syntax.open else ""
        ending = syntax.head_end or (syntax.name_end[0] if syntax.name_end else "")
        head = self._literal(opening + syntax.written.replace("{name}", tool.name) + ending)
        close = self._literal(syntax.close[0]) if syntax.close else ""
        schema = tool.parameters or _NO_ARGUMENTS
        if isinstance(syntax.arguments, JsonArguments):
            body = f"{self._rule('arguments', json_body(schema))} {self._literal(syntax.arguments.suffix)}"
        elif isinstance(syntax.arguments, TagArguments):
            body = self._tags(schema, syntax.arguments)
        else:
            body = self._literals(schema, syntax.arguments)
        return f"{head} {body} {close}"

    def _tags(self, schema: Mapping[str, Any], syntax: TagArguments) -> str:
        # GLM's templates differ in whether they break lines between the tags.
        gap = '"\\n"?' if syntax.value_open else _string(syntax.separator) if syntax.separator else ""
        parts = [gap]
        for key, value in properties(schema).items():
            types = types_of(value, schema)
            close = syntax.close.format(key=key) if syntax.nested else syntax.close
            edge = "\n" if syntax.line else ""
            body = self._value(value, schema, types, close)
            attributes = syntax.attributes.format(type=_named(types), is_string=str(is_text(types)).lower())
            quote = '"' if syntax.quoted else ""
            head = self._literal(syntax.open[0] + key + quote + attributes + syntax.key_end + edge)
            if syntax.value_open:
                head += f" {gap} {self._literal(syntax.value_open)}"
            parameter = self._rule("parameter", f"{head} {body} {gap}")
            parts.append(parameter if key in schema.get("required", ()) else f"{parameter}?")
        return " ".join(parts)

    def _value(self, value: Any, root: Mapping[str, Any], types: Types, close: str) -> str:
        """A value written as plain text up to its closing tag, with that."""
        if types and "string" not in types:
            return f"{self._rule('value', json_body(_rooted(value, root)))} {self._literal(close)}"
        choices = _choices(value)
        if choices is not None:
            texts = [
                choice if isinstance(choice, str) else json.dumps(choice, ensure_ascii=False) for choice in choices
            ]
            return f"({' | '.join(map(_string, texts))}) {self._literal(close)}"
        return self._until(close)

    def _literals(self, schema: Mapping[str, Any], syntax: LiteralArguments) -> str:
        """`key=value, ...`: a rule for each place at which the list may go on, since the first one has no comma."""
        members = list(properties(schema).items())
        required = set(schema.get("required", ()))
        comma = '", "' if syntax.assign == "=" else '","'
        after = ""  # what may follow when something stands before
        alone = ""  # what may follow when nothing does
        for key, value in reversed(members):
            member = self._rule(
                "member", f"{_string(key + syntax.assign)} {self._literal_value(value, schema, syntax)}"
            )
            following, first = f"{comma} {member} {after}", f"{member} {after}"
            if key not in required:
                following, first = (
                    f"({following} | {after})" if after else f"({following})?",
                    (f"({first} | {alone})" if alone else f"({first})?"),
                )
            after, alone = self._rule("after", following), self._rule("first", first)
        return alone

    def _literal_value(self, value: Any, root: Mapping[str, Any], syntax: LiteralArguments) -> str:
        types = types_of(value, root)
        choices = _choices(value)
        if is_text(types) and choices is None and syntax.raw:
            return f"{self._literal(syntax.raw)} {self._until(syntax.raw)}"
        if is_text(types) and choices is None and set(value) <= {"type", "description", "title", "default"}:
            return _PYTHON_STRING
        if types == {"boolean"} and syntax.assign == "=":
            return '("True" | "False")'
        return self._rule("value", json_body(_rooted(value, root)))


def _rooted(schema: Any, root: Mapping[str, Any]) -> dict[str, Any]:
    """A part of a schema with the definitions that it may refer to."""
    definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
    return {**(schema if isinstance(schema, Mapping) else {}), **definitions}


def _choices(schema: Any) -> list[Any] | None:
    if not isinstance(schema, Mapping):
        return None
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) and values else None


def _named(types: Types) -> str:
    """One name for the type of a value."""
    for name in ("string", "boolean", "array", "object", "number", "integer", "null"):
        if name in types:
            return "number" if name == "integer" else name
    return "string"


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
