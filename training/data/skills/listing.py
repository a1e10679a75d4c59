"""Lists: naming members of a kind, changing a list's form or order, picking out of it, counting."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from training.data import words
from training.data.checks import Check, Exactly, Members, Says
from training.data.conversation import Conversation, Skill
from training.data.skills.turns import conversation, series
from training.data.source import Source

Part = tuple[str, str, Check, str]  # user's words, answer, check, thought

FORMS: Final = {"bulleted": r"- (.+)", "numbered": r"\d+\. (.+)"}
FORM_WORDS: Final = {
    "bulleted": ("[a bulleted list|bullet points|a bullet list|bullets|a list with dashes]",),
    "numbered": ("[a numbered list|numbers|a list with numbers|a numbered form]",),
    "lines": ("[one line each|separate lines|one per line|lines of their own]",),
    "commas": ("[a comma-separated list|one line with commas|comma-separated form]",),
}
NAMING: Final = (
    "[|Please |Can you |Could you ][name|list|give me|tell me|write down|show me] {count} {category}[|.| "
    "please| for me| you know] [as|in|using] {form}",
    "[I need|I want|I'd like|We need|Give us] {count} {category}[|, any you like|, please] [as|in] {form}",
    "[What are|Which are|Do you know] {count} {category}? [Answer with|Use|Write] {form}[|.| please]",
)
NAMING_ONLY: Final = (  # a bulleted list will do
    "[|Please |Can you |Could you ][name|list|give me|tell me|write down|show me|think of|suggest] {count} {category}[|.| "
    "please| for me|, please|?]",
    "[I need|I want|I'd like|We need|Give us|I am looking for] {count} {category}[|, any you like|, please|.]",
    "[What are|Which are|Do you know|Can you think of] {count} {category}?",
)
FORMING: Final = (
    "[|Please |Can you |Could you ][turn|put|make|bring|convert] [this|these|the following|these items] "
    "[into|in] {form}: {items}",
    "[|Please ][write|list|show|format] [these|the following|these things|these items] [as|in] {form}: {items}",
    "{items}\n[Make that|Turn that into|Write that as|I need that as|As|Now as] {form}[|, please|.]",
    "[I have|We have|There are|My list is|I need to buy|We packed] {items}. [Write that as|Turn it into"
    "|Give me] {form}[|, please|.]",
)
PICKING: Final = (
    "[What is|Which is|What's|Name|Tell me] the {place} [item|entry|word|thing|one] [of|in] [this list"
    "|the list|these]: {items}[?|]",
    "{items}\n[What is|Which is|Name|Tell me|Give me] the {place} [item|entry|one|word][?|.|]",
    "[From|Out of|In] the list {items}, [which is|give me|what is|pick] the {place} [item|entry|one][?|]",
)
REVERSING: Final = (
    "[|Please |Can you ][reverse|turn around|invert] [this|the|the following] list: {items}",
    "[|Please ][write|list|give|say] [these|this list|the following] [in reverse order|backwards|from last to first]: {items}",
    "{items}\n[Reverse that|Now in reverse order|Now backwards|From last to first][|, please|.]",
)
REMOVING: Final = (
    "[|Please |Can you ][remove|delete|drop|strike|leave out] {one} from [this|the|the following] list: {items}",
    "{items}\n[|Please |Now ][remove|delete|drop|leave out|strike] {one}[|, please|.| from that]",
    "[List|Repeat|Write] [these|the following] without {one}: {items}",
)
ADDING: Final = (
    "[|Please |Can you ][add|append|put] {one} [to|at the end of] [this|the|the following] list: {items}",
    "{items}\n[|Please |Now ][add|append] {one}[|, please|.| to that| at the end]",
)
COUNTING: Final = (
    "[How many|Count the|What is the number of] [items|entries|things|words] [are in|in|are on] [this "
    "list|the list|the following list]: {items}[?|]",
    "{items}\n[How many are that|How many items|Count them|How many entries][?|, please|.|]",
)
ODD: Final = (
    "[Which|What] of [these|the following] [is|are] [|the ]{category}: {items}?",
    "[|Please ][pick|choose|list|find|name] the {category} [from|in|out of|among] [this list|these|the following]: {items}",
)
ORDINALS: Final = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "last")


def show(items: Sequence[str], form: str) -> str:
    match form:
        case "bulleted":
            return "\n".join(f"- {item}" for item in items)
        case "numbered":
            return "\n".join(f"{place}. {item}" for place, item in enumerate(items, 1))
        case "lines":
            return "\n".join(items)
        case _:
            return ", ".join(items)


def items(source: Source, low: int = 3, high: int = 7) -> list[str]:
    roll = source.random.random()
    count = source.integer(low, high)
    if roll < 0.3:
        return source.names(count)
    found: dict[str, None] = {}
    while len(found) < count:
        found.setdefault(source.phrase(1, 2) if roll < 0.6 else source.thing())
    return list(found)


def _told(source: Source, listed: Sequence[str]) -> str:
    return series(listed) if source.chance(0.4) else show(listed, "commas")


def _name(source: Source) -> Part:
    category, members = source.choice(tuple(words.CATEGORIES.items()))
    count, form = source.integer(2, 6), source.choice(tuple(FORMS))
    spoken = words.NUMBER_WORDS[count] if source.chance(0.6) else str(count)
    if source.chance(0.4):
        form = "bulleted"
        text = source.wording(NAMING_ONLY, count=spoken, category=category)
    else:
        text = source.wording(NAMING, count=spoken, category=category, form=source.expand(FORM_WORDS[form][0]))
    answer = show(members[:count], form)
    check = Members(frozenset(m.lower() for m in members), count, re.compile(FORMS[form]))
    return text, answer, check, f"I name {count} {category} in {form} form."


def _form(source: Source) -> Part:
    listed, form = items(source), source.choice(tuple(FORM_WORDS))
    text = source.wording(FORMING, items=_told(source, listed), form=source.expand(FORM_WORDS[form][0]))
    answer = show(listed, form)
    return text, answer, Exactly((answer,)), f"{len(listed)} items in {form} form."


def _pick(source: Source) -> Part:
    listed = items(source, 3, 6)
    place = source.choice((*range(len(listed)), -1))
    text = source.wording(PICKING, items=_told(source, listed), place=ORDINALS[place])
    working = "\n".join(f"{ORDINALS[i]}: {item}" for i, item in enumerate(listed))
    return text, listed[place], Exactly((listed[place],)), working


def _reverse(source: Source) -> Part:
    listed = items(source, 3, 6)
    answer = ", ".join(reversed(listed))
    text = source.wording(REVERSING, items=_told(source, listed))
    return text, answer, Exactly((answer,)), "From last to first."


def _remove(source: Source) -> Part:
    listed = items(source, 3, 7)
    one = source.choice(listed)
    answer = ", ".join(item for item in listed if item != one)
    return source.wording(REMOVING, items=_told(source, listed), one=one), answer, Exactly((answer,)), f"All but {one}."


def _add(source: Source) -> Part:
    *listed, one = items(source, 3, 7)
    answer = ", ".join([*listed, one])
    text = source.wording(ADDING, items=_told(source, listed), one=one)
    return text, answer, Exactly((answer,)), f"The list, then {one}."


def _count(source: Source) -> Part:
    listed = items(source, 2, 9)
    working = "\n".join(f"{place}: {item}" for place, item in enumerate(listed, 1))
    text = source.wording(COUNTING, items=_told(source, listed))
    return text, f"{len(listed)} items.", Says((f"{len(listed)} items",)), working


def _odd(source: Source) -> Part:
    category, other = source.sample(
        ("colours", "animals", "vegetables", "instruments", "jobs", "weekdays", "months"), 2
    )
    wanted = source.sample(words.CATEGORIES[category], source.integer(1, 3))
    mixed = source.shuffled([*wanted, *source.sample(words.CATEGORIES[other], source.integer(2, 4))])
    answer = ", ".join(item for item in mixed if item in wanted)
    return (
        source.wording(ODD, category=category, items=_told(source, mixed)),
        answer,
        Exactly((answer,)),
        (f"Only the {category}."),
    )


KINDS: Final[tuple[Callable[[Source], Part], ...]] = (_name, _form, _form, _pick, _reverse, _remove, _add, _count, _odd)


def draw(source: Source) -> Conversation:
    text, answer, check, thought = source.choice(KINDS)(source)
    bare = "\n" in text  # it begins with the list itself, whose items stay as they are
    return conversation(source, Skill.LISTING, text if bare else text[0].upper() + text[1:], answer, check, thought)
