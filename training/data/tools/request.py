"""What a user says to have a tool called, and the call that it means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from training.data.checks import Call
from training.data.skills.turns import series
from training.data.source import Source
from training.data.tools.kinds import Choice, Flag, Integer, Kind, Number, Style, Text, Value
from training.data.tools.schema import Field, ToolSpec

OPENERS: Final = (
    "[||Please |Can you |Could you |I want you to |I'd like you to |I need you to |Would you |Now |Next, |Hey, |Hi, can you "
    "|Go and |Help me: |It is time to |You should |We have to |Let's |Kindly |Then ]{verb} {article} {thing}",
)
SCALAR: Final = (
    "{w} {v}",
    "{w} {v}",
    "{w}: {v}",
    "the {w} is {v}",
    "{w} = {v}",
    "with {w} {v}",
    "with the {w} {v}",
    "{v} as {w}",
    "{v} as the {w}",
    "set the {w} to {v}",
    "use {v} as {w}",
    "using the {w} {v}",
    "{w} should be {v}",
    "a {w} of {v}",
)
FLAG_ON: Final = (
    "with {w}",
    "{w} on",
    "{w}: yes",
    "enable {w}",
    "{w} enabled",
    "turn {w} on",
    "{w} = true",
    "and do use {w}",
)
FLAG_OFF: Final = (
    "without {w}",
    "{w} off",
    "{w}: no",
    "disable {w}",
    "{w} disabled",
    "turn {w} off",
    "{w} = false",
    "no {w}",
)
LEADS: Final = ("{w} ", "the {w} ", "with {w} ", "with the {w} ", "{w}: ", "")
# No phrases, which may have an "and" in them.
LISTED: Final = (Style.NAME, Style.PLACE, Style.CODE, Style.EMAIL, Style.PATH)
CLOSERS: Final = ("", "", "", ".", ".", "!", ", please.", ". Thanks!", " please")


@dataclass(frozen=True, slots=True)
class Request:
    text: str
    call: Call


def _mention(source: Source, each: Field, value: Value, alone: bool) -> str:
    """The words for one argument. `alone`: no other parameter has this style, so a preposition may do."""
    if isinstance(each.kind, Flag):
        return source.choice(FLAG_ON if value.json else FLAG_OFF).format(w=each.words)
    if alone and isinstance(each.kind, Text) and each.kind.style.preposition and source.chance(0.4):
        return f"{each.kind.style.preposition} {value.spoken}"
    if isinstance(each.kind, Choice) and source.chance(0.2):
        return f"{value.spoken} {each.words}"
    if isinstance(each.kind, Integer | Number) and source.chance(0.05):
        return f"{value.spoken} {each.words}"
    return source.choice(SCALAR).format(w=each.words, v=value.spoken)


def arguments(source: Source, fields: Sequence[Field]) -> list[tuple[Field, Value]]:
    """Values for all required fields and for some of the others, in the schema's order."""
    return [(each, each.kind.draw(source)) for each in fields if each.required or source.chance(0.5)]


def _told(source: Source, spec: ToolSpec, given: Sequence[tuple[Field, Value]]) -> list[str]:
    styles = [each.kind.style for each in spec.fields if isinstance(each.kind, Text)]
    mentions = []
    for each, value in given:
        alone = isinstance(each.kind, Text) and styles.count(each.kind.style) == 1
        mentions.append(_mention(source, each, value, alone))
    return source.shuffled(mentions) if source.chance(0.5) else mentions


def _opening(source: Source, spec: ToolSpec) -> str:
    article = source.choice(("a", "the", "the", "our", "my", "this"))
    return source.wording(OPENERS, verb=source.choice(spec.verb.spoken), article=article, thing=spec.thing)


def request(source: Source, spec: ToolSpec, silent: Field | None = None) -> Request:
    """One request for a tool. Nothing is said about the `silent` parameter."""
    given = [(each, value) for each, value in arguments(source, spec.fields) if each is not silent]
    text = _opening(source, spec)
    if told := _told(source, spec, given):
        joined = series(told) if source.chance(0.4) else source.choice((", ", ", ", "; ")).join(told)
        text += source.choice((" ", " ", ", ", ": ", " - ", ". ", "\n")) + joined
    text = (text[0].upper() + text[1:] if source.chance(0.85) else text) + source.choice(CLOSERS)
    made: dict[str, Any] = {each.key: value.json for each, value in given}
    return Request(text, Call(spec.name, made))


def can_be_listed(kind: Kind) -> bool:
    """Whether several values of a parameter can be told in a row, each one a call of its own."""
    return isinstance(kind, Integer | Number) or (isinstance(kind, Text) and kind.style in LISTED)


def repeated(source: Source, spec: ToolSpec, count: int) -> tuple[str, list[Call]]:
    """One sentence that asks for a tool several times, with other values of its only parameter, whose values can be listed."""
    (each,) = spec.fields
    values = different(source, each.kind, count)
    lead = source.choice(LEADS).format(w=each.words)
    if isinstance(each.kind, Text) and each.kind.style.preposition and source.chance(0.5):
        lead = f"{each.kind.style.preposition} "
    spoken = [value.spoken for value in values]
    told = series([lead + each for each in spoken]) if source.chance(0.5) else lead + series(spoken)
    text = _opening(source, spec)
    text = f"{text[0].upper()}{text[1:]} {told}{source.choice(CLOSERS)}"
    return text, [Call(spec.name, {each.key: value.json}) for value in values]


def different(source: Source, kind: Kind, count: int) -> list[Value]:
    """So many values, no two the same."""
    found: dict[str, Value] = {}
    while len(found) < count:
        value = kind.draw(source)
        found.setdefault(str(value.json), value)
    return list(found.values())
