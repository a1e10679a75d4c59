"""Random tools: a name out of a verb and a thing, typed parameters, and the JSON that a client would send for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from training.data import words
from training.data.source import Source
from training.data.tools.kinds import Choice, Flag, Integer, Kind, Listing, Number, Record, Style, Text, options
from training.render import Tool as ToolJson


@dataclass(frozen=True, slots=True)
class Verb:
    """How a tool's deed is named in code, and in users' and descriptions' words."""

    code: tuple[str, ...]
    spoken: tuple[str, ...]
    described: str


VERBS: Final = (
    Verb(("create", "add", "make", "new"), ("create", "add", "make", "set up"), "Creates"),
    Verb(("get", "fetch", "read", "show", "lookup"), ("get", "fetch", "show me", "look up", "give me"), "Returns"),
    Verb(("delete", "remove", "drop"), ("delete", "remove", "get rid of"), "Deletes"),
    Verb(("update", "change", "edit", "set"), ("update", "change", "edit", "adjust"), "Updates"),
    Verb(("send", "deliver"), ("send", "deliver", "send out"), "Sends"),
    Verb(("find", "search"), ("find", "search for", "look for"), "Searches for"),
    Verb(("start", "run", "launch"), ("start", "run", "launch"), "Starts"),
    Verb(("stop", "halt", "end"), ("stop", "halt", "end"), "Stops"),
    Verb(("book", "reserve"), ("book", "reserve"), "Books"),
    Verb(("cancel",), ("cancel", "call off"), "Cancels"),
    Verb(("check", "verify", "validate"), ("check", "verify", "validate"), "Checks"),
    Verb(("order", "buy"), ("order", "buy"), "Orders"),
    Verb(("open",), ("open",), "Opens"),
    Verb(("close",), ("close",), "Closes"),
    Verb(("print",), ("print", "print out"), "Prints"),
    Verb(("measure",), ("measure",), "Measures"),
    Verb(("share",), ("share",), "Shares"),
    Verb(("register",), ("register",), "Registers"),
    Verb(("schedule", "plan"), ("schedule", "plan"), "Schedules"),
    Verb(("rate",), ("rate",), "Rates"),
)


@dataclass(frozen=True, slots=True)
class Field:
    key: str
    words: str
    kind: Kind
    description: str | None
    required: bool


@dataclass(frozen=True, slots=True)
class ToolSpec:
    name: str
    verb: Verb
    thing: str
    description: str | None
    fields: tuple[Field, ...]


class Structure(Enum):
    """How deep the parameters may go."""

    FLAT = "flat"
    NESTED = "nested"


def case(source: Source, spoken: str) -> str:
    """Words as an identifier: mostly snake_case."""
    parts = spoken.split()
    match source.random.random():
        case roll if roll < 0.72:
            return "_".join(parts)
        case roll if roll < 0.92:
            return parts[0] + "".join(part.capitalize() for part in parts[1:])
        case roll if roll < 0.96:
            return "".join(part.capitalize() for part in parts)
        case _:
            return "-".join(parts)


STRING_WORDS: Final[Mapping[Style, tuple[str, ...]]] = {
    Style.NAME: (
        "name",
        "customer",
        "user",
        "owner",
        "person",
        "guest",
        "author",
        "recipient",
        "contact",
        "artist",
        "driver",
    ),
    Style.PLACE: (
        "city",
        "location",
        "place",
        "town",
        "destination",
        "origin",
        "region",
        "station",
        "venue",
        "address",
    ),
    Style.PHRASE: ("topic", "title", "query", "subject", "label", "category", "keyword", "item", "product", "brand"),
    Style.QUOTE: ("text", "message", "note", "comment", "content", "body", "caption", "reason", "question"),
    Style.DATE: ("date", "day", "deadline", "start date", "end date", "birthday", "due date"),
    Style.TIME: ("time", "start time", "end time", "hour"),
    Style.CODE: ("id", "code", "order id", "serial", "reference", "ticket", "sku", "account"),
    Style.EMAIL: ("email", "mail", "email address", "reply to"),
    Style.URL: ("url", "link", "website", "endpoint"),
    Style.PATH: ("path", "file", "filename", "file path", "folder"),
}


def _qualified(source: Source, noun: str) -> str:
    """A noun alone, with a common word before it, or with a made-up one."""
    roll = source.random.random()
    if roll < 0.3:
        return noun
    return f"{source.choice(words.QUALITIES) if roll < 0.55 else source.word()} {noun}"


def _scalar(source: Source) -> tuple[str, Kind]:
    roll = source.random.random()
    made_up = source.chance(0.2)
    if roll < 0.5:
        style = source.choice(tuple(Style))
        return source.phrase(1, 2) if made_up else _qualified(source, source.choice(STRING_WORDS[style])), Text(style)
    if roll < 0.72:
        kind: Kind = Integer() if source.chance(0.65) else Number()
        return source.phrase(1, 2) if made_up else _qualified(source, source.choice(words.MEASURES)), kind
    if roll < 0.85:
        return _qualified(source, source.thing()), Flag()
    noun = source.choice(
        ("mode", "type", "kind", "unit", "format", "size", "color", "state", "level", "class", "method", "style")
    )
    return _qualified(source, noun), Choice(options(source, (*words.QUALITIES, *words.COLOURS)))


