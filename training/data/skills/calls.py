"""Tool calls: one of several tools, deep arguments, several calls at once, and no call where none fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from training.data.checks import Call, CallsEqual, Check, Says
from training.data.conversation import Conversation, Skill, assistant, calling, user
from training.data.skills import limits, small_talk
from training.data.skills.turns import casual, idle_system
from training.data.source import Source, Split
from training.data.tools import request, schema
from training.data.tools.request import Request
from training.data.tools.schema import Structure
from training.data.tools.toolbox import Offer, everyday_toolbox, random_offer, repeated, toolbox
from training.render import Message

NO_TOOL: Final = "None of the tools can do that."
LINKS: Final = (
    ". Then ",
    " and ",
    ". Also ",
    ", and then ",
    ". And ",
    "; also, ",
    "\n",
    " and also ",
    ". After that, ",
    " as well as: ",
)


def thought(calls: Sequence[Call]) -> str:
    """What the model thinks before calls: which tool, and what it needs."""
    return "\n".join(f"{call.name}: {', '.join(call.arguments) or 'no arguments'}" for call in calls)


def call_turn(calls: Sequence[Call], thinking: bool) -> Message:
    return calling([(call.name, call.arguments) for call in calls], thought(calls) if thinking else "")


def asking(
    source: Source,
    skill: Skill,
    offers: Sequence[Offer],
    text: str,
    calls: Sequence[Call],
    history: Sequence[Message] = (),
) -> Conversation:
    """A conversation that ends in calls."""
    thinking = source.chance(0.5)
    start = [] if history else idle_system(source)
    return Conversation(
        skill=skill,
        messages=[*start, *history, user(text), call_turn(calls, thinking)],
        check=CallsEqual(tuple(calls)),
        tools=[offer.json for offer in source.shuffled(offers)],
        thinking=thinking,
    )


def choose(source: Source) -> Conversation:
    offers = toolbox(source, source.choice((1, 1, 2, 2, 3, 3, 4, 5, 6)))
    asked = offers[0].ask()
    return asking(source, Skill.TOOL_CHOICE, offers, asked.text, [asked.call])


def structure(source: Source) -> Conversation:
    offers = toolbox(source, source.choice((1, 1, 2, 3)), Structure.NESTED)
    asked = offers[0].ask()
    return asking(source, Skill.TOOL_STRUCTURE, offers, asked.text, [asked.call])


def joined(source: Source, requests: Sequence[Request]) -> str:
    """Several requests in one message."""
    if source.chance(0.15):
        return "\n".join(f"{place}. {request.text}" for place, request in enumerate(requests, 1))
    text = requests[0].text
    for each in requests[1:]:
        link = source.choice(LINKS)
        start = each.text if link == "\n" else each.text[0].lower() + each.text[1:]
        text = text.rstrip(".!?") + link + start
    return text


def several(source: Source) -> tuple[list[Offer], str, list[Call]]:
    """Tools, a message that asks for two or three calls, and those calls."""
    count = source.choice((2, 2, 2, 3))
    if source.chance(0.2):
        offer, text, calls = repeated(source, count)
        others = [other for other in toolbox(source, 3) if other.name != offer.name]
        return [offer, *others[: source.integer(0, 3)]], text, calls

    def draw() -> tuple[list[Offer], list[Request]]:
        offers = toolbox(source, source.choice((1, 2, 2, 3, 3, 4)))
        same = len(offers) == 1 or source.chance(0.4)
        return offers, [offers[0 if same else i % len(offers)].ask() for i in range(count)]

    def different(drawn: tuple[list[Offer], list[Request]]) -> bool:
        calls = [request.call for request in drawn[1]]
        return all(call not in calls[:place] for place, call in enumerate(calls))

    offers, asked = source.until(draw, different)
    return offers, joined(source, asked), [request.call for request in asked]


def parallel(source: Source) -> Conversation:
    offers, text, calls = several(source)
    return asking(source, Skill.TOOL_PARALLEL, offers, text, calls)


def refuse(source: Source) -> Conversation:
    """Tools are offered, but the user wants something else, or leaves out what a tool needs."""
    if source.split is Split.TRAIN and source.chance(0.4):
        return _refuse_everyday(source)
    offers = [random_offer(source, schema.tool(source)) for _ in range(source.integer(1, 4))]
    roll = source.random.random()
    if roll < 0.25:
        topic, text = small_talk.ask(source)
        answer, check, why = topic.answers[0], Says(topic.needed), topic.thought
    elif roll < 0.5:
        text = limits.ask(source)
        answer, check, why = NO_TOOL, Says(("none of the tools",)), "No tool fits."
    elif roll < 0.75:
        other = source.until(
            lambda: schema.tool(source), lambda t: all(o.spec and o.spec.thing != t.thing for o in offers)
        )
        text = request.request(source, other).text
        answer, check, why = NO_TOOL, Says(("none of the tools",)), "No tool fits."
    else:
        spec = source.until(
            lambda: schema.tool(source, count=source.integer(1, 3)), lambda t: any(f.required for f in t.fields)
        )
        missing = source.choice([field for field in spec.fields if field.required])
        offers.append(random_offer(source, spec))
        text = request.request(source, spec, silent=missing).text
        answer, check = f"What is the {missing.words}?", Says((missing.words,))
        why = f"{spec.name} fits, but the {missing.words} is missing."
    return _without_call(source, offers, text, answer, check, why)


def _refuse_everyday(source: Source) -> Conversation:
    """Small talk beside everyday tools, or a request for one that is not among them."""
    offers = everyday_toolbox(source, source.integer(2, 6))
    if source.chance(0.6):
        topic, text = small_talk.ask(source)
        return _without_call(source, offers[1:], text, topic.answers[0], Says(topic.needed), topic.thought)
    text = offers[0].ask().text
    return _without_call(source, offers[1:], text, NO_TOOL, Says(("none of the tools",)), "No tool fits.")


def _without_call(
    source: Source, offers: Sequence[Offer], text: str, answer: str, check: Check, why: str
) -> Conversation:
    thinking = source.chance(0.5)
    return Conversation(
        skill=Skill.TOOL_NONE,
        messages=[*idle_system(source), user(casual(source, text)), assistant(answer, why if thinking else "")],
        check=check,
        tools=[offer.json for offer in source.shuffled(offers)],
        thinking=thinking,
    )
