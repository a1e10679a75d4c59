"""What "no text is lost" means, exactly.

Each word (run of letters and digits, whatever the case) of a model's text comes out at least as often as it stands there: in
the content, the reasoning, or a call's name, id or arguments, as JSON text or in the strings that it holds. Exempt is
markup: words of the format's markers and message headers (also of one that the text's end cuts off), attributes of tags,
repetitions of a call's name, the members of a call's JSON envelope beside name and arguments (`"type": "function"`, an id
that comes after the arguments), a key without a value, and the tags of elements within a value.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from mlx_server_nano.chat.formats.base import Format, JsonCall
from tests.chat.golden import Answer

_WORD = re.compile(r"\w+")
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|.)", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_EXEMPT_ATTRIBUTE = re.compile(r'" \w+="\w*"')
_EXEMPT_MEMBER = re.compile(r'"(?:id|type|tool_call_id)"\s*:\s*"[^"]*"')
_EXEMPT_KEY = re.compile(r"<arg_key>[^<]*</arg_key>(?!\s*<arg_value>)")
_EXEMPT_ELEMENT = re.compile(r"\]<\]minimax\[>\[</?\w+>")
_RECIPIENT = re.compile(r"\bto=[^\s<]*")
_HEADER_WORDS = "assistant analysis commentary final to json functions user self constrain"
_SAME = {"none": "null"}


def lost_words(form: Format, text: str, answer: Answer) -> Counter[str]:
    """The words of `text` that the answer lacks, with how often."""
    exempt = set(_words(" ".join(_markup(form)))) | {"cdata"}
    if form.headers:
        exempt |= set(_words(_HEADER_WORDS))
        text = _RECIPIENT.sub(" ", text)
        for header in form.headers:
            if not header.bare:
                opening, stop = ("|".join(map(re.escape, texts)) for texts in (header.open, (header.end, *form.ends)))
                initial = "|".join(map(re.escape, header.initial)) or "(?!)"
                head = rf"(?:(?!{stop}).)*"
                # A whole header, one that the prompt has opened, and one that the text's end cuts off.
                whole = rf"(?:{opening}|\A\s*(?={initial})){head}{re.escape(header.end)}"
                text = re.sub(rf"{whole}|(?:{opening}){head}\Z", " ", text, flags=re.DOTALL)
    for pattern in (_EXEMPT_ATTRIBUTE, _EXEMPT_KEY, _EXEMPT_ELEMENT):
        text = pattern.sub(" ", text)
    for marker in _markup(form):
        text = text.replace(marker, f" {marker} ") if len(marker) > 3 else text
    if any(isinstance(call, JsonCall) for block in form.blocks for call in block.calls):
        text = _EXEMPT_MEMBER.sub(" ", text)
    out = [answer.content, answer.reasoning]
    for call in answer.calls:
        out += [call["name"], call["id"], call["arguments"], *_strings(call["arguments"])]
        exempt |= set(_words(call["name"]))
    # Counted as parts of words: text on either side of markup is joined.
    written = "\n".join(out).casefold()
    lost = {word: count - written.count(word) for word, count in Counter(_words(text)).items() if word not in exempt}
    return Counter({word: count for word, count in lost.items() if count > 0})


def _markup(value: Any) -> Iterator[str]:
    """All strings in a format's table but its name and signs."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _markup(item)
    elif is_dataclass(value):
        for entry in fields(value):
            if not (isinstance(value, Format) and entry.name in ("name", "signs")):
                yield from _markup(getattr(value, entry.name))


def _words(text: str) -> list[str]:
    found = (word.casefold().lstrip("0") for word in _WORD.findall(_ESCAPE.sub(" ", text)))
    return [_SAME.get(word, word) for word in found if word]


def _strings(arguments: str) -> Iterator[str]:
    for string in _STRING.findall(arguments):
        try:
            yield json.loads(string, strict=False)
        except ValueError:
            yield string
