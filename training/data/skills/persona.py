"""System prompts that change the answer: a name and a role, a language, a fixed beginning or end, a rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from training.data import words
from training.data.checks import Check, Exactly, Says
from training.data.conversation import Conversation, Skill, system, user
from training.data.skills import limits, small_talk
from training.data.skills.turns import casual, conversation
from training.data.source import Source

MOODS: Final = (
    "grumpy",
    "cheerful",
    "wise",
    "lazy",
    "famous",
    "shy",
    "brave",
    "polite",
    "old",
    "young",
    "strict",
    "proud",
)

WHO: Final = (
    "[|Hello. |Hi! |Hey, |So, ]who [are you|am I talking to|is this|do I speak to][| please| exactly| now| today]?",
    "[|Hello, |Hi, |Please ]what is your [name|job|role|profession][| please| exactly| here]?",
    "[|Please ][introduce|present|describe] yourself[| please| to me| briefly| in one sentence]",
    "[|Please |Can you ]tell me [who you are|about yourself|your name|what you do][| please| now]",
)
ROLE_PROMPTS: Final = (
    "You are {who}.[| Stay in this role.| Answer in this role.| Never leave your role.| Be brief.]",
    "[Act as|Play|Pretend to be|You play|Be|Speak as] {who}.[| Be brief.| Keep to it.| Stay in this role.]",
)
NAMED_ROLE_PROMPTS: Final = (
    *ROLE_PROMPTS,
    "Your name is {name}. You [are|work as] {what}.[| Speak as {name}.| Be friendly.]",
)

LANGUAGES: Final = {
    "French": {
        "hello": "Bonjour ! Comment puis-je vous aider ?",
        "how": "Je vais bien, merci.",
        "thanks": "Avec plaisir !",
        "bye": "Au revoir !",
        "who": "Je suis le petit modèle de démonstration.",
    },
    "German": {
        "hello": "Guten Tag! Wie kann ich helfen?",
        "how": "Mir geht es gut, danke.",
        "thanks": "Gern geschehen!",
        "bye": "Auf Wiedersehen!",
        "who": "Ich bin das kleine Demomodell.",
    },
    "Spanish": {
        "hello": "¡Hola! ¿En qué puedo ayudar?",
        "how": "Estoy bien, gracias.",
        "thanks": "¡De nada!",
        "bye": "¡Adiós!",
        "who": "Soy el pequeño modelo de demostración.",
    },
    "Italian": {
        "hello": "Ciao! Come posso aiutare?",
        "how": "Sto bene, grazie.",
        "thanks": "Prego!",
        "bye": "Arrivederci!",
        "who": "Sono il piccolo modello dimostrativo.",
    },
}
SAID: Final = {
    "hello": (
        "[hello|hi|hey|good morning|good evening|good day|hello there|hi there][| you| friend| demo| again][!|.|]",
    ),
    "how": (
        "[|hello, |hi, |hey, |so, ]how [are you|do you do|are you doing|is it going][| today| now| this morning]?",
    ),
    "thanks": (
        "[thank you|thanks|many thanks|thanks a lot|thank you very much][| friend| again| for that| for your help][!|.|]",
    ),
    "bye": ("[goodbye|bye|bye bye|see you|see you later|farewell|good night][| friend| then| for now| demo][!|.|]",),
    "who": ("[|hello, |hi, |please, |so, ]who [are you|is this|am I talking to][| please| exactly| now]?",),
}
SAID_FOREIGN: Final = {
    "French": {"hello": "[Bonjour|Salut|Bonsoir][| !| mon ami| à vous]", "thanks": "Merci[| beaucoup| bien][|!| !]"},
    "German": {
        "hello": "[Hallo|Guten Tag|Guten Morgen|Servus][|!| zusammen]",
        "thanks": "[Danke|Vielen Dank][|!| dir| sehr]",
    },
    "Spanish": {
        "hello": "[Hola|Buenos días|Buenas tardes][|!| amigo| a todos]",
        "thanks": "[Gracias|Muchas gracias][|!| amigo]",
    },
    "Italian": {
        "hello": "[Ciao|Buongiorno|Salve|Buonasera][|!| amico| a tutti]",
        "thanks": "Grazie[| mille| tante][|!| amico]",
    },
}
LANGUAGE_PROMPTS: Final = (
    "[|Always |Please |You must |From now on, ][answer|reply|respond|speak|write] [only |]in {language}["
    "| only| whatever the user writes].",
    "You [only speak|speak only|only know|answer only in] {language}.[| Never use English.| Be polite.| Be brief.]",
    "[Language|Output language|Reply language|Your language]: {language}[|.]",
)
PREFIX_PROMPTS: Final = (
    '[|Always |Please |You must ][start|begin|open] [every|each] [answer|reply|response|message] with "{mark}"[.|]',
    '[Every|Each] [answer|reply|response|message] [must start|must begin|starts|begins] with "{mark}"[.|]',
)
SUFFIX_PROMPTS: Final = (
    '[|Always |Please |You must ][end|close|finish] [every|each] [answer|reply|response|message] with "{mark}"[.|]',
    '[Every|Each] [answer|reply|response|message] [must end|must close|ends|closes] with "{mark}"[.|]',
)
ADDRESS_PROMPTS: Final = (
    "[|Always |Please ][call|address] the user [as |]{title} {name}[.|]",
    "The user is {title} {name}[.|: greet them by name.| and wants to be greeted so.]",
    "You [talk to|serve|help|speak with] {title} {name}[.|, who likes to be greeted by name.]",
)
FIXED_PROMPTS: Final = (
    '[Whatever the user says|No matter what is asked|To everything], [only |][answer|reply|respond|say] "{mark}"[.|]',
    '[Only|Always|Just] [answer|reply|respond|say] "{mark}"[| to everything| and nothing else][.|]',
)
RULE_PROMPTS: Final = (
    "[If|When|Whenever] [the user|someone|anybody] [asks about|mentions|talks about|wants] the {word}, "
    '[say|answer|reply] "{mark}"[.|]',
    'Never [talk about|discuss|explain] the {word}: [say|answer|reply] "{mark}" [instead|then][.|]',
)
RULE_HITS: Final = (
    "[|Please ][tell me|what do you know|what can you say] about the {word}[|?| please| now]",
    "[What is|Where is|How is|Who has|Do you know|Can you explain] the {word}[?| now?| exactly?]",
    "I [want|need|like|see|bought] the {word}[.|!| today| now]",
)

Part = tuple[str, str, str, Check, str]  # system prompt, user's words, answer, check, thought


def _role(source: Source) -> Part:
    """With a name, a mood and a place or without; moods and jobs are made up at times, so that they are copied."""
    name = source.name() if source.chance(0.75) else ""
    mood = (source.choice(MOODS) if source.chance(0.6) else source.word()) if source.chance(0.75) else ""
    role = source.choice(words.JOBS) if source.chance(0.7) else source.word()
    place = source.place() if source.chance(0.7) else ""
    what = f"{mood} {role}".strip()
    what = f"{'an' if what[0] in 'aeiou' else 'a'} {what}"
    where = f" {source.choice(('from', 'in'))} {place}" if place else ""
    who = f"{name}, {what}{where}" if name else f"{what}{where}"
    prompt = source.wording(NAMED_ROLE_PROMPTS if name else ROLE_PROMPTS, who=who, name=name, what=what + where)
    myself = f"I am {name}, {what}" if name else f"I am {what}"
    answer = f"{myself} from {place}." if place else f"{myself}."
    check = Says(tuple(part for part in (name, mood, role, place) if part))
    thought = f"{myself}. I stay in the role."
    if source.chance(0.7):
        return prompt, source.wording(WHO), answer, check, thought
    return prompt, source.wording(SAID["hello"]), f"Hello! {answer} How can I help you?", check, thought


def _language(source: Source) -> Part:
    language = source.choice(tuple(LANGUAGES))
    said = source.choice(tuple(SAID))
    answer = LANGUAGES[language][said]
    prompt = source.wording(LANGUAGE_PROMPTS, language=language)
    return prompt, source.wording(SAID[said]), answer, Exactly((answer,)), f"I must answer in {language}."


def _mark(source: Source) -> str:
    return source.choice((source.word().capitalize(), source.phrase(1, 3).capitalize(), source.phrase(1, 2)))


def _prefix(source: Source) -> Part:
    mark, (text, answer) = _mark(source), _base(source)
    mark += source.choice((":", "!", ",", ".", ""))
    return (
        source.wording(PREFIX_PROMPTS, mark=mark), text, f"{mark} {answer}", Exactly((f"{mark} {answer}",)),
        f'I must start with "{mark}".',
    )  # fmt: skip


def _suffix(source: Source) -> Part:
    mark, (text, answer) = _mark(source), _base(source)
    mark += source.choice(("!", ".", "", "?"))
    return (
        source.wording(SUFFIX_PROMPTS, mark=mark), text, f"{answer} {mark}", Exactly((f"{answer} {mark}",)),
        f'I must end with "{mark}".',
    )  # fmt: skip


def _base(source: Source) -> tuple[str, str]:
    """A question with a one-line answer that is always the same."""
    topic, text = source.until(lambda: small_talk.ask(source), lambda t: len(t[0].answers[0]) < 70)
    return text, topic.answers[0]


def _address(source: Source) -> Part:
    title = source.choice(("Captain", "Doctor", "Professor", "Mr.", "Mrs.", "Sir", "Lady", "Chief", "Coach", "General"))
    name = source.name()
    text = source.wording(SAID["hello"])
    answer = f"Hello, {title} {name}! How can I help you?"
    return (
        source.wording(ADDRESS_PROMPTS, title=title, name=name),
        text,
        answer,
        Says((f"{title} {name}",)),
        (f"The user is {title} {name}."),
    )


def _fixed(source: Source) -> Part:
    mark = _mark(source) + source.choice(("", ".", "!"))
    text = _base(source)[0] if source.chance(0.5) else limits.ask(source)
    return source.wording(FIXED_PROMPTS, mark=mark), text, mark, Exactly((mark,)), f'I may only say "{mark}".'


def _rule(source: Source) -> Part:
    mark, word = _mark(source) + ".", source.phrase(1, 2)
    prompt = source.wording(RULE_PROMPTS, mark=mark, word=word)
    if source.chance(0.65):
        text = source.wording(RULE_HITS, word=word)
        return prompt, text, mark, Exactly((mark,)), f"This is about the {word}. The rule applies."
    text, answer = _base(source)
    return prompt, text, answer, Exactly((answer,)), f"This is not about the {word}. I answer as usual."


KINDS: Final[tuple[Callable[[Source], Part], ...]] = (
    _role,
    _role,
    _language,
    _prefix,
    _suffix,
    _address,
    _fixed,
    _rule,
)


def draw(source: Source) -> Conversation:
    if source.chance(0.04):
        return _foreign(source)
    prompt, text, answer, check, thought = source.choice(KINDS)(source)
    turns = [system(prompt), user(casual(source, text))]
    return conversation(source, Skill.PERSONA, turns, answer, check, thought)


def _foreign(source: Source) -> Conversation:
    """No system prompt: a foreign greeting is answered in its language."""
    language = source.choice(tuple(SAID_FOREIGN))
    said = source.choice(tuple(SAID_FOREIGN[language]))
    text = source.expand(SAID_FOREIGN[language][said])
    answer = LANGUAGES[language][said]
    thought = f"The user writes in {language}. I answer in {language}."
    return conversation(source, Skill.PERSONA, [user(text)], answer, Exactly((answer,)), thought)
