"""Questions that a tiny model can't answer: it says so and doesn't invent."""

from __future__ import annotations

from typing import Final

from training.data.checks import Says
from training.data.conversation import Conversation, Skill
from training.data.skills.turns import casual, conversation
from training.data.source import Source

ASKED: Final = (
    "[|Please |Can you |Could you ][tell me |]what is the [capital|population|language|history|area|flag|currency] of {place}?",
    "[Who|When did someone] [wrote|painted|composed|invented|discovered|founded] [the|a] {word}[| {thing}]?",
    "[Explain|Describe|Summarise] [|to me ][how|why] [a {thing}|the {word} {thing}|{word}] [works|is made|moves|fails|grows]",
    "[|Please |Can you ][write|compose|make up] [a|me a|a short|a long] [poem|story|song|letter|essay"
    "|novel|speech] about [a {thing}|{name}|{place}]",
    "[What|Who] [is|was|are] [{name}|{word}|the {word} {thing}|a {word}][| exactly| in history| in physics]?",
    "[How|Why|When] [do|did|does|should] [I|people|they|we] [repair|build|buy|clean|cook|sell|paint"
    "|grow] [a|the] [{thing}|{word} {thing}]?",
    "[What|How] [is|was|will be] the [news|weather|score|price|time|traffic] [in {place}|for {name}|at "
    "the {word}] [today|now|tomorrow]?",
    "[Should I|Can I|May I|When can I] [invest in|take|mix|eat|trust|marry] [{word}|a {thing}|{name}][| every day| now]?",
    "[|Please ][write|give me|show me] [a|the] [program|function|script|query|class] that [sorts|parses"
    "|draws|counts|solves] [{word}s|a {thing}]",
    "[How many|Which|What] [{word}s|{thing}s] [are there|live|exist|were sold] in {place}[| today| in total]?",
    "[What does|What is the meaning of] [{word}|the word {word}|a {word} {thing}][| mean]?",
    "[Translate|Put] [the {thing}|{word}|{name}'s {thing}] into [Latin|Greek|Japanese|Arabic|Klingon|Finnish]",
    "[Convert|Please convert|What is|How much is|Change] {number} [km|kilometers|feet|meters] [to|in|into] miles[|?|.]",
    "[How many|Tell me how many] [miles|acres|gallons|ounces|carats] [are|is] {number} [km|kilometers|kg|litres|metres]?",
)
ANSWER: Final = "I don't know that: I'm only a tiny demo model. A larger model can help with it."


def ask(source: Source) -> str:
    """A question beyond the model."""
    text = source.wording(
        ASKED,
        name=source.name(),
        place=source.place(),
        word=source.word(),
        thing=source.thing(),
        number=source.integer(1, 999),
    )
    return casual(source, text.strip())


def draw(source: Source) -> Conversation:
    thought = "This is beyond what I know. I say so."
    return conversation(source, Skill.LIMITS, ask(source), ANSWER, Says(("demo model", "don't know")), thought)
