"""Questions about a given text, one in eight of which it does not answer."""

from __future__ import annotations

from typing import Final

from training.data.checks import Says
from training.data.conversation import Conversation, Skill, system, user
from training.data.skills import facts
from training.data.skills.turns import conversation
from training.data.source import Source
from training.render import Message

FRAMES: Final = (
    "{passage}\n\n{question}",
    "{passage} {question}",
    "[Text|Passage|Context|Document|Article|Background]:\n{passage}\n\n[Question|Q|Task]: {question}",
    "[Read|Here is|Take|Consider|Look at] [this|the following] [text|passage|note|article|report][:|.]\n{passage}\n\n{question}",
    "[Answer|Please answer] [from|using|with the help of] the [text|passage|context] [below|that "
    "follows].\n\n{passage}\n\n{question}",
    "{question}\n\n{passage}",
    "{question} [Use|Here is|Look into|Answer from] [this|the following] [text|note|passage]: {passage}",
    "<context>\n{passage}\n</context>\n{question}",
    "<document>\n{passage}\n</document>\n{question}",
)
SYSTEM_FRAMES: Final = (
    "[Answer|Reply|Answer questions] [only |][from|using|with] [this|the following] [text|context"
    "|document|knowledge][:|.]\n{passage}",
    "[Context|Background|Knowledge|What you know|Your notes]:\n{passage}[|\n\nUse only this.|\nAnswer from it.]",
)
MISSING: Final = "The text does not say that."


def _passage(source: Source) -> tuple[str, list[facts.Fact]]:
    told: list[facts.Fact] = []
    lines: list[str] = []
    for _ in range(source.integer(1, 4)):
        if source.chance(0.2):
            told.append(facts.own(source))
            lines.append(told[-1].sentence(source))
            continue
        name, attributes, pronoun = facts.entity(source)
        for index, attribute in enumerate(source.sample(attributes, source.integer(1, 4))):
            fact = facts.Fact(name, attribute, attribute.draw(source))
            told.append(fact)
            lines.append(fact.sentence(source, pronoun if index and pronoun != "It" and source.chance(0.3) else None))
    return source.choice((" ", " ", "\n", "\n- ")).join(lines), told


def draw(source: Source) -> Conversation:
    passage, told = _passage(source)
    if source.chance(0.125):
        asked = source.until(lambda: facts.about(source, 1)[0], lambda f: all(f.entity != t.entity for t in told))
        known = [f for f in told if f.attribute.key in {a.key for a in facts.PERSON}]
        if known and source.chance(0.5):  # of someone in the text, but nothing that it tells
            entity = source.choice(known).entity
            open_ = [a for a in facts.PERSON if all((f.entity, f.attribute.key) != (entity, a.key) for f in told)]
            asked = facts.Fact(entity, source.choice(open_), "")
        answer, check, thought = MISSING, Says(("does not say",)), f"The text does not tell this about {asked.entity}."
    else:
        asked = source.choice(told)
        answer, check = asked.answer(), Says((str(asked.value),))
        thought = f"The text tells about {asked.entity}: {asked.value}."
    question = asked.question(source)
    question = question[0].upper() + question[1:]
    turns: list[Message] | str
    if source.chance(0.2):
        turns = [system(source.wording(SYSTEM_FRAMES, passage=passage)), user(question)]
    else:
        turns = source.reply(FRAMES, passage=passage, question=question)
    return conversation(source, Skill.PASSAGE, turns, answer, check, thought)
