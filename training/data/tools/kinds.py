"""The kinds of values that a tool's parameter may take: its JSON Schema, and values with the words a user has for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from training.data import words
from training.data.skills.turns import series
from training.data.source import Source


@dataclass(frozen=True, slots=True)
class Value:
    """A value in JSON and in a user's words."""

    json: Any
    spoken: str


class Kind(Protocol):
    @property
    def schema(self) -> Mapping[str, Any]: ...

    def draw(self, source: Source) -> Value: ...


class Style(Enum):
    """What a string holds. The second entry is the preposition that points to it where nothing else has this style."""

    NAME = ("name", "for")
    PLACE = ("place", "in")
    PHRASE = ("phrase", "about")
    QUOTE = ("quote", "")
    DATE = ("date", "on")
    TIME = ("time", "at")
    CODE = ("code", "")
    EMAIL = ("email", "to")
    URL = ("url", "")
    PATH = ("path", "")

    @property
    def preposition(self) -> str:
        return self.value[1]


def _code(source: Source) -> str:
    letters = "".join(source.random.choices("ABCDEFGHJKLMNPQRSTUVWXYZ", k=source.integer(1, 4)))
    number = source.integer(1, 99999)
    return source.choice(
        (f"{letters}-{number}", f"{letters}{number}", f"{number}-{letters}", f"{letters.lower()}_{number}")
    )


def _email(source: Source) -> str:
    sender = source.word() if source.chance(0.6) else f"{source.word()}.{source.word()}"
    return f"{sender}@{source.word()}.{source.choice(('com', 'org', 'net', 'io', 'de', 'example'))}"


def _url(source: Source) -> str:
    tail = f"/{source.word()}" if source.chance(0.6) else ""
    return f"https://{source.choice(('', 'www.', 'api.'))}{source.word()}.{source.choice(('com', 'org', 'net', 'io'))}{tail}"


def _path(source: Source) -> str:
    folders = "/".join(source.thing() for _ in range(source.integer(0, 2)))
    name = f"{source.word()}.{source.choice(('txt', 'py', 'csv', 'json', 'md', 'log', 'png', 'pdf'))}"
    return source.choice(("", "/", "./")) + (f"{folders}/{name}" if folders else name)


def _quote(source: Source) -> str:
    text = source.phrase(2, 6)
    return text.capitalize() + source.choice((".", "", "!")) if source.chance(0.6) else text


WRITERS: dict[Style, Callable[[Source], str]] = {
    Style.NAME: Source.name,
    Style.PLACE: Source.place,
    Style.PHRASE: lambda source: source.phrase(1, 3),
    Style.QUOTE: _quote,
    Style.DATE: lambda source: f"{source.integer(2020, 2032)}-{source.integer(1, 12):02}-{source.integer(1, 28):02}",
    Style.TIME: lambda source: f"{source.integer(0, 23):02}:{source.integer(0, 59):02}",
    Style.CODE: _code,
    Style.EMAIL: _email,
    Style.URL: _url,
    Style.PATH: _path,
}


@dataclass(frozen=True, slots=True)
class Text:
    style: Style

    @property
    def schema(self) -> Mapping[str, Any]:
        return {"type": "string"}

    def draw(self, source: Source) -> Value:
        text = WRITERS[self.style](source)
        quoted = self.style is Style.QUOTE or (self.style in (Style.PHRASE, Style.PATH) and source.chance(0.35))
        return Value(text, source.choice((f'"{text}"', f'"{text}"', f"'{text}'")) if quoted else text)


@dataclass(frozen=True, slots=True)
class Integer:
    low: int = 0
    high: int = 9999

    @property
    def schema(self) -> Mapping[str, Any]:
        return {"type": "integer"}

    def draw(self, source: Source) -> Value:
        number = source.integer(self.low, source.choice((12, 100, self.high)))
        word = words.NUMBER_WORDS[number] if 1 <= number <= 12 and source.chance(0.25) else str(number)
        return Value(number, word)


@dataclass(frozen=True, slots=True)
class Number:
    @property
    def schema(self) -> Mapping[str, Any]:
        return {"type": "number"}

    def draw(self, source: Source) -> Value:
        number = round(
            source.random.uniform(-20 if source.chance(0.1) else 0, source.choice((1, 30, 1000))), source.integer(1, 2)
        )
        if source.chance(0.25):
            return Value(whole := source.integer(0, 500), str(whole))
        return Value(number, str(number))


@dataclass(frozen=True, slots=True)
class Flag:
    @property
    def schema(self) -> Mapping[str, Any]:
        return {"type": "boolean"}

    def draw(self, source: Source) -> Value:
        yes = source.chance(0.5)
        return Value(yes, source.choice(("on", "yes", "true") if yes else ("off", "no", "false")))


@dataclass(frozen=True, slots=True)
class Choice:
    options: tuple[str, ...]

    @property
    def schema(self) -> Mapping[str, Any]:
        return {"type": "string", "enum": list(self.options)}

    def draw(self, source: Source) -> Value:
        option = source.choice(self.options)
        return Value(option, option.replace("_", " ").lower() if source.chance(0.7) else option)


@dataclass(frozen=True, slots=True)
class Listing:
    item: Kind

    @property
    def schema(self) -> Mapping[str, Any]:
        return {"type": "array", "items": self.item.schema}

    def draw(self, source: Source) -> Value:
        if isinstance(self.item, Choice):
            count = source.integer(1, len(self.item.options) - 1)
            chosen = source.sample(self.item.options, count)
            return Value(chosen, series([option.replace("_", " ") for option in chosen]))
        low = 1 if isinstance(self.item, Record) else 2
        values = [self.item.draw(source) for _ in range(source.integer(low, 2 if isinstance(self.item, Record) else 4))]
        joined = (
            series([value.spoken for value in values]) if source.chance(0.7) else ", ".join(v.spoken for v in values)
        )
        return Value([value.json for value in values], joined)


@dataclass(frozen=True, slots=True)
class Record:
    """A nested object; all its fields are required."""

    fields: tuple[tuple[str, str, Kind], ...]  # key, words, kind

    @property
    def schema(self) -> Mapping[str, Any]:
        properties = {key: kind.schema for key, _, kind in self.fields}
        return {"type": "object", "properties": properties, "required": list(properties)}

    def draw(self, source: Source) -> Value:
        drawn = [(key, spoken, kind.draw(source)) for key, spoken, kind in self.fields]
        joint = source.choice((" ", ": ", " "))
        told = [f"{spoken}{joint}{value.spoken}" for _, spoken, value in drawn]
        return Value(
            {key: value.json for key, _, value in drawn},
            f"({', '.join(told)})"
            if source.chance(0.5)
            else series(told)
            if source.chance(0.5)
            else " and ".join(told),
        )


def options(source: Source, pool: Sequence[str]) -> tuple[str, ...]:
    """An enum: common words or made-up ones."""
    count = source.integer(2, 5)
    if source.chance(0.5):
        chosen = source.sample(pool, count)
    else:
        chosen = [w if source.chance(0.75) else f"{w}_{source.word()}" for w in source.words(count)]
    return tuple(option.upper() for option in chosen) if source.chance(0.1) else tuple(chosen)
