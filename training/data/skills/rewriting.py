"""Small rewrites of a sentence that have one right result."""

from __future__ import annotations

from typing import Final

from training.data.checks import Exactly
from training.data.conversation import Conversation, Skill
from training.data.skills.turns import conversation
from training.data.source import Source

Part = tuple[str, str, str]  # user's words, answer, thought

VERBS: Final = (  # present, past, base
    ("sells", "sold", "sell"),
    ("buys", "bought", "buy"),
    ("opens", "opened", "open"),
    ("closes", "closed", "close"),
    ("paints", "painted", "paint"),
    ("cleans", "cleaned", "clean"),
    ("finds", "found", "find"),
    ("makes", "made", "make"),
    ("builds", "built", "build"),
    ("sees", "saw", "see"),
    ("takes", "took", "take"),
    ("brings", "brought", "bring"),
    ("loses", "lost", "lose"),
    ("needs", "needed", "need"),
    ("wants", "wanted", "want"),
    ("likes", "liked", "like"),
    ("carries", "carried", "carry"),
    ("repairs", "repaired", "repair"),
    ("draws", "drew", "draw"),
    ("keeps", "kept", "keep"),
    ("moves", "moved", "move"),
    ("washes", "washed", "wash"),
    ("checks", "checked", "check"),
    ("holds", "held", "hold"),
    ("hides", "hid", "hide"),
    ("gives away", "gave away", "give away"),
    ("uses", "used", "use"),
    ("knows", "knew", "know"),
)
ENDS: Final = ("", " in {place}", " for {other}", " with {other}", " every day", " near {place}", " on {day}")

_START = "[|Please |Can you |Could you |Now |I want you to |Would you please ]"
_END = '[: {text}|: "{text}"|:\n{text}| here: {text}|:\n\n{text}]'
TASKS: Final = {
    "replace": (
        _START
        + "replace [the word |]{old} [with|by] {new} in [this|the|this sentence|the sentence|the following]"
        + _END,
        _START + "[change|swap] {old} [to|for|into] {new}" + _END,
        "{text}\n" + _START + "[replace|change|exchange] {old} [by|with|to] {new}[|.| there]",
    ),
    "past": (
        _START + "[put|rewrite|write|turn|set] [this|this sentence|the sentence|it] [in|into] the past [tense|]" + _END,
        "[Past tense|In the past tense|Make it past tense|The same in the past]" + _END,
    ),
    "negative": (
        _START + "[negate|deny|make negative] [this|this sentence|the sentence]" + _END,
        "[Negative form|Make it negative|Turn this into a negative sentence|Say the opposite with not]" + _END,
    ),
    "question": (
        _START
        + "[turn|make|change|rewrite] [this|this sentence|the sentence] [into|as] a [question|yes-no question]"
        + _END,
        "[As a question|Make it a question|Question form|Ask this as a question]" + _END,
    ),
    "polite": (
        _START + "[make|rewrite] [this|this request|the sentence] [polite|more polite|politer|friendlier]" + _END,
        "[More polite|Say this politely|A polite form of this|Make it polite]" + _END,
    ),
    "first": (
        _START + "[rewrite|put|turn|write] [this|this sentence|the sentence] [in|into] the first person" + _END,
        "[First person|Say it as I|From my point of view|In the first person]" + _END,
    ),
    "repeat": (
        _START
        + "[repeat|copy|echo|write again|say again] [this|this sentence|the sentence|the following][| exactly| word for word]"
        + _END,
        "[Repeat after me|Echo|Copy exactly|Say exactly]" + _END,
    ),
    "join": (
        _START
        + "[join|combine|merge|connect] [these|these two sentences|the sentences|both sentences][| with and| into one]"
        + _END,
        "[One sentence with and|Make one sentence|Merge into one|Both in one sentence]" + _END,
    ),
    "title": (
        _START
        + "[drop|remove|delete|leave out] [the name|who does it|the person] and [start|begin] with Someone"
        + _END,
        "[Make it anonymous|Anonymise this|Replace the name by Someone|Hide the name]" + _END,
    ),
}


def _sentence(source: Source) -> tuple[str, tuple[str, str, str], str, str]:
    """Subject, verb, and the rest before the full stop; and the object in it."""
    thing = source.phrase(1, 2)
    article = source.choice(("the", "a", "a", "some"))
    end = source.choice(ENDS).format(
        place=source.place(), other=source.name(), day=source.choice(("Monday", "Friday", "Sunday"))
    )
    return source.name(), source.choice(VERBS), f"{article} {thing}{end}", thing


def _replace(source: Source) -> tuple[str, str, dict[str, str], str]:
    name, verb, rest, thing = _sentence(source)
    text = f"{name} {verb[0]} {rest}."
    old = source.choice((name, thing, verb[0]))
    new = source.name() if old == name else source.phrase(1, 2) if old == thing else source.choice(VERBS)[0]
    return text, text.replace(old, new, 1), {"old": old, "new": new}, f"{old} becomes {new}."


def draw(source: Source) -> Conversation:
    task = source.choice(tuple(TASKS))
    name, verb, rest, _ = _sentence(source)
    text = f"{name} {verb[0]} {rest}."
    slots: dict[str, str] = {}
    match task:
        case "replace":
            text, answer, slots, thought = _replace(source)
        case "past":
            answer, thought = f"{name} {verb[1]} {rest}.", f"{verb[0]} becomes {verb[1]}."
        case "negative":
            answer, thought = f"{name} does not {verb[2]} {rest}.", f"{verb[0]} becomes does not {verb[2]}."
        case "question":
            answer, thought = f"Does {name} {verb[2]} {rest}?", f"Does {name} {verb[2]}, with a question mark."
        case "polite":
            text = f"{verb[2].capitalize()} {rest}."
            answer, thought = f"Could you please {verb[2]} {rest}?", "Could you please, with a question mark."
        case "first":
            answer, thought = f"I {verb[2]} {rest}.", f"{name} becomes I, {verb[0]} becomes {verb[2]}."
        case "repeat":
            answer, thought = text, "The same words again."
        case "join":
            other, second, more, _ = _sentence(source)
            text += f" {other} {second[0]} {more}."
            answer, thought = f"{name} {verb[0]} {rest} and {other} {second[0]} {more}.", "Both with and."
        case _:
            answer, thought = f"Someone {verb[0]} {rest}.", f"{name} becomes Someone."
    words = source.wording(TASKS[task], text=text, **slots)
    return conversation(source, Skill.REWRITING, words[0].upper() + words[1:], answer, Exactly((answer,)), thought)
