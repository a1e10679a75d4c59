"""Statements about made-up people, firms and things: for passages, for extraction and for memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from training.data import words
from training.data.source import Source

Value = str | int | float


@dataclass(frozen=True, slots=True)
class Attribute:
    """One thing that can be said. Patterns speak of `{e}` and `{v}`."""

    key: str
    says: tuple[str, ...]
    asks: tuple[str, ...]
    draw: Callable[[Source], Value]


@dataclass(frozen=True, slots=True)
class Fact:
    entity: str
    attribute: Attribute
    value: Value

    def sentence(self, source: Source, entity: str | None = None) -> str:
        text = source.reply(self.attribute.says, e=entity or self.entity, v=self.value)
        return text[0].upper() + text[1:]

    def question(self, source: Source) -> str:
        return source.wording(self.attribute.asks, e=self.entity)

    def answer(self) -> str:
        """The first way to say it, without its options: assistants vary less than people."""
        text = _plain(self.attribute.says[0]).format(e=self.entity, v=self.value)
        return text[0].upper() + text[1:]


def _plain(pattern: str) -> str:
    """The first option of every gap."""
    while "[" in pattern:
        start = pattern.rindex("[")
        end = pattern.index("]", start)
        pattern = pattern[:start] + pattern[start + 1 : end].split("|", maxsplit=1)[0] + pattern[end + 1 :]
    return pattern


def _of(options: tuple[str, ...]) -> Callable[[Source], Value]:
    return lambda source: source.choice(options)


def _between(low: int, high: int) -> Callable[[Source], Value]:
    return lambda source: source.integer(low, high)


_WHAT = (
    "[||Please tell me: |According to the text, |Tell me, |Question: |Please answer: |I want to know: |Now, |Say, "
    "|From the text: |Can you tell: |Quick question: |Do you know: |Remind me: ]"
)

PERSON: Final = (
    Attribute(
        "job",
        ("{e} [works as|is] a {v}.", "{e} earns a living as a {v}.", "{e}'s [job|profession] is {v}."),
        (_WHAT + "what [is {e}'s [job|profession|work]|does {e} do for a living|does {e} work as]?",),
        _of(words.JOBS),
    ),
    Attribute(
        "city",
        (
            "{e} lives in {v}.",
            "{e}'s home [town|city|] is {v}.",
            "{e} [moved to|settled in|comes from] {v}[| long ago| last year].",
        ),
        (
            _WHAT + "where [does {e} live|is {e}'s home|is {e} at home]?",
            _WHAT + "in which [town|city|place] does {e} live?",
        ),
        Source.place,
    ),
    Attribute(
        "age",
        (
            "{e} is {v} years old.",
            "{e}'s age is {v}.",
            "{e} [turned|has just turned|became] {v}[| this year| last week].",
        ),
        (_WHAT + "how old is {e}[| now| today]?", _WHAT + "what is {e}'s age[| now]?"),
        _between(4, 97),
    ),
    Attribute(
        "pet",
        ("{e} has a {v}.", "{e} [keeps|owns|looks after|adopted] a {v}[| at home].", "{e}'s [pet|animal] is a {v}."),
        (_WHAT + "[what|which] [pet|animal] does {e} [have|keep|own]?", _WHAT + "what is {e}'s pet?"),
        _of(words.ANIMALS),
    ),
    Attribute(
        "instrument",
        ("{e} plays the {v}.", "{e} [practises|has learnt|is learning|loves playing] the {v}[| every day]."),
        (_WHAT + "[what|which] instrument does {e} play[| at home]?",),
        _of(words.INSTRUMENTS),
    ),
    Attribute(
        "favourite_colour",
        ("{e}'s favourite colour is {v}.", "{e} [likes|loves|prefers] the colour {v}[| best| most]."),
        (_WHAT + "[what|which] [is {e}'s favourite colour|colour does {e} [like|love|prefer]]?",),
        _of(words.COLOURS),
    ),
    Attribute(
        "friend",
        ("{e}'s best friend is {v}.", "{e} [often meets|plays chess with|is a friend of|goes fishing with] {v}."),
        (_WHAT + "who is {e}'s [best |]friend?", _WHAT + "[what is the name of|who's] {e}'s friend?"),
        Source.name,
    ),
    Attribute(
        "born",
        (
            "{e} was born in {v}.",
            "{e}'s year of birth is {v}.",
            "In {v}, {e} was born[| as the first child| in winter].",
        ),
        (_WHAT + "[when|in which year] was {e} born?", _WHAT + "what is {e}'s year of birth?"),
        _between(1900, 2015),
    ),
    Attribute(
        "employer",
        ("{e} works for {v}.", "{e} [has a job at|is employed by|was hired by] {v}."),
        (_WHAT + "[who|which company|what company] does {e} work for?", _WHAT + "who [employs|hired] {e}?"),
        Source.name,
    ),
)
COMPANY: Final = (
    Attribute(
        "founded",
        ("{e} was founded in {v}.", "{e} was [started|set up] in [the year |]{v}.", "The company {e} dates from {v}."),
        (_WHAT + "[when|in which year] was {e} [founded|started|set up]?",),
        _between(1850, 2024),
    ),
    Attribute(
        "founder",
        ("{e} was founded by {v}.", "{v} [founded|started|set up] {e}.", "The founder of {e} is {v}."),
        (_WHAT + "who [founded|started|set up] {e}?", _WHAT + "who is the founder of {e}?"),
        Source.name,
    ),
    Attribute(
        "headquarters",
        ("{e} is based in {v}.", "The headquarters of {e} [are|stand] in {v}.", "{e} has its main office in {v}."),
        (_WHAT + "where [is {e} based|are the headquarters of {e}|is {e}'s main office]?",),
        Source.place,
    ),
    Attribute(
        "employees",
        ("{e} has {v} employees.", "{v} people work at {e}.", "{e} employs {v} [people|workers]."),
        (_WHAT + "how many [employees|workers|people] [does {e} have|work at {e}]?",),
        _between(3, 9000),
    ),
    Attribute(
        "product",
        (
            "{e} makes {v}s.",
            "{e} [produces|builds|sells] {v}s[| since long ago| all over the world].",
            "{v}s are what {e} makes.",
        ),
        (_WHAT + "what does {e} [make|produce|build|sell]?",),
        Source.thing,
    ),
    Attribute(
        "boss",
        ("{e} is led by {v}.", "{v} [leads|runs|heads] {e}.", "The [head|boss|director] of {e} is {v}."),
        (_WHAT + "who [leads|runs|heads] {e}?", _WHAT + "who is the [head|boss|director] of {e}?"),
        Source.name,
    ),
)
ITEM: Final = (
    Attribute(
        "price",
        (
            "The {e} costs {v} euros.",
            "The price of the {e} is {v} euros.",
            "You [pay|get the {e} for] {v} euros[| for the {e}].",
        ),
        (_WHAT + "[how much|what] does the {e} cost?", _WHAT + "what is the price of the {e}?"),
        _between(1, 900),
    ),
    Attribute(
        "weight",
        (
            "The {e} weighs {v} kilograms.",
            "The weight of the {e} is {v} kilograms.",
            "At {v} kilograms, the {e} is [heavy|not light].",
        ),
        (_WHAT + "how [heavy is the {e}|much does the {e} weigh]?", _WHAT + "what is the weight of the {e}?"),
        _between(1, 400),
    ),
    Attribute(
        "colour",
        ("The {e} is {v}.", "The colour of the {e} is {v}.", "The {e} was painted {v}[| in spring| by hand]."),
        (_WHAT + "[what|which] colour [is|has] the {e}?", _WHAT + "what is the colour of the {e}?"),
        _of(words.COLOURS),
    ),
    Attribute(
        "owner",
        ("The {e} belongs to {v}.", "{v} owns the {e}.", "The owner of the {e} is {v}."),
        (_WHAT + "who owns the {e}?", _WHAT + "[who does the {e} belong to|who is the owner of the {e}]?"),
        Source.name,
    ),
    Attribute(
        "place",
        ("The {e} is in {v}.", "The {e} [stands|is kept|can be seen] in {v}.", "In {v} you find the {e}."),
        (_WHAT + "where [is|do I find|can I see] the {e}?",),
        Source.place,
    ),
    Attribute(
        "maker",
        ("The {e} was made by {v}.", "{v} made the {e}.", "The maker of the {e} is {v}."),
        (_WHAT + "who made the {e}?", _WHAT + "who is the maker of the {e}?"),
        Source.name,
    ),
)


def entity(source: Source) -> tuple[str, tuple[Attribute, ...], str]:
    """Something to speak of: what it is called, what can be said of it, and the pronoun for it."""
    roll = source.random.random()
    if roll < 0.5:
        return source.name(), PERSON, source.choice(("He", "She"))
    if roll < 0.75:
        return source.name(), COMPANY, "It"
    return source.phrase(1, 2), ITEM, "It"


def about(source: Source, count: int) -> list[Fact]:
    """Different facts about one entity."""
    name, attributes, _ = entity(source)
    chosen = source.sample(attributes, min(count, len(attributes)))
    return [Fact(name, attribute, attribute.draw(source)) for attribute in chosen]


def own(source: Source) -> Fact:
    """A fact of no common kind: some made-up measure of some made-up thing."""
    what, whose = source.phrase(1, 2), source.phrase(1, 2)
    value: Value = source.integer(2, 5000) if source.chance(0.5) else source.phrase(1, 2)
    attribute = Attribute(
        what.replace(" ", "_"),
        (f"The {what} of the {{e}} is {{v}}.", f"The {{e}} has [a |the ]{what} [of |]{{v}}[.|, as far as we know.]"),
        (_WHAT + f"what [is|'s] the {what} of the {{e}}?", _WHAT + f"which {what} does the {{e}} have?"),
        lambda _: value,
    )
    return Fact(whose, attribute, value)


def as_json(fact: Fact) -> tuple[str, Any]:
    return fact.attribute.key, fact.value
