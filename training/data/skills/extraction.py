"""Fields out of a text as JSON, nothing around it; what the text does not tell is null."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from training.data.checks import JsonEquals
from training.data.conversation import Conversation, Skill, system, user
from training.data.skills import facts
from training.data.skills.turns import conversation, series
from training.data.source import Source
from training.render import Message

ASKED: Final = (
    "[|Please |Can you |Could you ][extract|get|pull|take|pick out] [the fields |the values |]{fields} "
    "[from|out of] [this|the|the following] [text|message|note|sentence] as [|a ]JSON[| object][:|:\n"
    "|:\n\n]{text}",
    "[|Please ][return|give me|write|answer with|output] [|a ]JSON[| object] with [the keys |the fields "
    "|]{fields} [for|from] [this|the following][| text| note]: {text}",
    "{text}\n\n[Extract|Give me|Return|Write down|I need] [|the fields ]{fields} as JSON[|.| only|, please]",
    "[Text|Note|Message|Input]: {text}\n[Fields|Keys|Wanted]: {fields}\n[JSON|Answer as JSON|Output JSON"
    "|Reply with JSON only][:|.|]",
    "[Fill|Complete|Fill in] [this|the] [JSON|template|form] [from|with] the text[.|:]\n{template}\n\n[Text: |]{text}",
)
SCHEMA_PROMPTS: Final = (
    "[Reply|Answer|Respond] [only |]with [a |]JSON [object |][that matches|for|of|following] this schema: {schema}",
    "[Extract|Read off|Collect] the [data|fields|values] [from|in] the user's [text|message] as JSON [of"
    "|with|following] this schema: {schema}",
    "[You extract data|You are a data extractor|You turn text into JSON]. [Schema|JSON schema|Format]: {schema}",
)
TYPES: Final = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array"}

Told = tuple[str, Any, str]  # key, value, the sentence that tells it


def _key(source: Source, key: str) -> str:
    if "_" in key and source.chance(0.25):
        head, *rest = key.split("_")
        return head + "".join(part.capitalize() for part in rest)
    return key


def _own(source: Source) -> Told:
    """A field of a made-up name, of any type."""
    name = source.phrase(1, 2)
    key = _key(source, name.replace(" ", "_"))
    match source.integer(0, 5):
        case 0:
            flag = source.chance(0.5)
            told = (
                ("The {n} is on.", "With {n}.", "{n}: yes.")
                if flag
                else ("The {n} is off.", "Without {n}.", "{n}: no.")
            )
            return key, flag, source.choice(told).format(n=name)
        case 1:
            items = source.names(source.integer(2, 4)) if source.chance(0.5) else source.words(source.integer(2, 4))
            return (
                key,
                items,
                source.choice(("The {n} are {v}.", "{n}: {v}.", "As {n} we have {v}.")).format(n=name, v=series(items)),
            )
        case 2:
            number = round(source.random.uniform(0, 500), source.integer(1, 2))
            return (
                key,
                number,
                source.choice(("The {n} is {v}.", "{n}: {v}.", "We measured a {n} of {v}.")).format(n=name, v=number),
            )
        case 3:
            count = source.integer(0, 9999)
            return (
                key,
                count,
                source.choice(("The {n} is {v}.", "{n}: {v}.", "It has a {n} of {v}.")).format(n=name, v=count),
            )
        case _:
            text = source.choice((source.name, source.place, source.phrase))()
            return (
                key,
                text,
                source.choice(("The {n} is {v}.", "{n}: {v}.", "Its {n} is called {v}.")).format(n=name, v=text),
            )


def _told(source: Source) -> list[Told]:
    name, attributes, pronoun = facts.entity(source)
    naming = source.choice(("name", "name", source.choice(("title", "subject", "who"))))
    told: list[Told] = []
    for index, attribute in enumerate(source.sample(attributes, source.integer(1, 4))):
        fact = facts.Fact(name, attribute, attribute.draw(source))
        if attributes is facts.ITEM:
            pronoun = name
        told.append((_key(source, attribute.key), fact.value, fact.sentence(source, pronoun if index else None)))
    if source.chance(0.7):
        told.insert(0, (naming, name, ""))
    own = [_own(source) for _ in range(source.integer(0, 3))]
    return told + [field for field in own if field[0] not in {t[0] for t in told}]


def _fields(source: Source, keys: Sequence[str]) -> str:
    quote = source.choice(("", "", '"', "`"))
    marked = [f"{quote}{key}{quote}" for key in keys]
    return series(marked) if source.chance(0.5) else ", ".join(marked)


def draw(source: Source) -> Conversation:
    told = _told(source)
    text = " ".join(sentence[0].upper() + sentence[1:] for _, _, sentence in told if sentence)
    rest = told[1:]
    wanted = [told[0], *source.sample(rest, source.integer(max(min(1, len(rest)), len(rest) - 2), len(rest)))]
    if source.chance(0.4):
        wanted = source.shuffled(wanted)
    value = {key: known for key, known, _ in wanted}
    if source.chance(0.12):
        value[_key(source, "_".join(source.words(source.integer(1, 2))))] = None
    answer = json.dumps(value, ensure_ascii=False)
    turns: str | list[Message]
    if source.chance(0.25):
        properties = {key: {"type": TYPES.get(type(known), "string")} for key, known in value.items()}
        schema = json.dumps({"type": "object", "properties": properties, "required": list(value)})
        turns = [system(source.wording(SCHEMA_PROMPTS, schema=schema)), user(text)]
    else:
        template = json.dumps(dict.fromkeys(value, source.choice(("", "...", None))))
        turns = source.wording(ASKED, fields=_fields(source, list(value)), text=text, template=template)
    thought = f"I look for {series(list(value))}."
    return conversation(source, Skill.EXTRACTION, turns, answer, JsonEquals(value), thought)
