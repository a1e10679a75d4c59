"""After a call: answering from what the tool returned, a second call that needs the first one's result, and follow-ups."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from training.data.checks import Call, CallsEqual, Says
from training.data.conversation import Conversation, Skill, assistant, tool_result, user
from training.data.skills import facts
from training.data.skills.calls import asking, call_turn, several
from training.data.skills.turns import idle_system, series
from training.data.source import Source
from training.data.tools import request, schema
from training.data.tools.kinds import Flag, Integer, Kind, Number, Style, Text
from training.data.tools.schema import Field
from training.data.tools.toolbox import random_offer, toolbox
from training.render import Message

OUTCOMES: Final = ("ok", "success", "done", "completed", "created", "accepted")
FAILURES: Final = (
    "{w} not found",
    "invalid {w}",
    "no such {w}",
    "permission denied for {w}",
    "{w} is not available",
    "timeout while reading {w}",
    "{w} already exists",
    "the {w} service is down",
    "missing {w}",
    "{w} is locked",
)
WEATHER: Final = (
    "sunny",
    "cloudy",
    "rainy",
    "windy",
    "clear",
    "snowing",
    "foggy",
    "light rain",
    "partly cloudy",
    "storm",
)
THEN: Final = (". Then ", " and then ", ". After that, ", ". Next, ")
LINKED: Final = (
    " with the {w} from the result.",
    ", using the returned {w}.",
    " with that {w}.",
    ", with the {w} that you get.",
    " and the {w} found.",
)
WANTED: Final = (
    "[What is|What's|Tell me|I want to know|Which is|Now, what is|And what is|So what is] the {w}[?||, please| exactly| there]",
    "[I need|Give me|Show me|Just say|I only want|Read out] the {w}[.|| please|, nothing else| only]",
)


@dataclass(frozen=True, slots=True)
class Returned:
    """What a tool returned: as text, and as the answer tells it. `shown`: what a right answer contains."""

    text: str
    answer: str
    shown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    words: str
    key: str
    value: Any

    @property
    def shown(self) -> str:
        return ("yes" if self.value else "no") if isinstance(self.value, bool) else str(self.value)


def _entries(source: Source, count: int) -> list[Entry]:
    kinds: tuple[Kind, ...] = (Integer(), Integer(), Number(), Flag(), *(Text(style) for style in Style))
    found: dict[str, Entry] = {}
    while len(found) < count:
        spoken = (
            source.phrase(1, 2)
            if source.chance(0.5)
            else source.choice(
                ("status", "id", "total", "price", "date", "name", "city", "temperature", "level", "result", "size")
            )
        )
        found.setdefault(spoken, Entry(spoken, schema.case(source, spoken), source.choice(kinds).draw(source).json))
    return list(found.values())


def _tell(entries: Sequence[Entry]) -> str:
    text = series([f"the {entry.words} is {entry.shown}" for entry in entries])
    return text[0].upper() + text[1:] + "."


def _dump(source: Source, value: Any) -> str:
    match source.integer(0, 9):
        case 0:
            return json.dumps(value, ensure_ascii=False, indent=2)
        case 1 | 2 | 3:
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        case _:
            return json.dumps(value, ensure_ascii=False)


def _bare(source: Source) -> str:
    """A result that is one value, with a unit at times."""
    value = _entries(source, 1)[0].shown
    if source.chance(0.4):
        unit = source.choice((" °C", " EUR", " km", "%", " kg", " degrees", " USD", " m"))
        value = f"{source.integer(-20, 500)}{unit}"
    return f"{value}, {source.choice(WEATHER)}" if source.chance(0.2) else value


def returned(source: Source) -> Returned:
    roll = source.random.random()
    if roll < 0.45:
        entries = _entries(source, source.integer(1, 4))
        return Returned(
            _dump(source, {e.key: e.value for e in entries}), _tell(entries), tuple(entry.shown for entry in entries)
        )
    if roll < 0.6:
        entry = _entries(source, 1)[0]
        made = {source.choice(("status", "result", "state")): source.choice(OUTCOMES), entry.key: entry.value}
        return Returned(_dump(source, made), f"Done. The {entry.words} is {entry.shown}.", ("Done", entry.shown))
    if roll < 0.7:
        outcome = source.choice(OUTCOMES)
        text = outcome if source.chance(0.5) else _dump(source, {"status": outcome})
        return Returned(text, "Done.", ("Done",))
    if roll < 0.76:
        bare = _bare(source)
        return Returned(bare, f"The result is {bare}.", (bare,))
    if roll < 0.84:
        sentence = (facts.about(source, 1)[0] if source.chance(0.5) else facts.own(source)).answer()
        return Returned(sentence, sentence, (sentence,))
    if roll < 0.92:
        why = source.choice(FAILURES).format(w=source.phrase(1, 2))
        text = _dump(source, {"error": why}) if source.chance(0.6) else f"Error: {why}"
        return Returned(text, f"That failed: {why}.", ("failed", why))
    found = source.names(source.integer(1, 4)) if source.chance(0.5) else source.words(source.integer(1, 4))
    value: Any = found if source.chance(0.4) else {source.choice(("results", "items", "matches", "data")): found}
    return Returned(_dump(source, value), f"Found {len(found)}: {series(found)}.", tuple(found))


def _close(
    source: Source, skill: Skill, tools: Sequence[Any], messages: Sequence[Message], answer: Returned, thinking: bool
) -> Conversation:
    reasoning = "I tell the user what came back." if thinking else ""
    return Conversation(
        skill=skill,
        messages=[*messages, assistant(answer.answer, reasoning)],
        check=Says(answer.shown),
        tools=tools,
        thinking=thinking,
    )


def answer(source: Source) -> Conversation:
    """One call or several, their results, the answer."""
    thinking = source.chance(0.5)
    kept = thinking and source.chance(0.5)  # many clients don't send the reasoning back
    start = idle_system(source)
    roll = source.random.random()
    if roll < 0.35:
        offers, text, calls = several(source)
        results = [returned(source) for _ in calls]
        messages = [*start, user(text), call_turn(calls, kept), *(tool_result(r.text) for r in results)]
        shown = tuple(text for result in results for text in result.shown)
        result = Returned("", "\n".join(r.answer for r in results), shown)
    else:
        offers = toolbox(source, source.integer(1, 3))
        asked = offers[0].ask()
        if roll < 0.55:
            entries = _entries(source, source.integer(2, 5))
            wanted = source.choice(entries)
            question = source.wording(WANTED, w=wanted.words)
            messages = [*start, user(f"{asked.text.rstrip('.!?')}. {question}"), call_turn([asked.call], kept)]
            messages.append(tool_result(_dump(source, {e.key: e.value for e in entries})))
            result = Returned("", _tell([wanted]), (wanted.shown,))
        else:
            result = returned(source)
            messages = [*start, user(asked.text), call_turn([asked.call], kept), tool_result(result.text)]
    tools = [offer.json for offer in source.shuffled(offers)]
    return _close(source, Skill.TOOL_RESULT, tools, messages, result, thinking)


def steps(source: Source) -> Conversation:
    roll = source.random.random()
    if roll < 0.4:
        return _chain(source)
    if roll < 0.7:
        return _again(source)
    return _recall(source)


def _kind(value: Any) -> Kind:
    """The parameter kind that takes an entry's value."""
    match value:
        case bool():
            return Flag()
        case int():
            return Integer()
        case float():
            return Number()
        case _:
            return Text(Style.CODE)