def _array(source: Source) -> tuple[str, Kind]:
    roll = source.random.random()
    if roll < 0.4:
        noun = source.choice(
            ("names", "guests", "members", "cities", "places", "tags", "labels", "items", "topics", "ids")
        )
        styles = {
            "names": Style.NAME,
            "guests": Style.NAME,
            "members": Style.NAME,
            "cities": Style.PLACE,
            "places": Style.PLACE,
            "ids": Style.CODE,
        }
        return _qualified(source, noun), Listing(Text(styles.get(noun, Style.PHRASE)))
    if roll < 0.65:
        return _qualified(source, source.choice(("numbers", "scores", "pages", "values", "weights", "rooms"))), Listing(
            Integer()
        )
    if roll < 0.8:
        noun = source.choice(("toppings", "options", "features", "days", "modes", "colors"))
        return _qualified(source, noun), Listing(Choice(options(source, (*words.QUALITIES, *words.COLOURS))))
    noun = source.choice(("items", "entries", "lines", "rows", "people", "stops"))
    return _qualified(source, noun), Listing(_record(source, 2))


def _record(source: Source, count: int) -> Record:
    found: dict[str, tuple[str, str, Kind]] = {}
    while len(found) < count:
        spoken, kind = _scalar(source)
        found.setdefault(spoken, (case(source, spoken), spoken, kind))
    return Record(tuple(found.values()))


def _described(source: Source, spoken: str, thing: str, kind: Kind) -> str | None:
    if source.chance(0.3):
        return None
    text = source.choice(
        ("The {w}", "{w} of the {t}", "The {w} of the {t}", "{w}", "The {w} to use", "Which {w}")
    ).format(w=spoken, t=thing)
    if isinstance(kind, Text) and kind.style in (Style.DATE, Style.TIME):
        text += source.choice(("", " (YYYY-MM-DD)" if kind.style is Style.DATE else " (HH:MM)"))
    return text[0].upper() + text[1:] + source.choice((".", ""))


def field(source: Source, thing: str, structure: Structure, required: bool) -> Field:
    if structure is Structure.FLAT:
        spoken, kind = _scalar(source)
    elif source.chance(0.6):
        spoken, kind = _array(source)
    else:
        spoken, kind = (
            _qualified(source, source.choice(("address", "options", "settings", "details", "filter", "position"))),
            _record(source, source.integer(1, 3)),
        )
    key = case(source, spoken)
    description = _described(source, spoken, thing, kind)
    if description and source.chance(0.06):
        key = source.choice("abcdnpqvxyz") + source.choice(("", "1", "2", "arg"))
    return Field(key, spoken, kind, description, required)


def _spoken(each: Field) -> set[str]:
    """All words that a user has for a parameter and its parts: no two parameters share any."""
    kind = each.kind.item if isinstance(each.kind, Listing) else each.kind
    return {each.words, *(spoken for _, spoken, _ in kind.fields)} if isinstance(kind, Record) else {each.words}


def tool(source: Source, structure: Structure = Structure.FLAT, count: int | None = None) -> ToolSpec:
    """A random tool whose name is of the source's side."""
    verb = source.choice(VERBS)

    def named() -> tuple[str, str]:
        thing = (
            source.phrase(1, 2)
            if source.chance(0.6)
            else f"{source.choice(words.QUALITIES)} {source.choice(words.THINGS)}"
        )
        return f"{source.choice(verb.code)} {thing}", thing

    spoken, thing = source.until(named, lambda n: source.ours(n[0]))
    if count is None:
        least = 0 if structure is Structure.FLAT and source.chance(0.2) else 1
        count = source.integer(least, 5)
    nested = source.integer(0, count - 1) if structure is Structure.NESTED else -1
    fields: dict[str, Field] = {}
    while len(fields) < count:
        deep = len(fields) == nested or (structure is Structure.NESTED and source.chance(0.25))
        new = field(source, thing, Structure.NESTED if deep else Structure.FLAT, source.chance(0.7))
        if not any(_spoken(new) & _spoken(old) for old in fields.values()):
            fields.setdefault(new.key.lower(), new)
    description = (
        None
        if source.chance(0.08)
        else f"{verb.described} {source.choice(('a', 'the'))} {thing}{source.choice(('.', ''))}"
    )
    return ToolSpec(case(source, spoken), verb, thing, description, tuple(fields.values()))


def as_json(source: Source, spec: ToolSpec) -> ToolJson:
    """As OpenAI's wire has it, with the extras that some clients add."""
    properties = {}
    for each in spec.fields:
        extra = {"description": each.description} if each.description else {}
        properties[each.key] = {**each.kind.schema, **extra} if source.chance(0.8) else {**extra, **each.kind.schema}
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    required = [each.key for each in spec.fields if each.required]
    if required or source.chance(0.5):
        parameters["required"] = required
    if source.chance(0.12):
        parameters["additionalProperties"] = False
    function: dict[str, Any] = {"name": spec.name}
    if spec.description:
        function["description"] = spec.description
    if properties or source.chance(0.6):
        function["parameters"] = parameters
    if source.chance(0.06):
        function["strict"] = source.chance(0.5)
    return {"type": "function", "function": function}