def _chain(source: Source) -> Conversation:
    """The second tool needs a value that the first one returns: first one call, then the other."""
    first = schema.tool(source)
    linked, *more = _entries(source, source.integer(1, 3))
    base = source.until(lambda: schema.tool(source, count=source.integer(0, 2)), lambda t: t.name != first.name)
    link = Field(linked.key, linked.words, _kind(linked.value), None, required=True)
    base = replace(
        base, fields=tuple(field for field in base.fields if field.words != link.words and field.key != link.key)
    )
    second = replace(base, fields=(*base.fields, link))
    offers = [random_offer(source, first), random_offer(source, second)]
    one, two = request.request(source, first), request.request(source, base)
    text = one.text.rstrip(".!?") + source.choice(THEN) + two.text[0].lower() + two.text[1:].rstrip(".!?")
    text += source.choice(LINKED).format(w=linked.words)
    if source.chance(0.4):
        return asking(source, Skill.TOOL_STEPS, offers, text, [one.call])
    thinking = source.chance(0.5)
    result = {entry.key: entry.value for entry in source.shuffled([linked, *more])}
    call = Call(second.name, {**two.call.arguments, linked.key: linked.value})
    messages = [
        *idle_system(source),
        user(text),
        call_turn([one.call], thinking and source.chance(0.5)),
        tool_result(_dump(source, result)),
    ]
    return Conversation(
        skill=Skill.TOOL_STEPS,
        messages=[*messages, call_turn([call], thinking)],
        check=CallsEqual((call,)),
        tools=[offer.json for offer in source.shuffled(offers)],
        thinking=thinking,
    )


def _round(source: Source, text: str, call: Call) -> list[Message]:
    """A finished round: question, call, result, answer."""
    result = returned(source)
    return [user(text), call_turn([call], thinking=False), tool_result(result.text), assistant(result.answer)]


def _again(source: Source) -> Conversation:
    """A new request after a finished round, at times to the same tool."""
    offers = toolbox(source, source.integer(1, 4))
    history = idle_system(source)
    for _ in range(source.integer(1, 2)):
        asked = source.choice(offers).ask()
        history += _round(source, asked.text, asked.call)
    now = source.choice(offers).ask()
    return asking(source, Skill.TOOL_STEPS, offers, now.text, [now.call], history)


def _recall(source: Source) -> Conversation:
    """A question about an earlier result: no call is needed."""
    offers = toolbox(source, source.integer(1, 3))
    asked = offers[0].ask()
    entries = _entries(source, source.integer(2, 4))
    wanted = source.choice(entries)
    history = [*idle_system(source), user(asked.text), call_turn([asked.call], thinking=False)]
    history += [tool_result(_dump(source, {e.key: e.value for e in entries})), assistant(_tell(entries))]
    question = source.wording(WANTED, w=wanted.words)
    tools = [offer.json for offer in source.shuffled(offers)]
    result = Returned("", _tell([wanted]), (wanted.shown,))
    return _close(source, Skill.TOOL_STEPS, tools, [*history, user(question)], result, source.chance(0.5))
