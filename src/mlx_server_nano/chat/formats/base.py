"""What a format is: a table of the markup that a model family writes. The machine and the grammar both run on it.

An answer is content with markup in between: reasoning, blocks of tool calls, and for some families message headers.
Where a field lists several texts, the first is what the family's template writes; the others are accepted too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto


class Id(Enum):
    """What the ids of calls look like where the model writes none."""

    OPENAI = auto()
    NINE = auto()  # Mistral: nine alphanumeric characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """A block of reasoning. Its opening counts where an answer begins, or after other markup; `anywhere`: in the middle
    of text too (special tokens can't be quoted text). `also_ends`: markup that ends it and is not part of it."""

    open: tuple[str, ...]
    close: tuple[str, ...]
    also_ends: tuple[str, ...] = ()
    anywhere: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonArguments:
    """A JSON value, passed on as it is. `suffix` may follow it, with white space before it."""

    suffix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TagArguments:
    """Parameters as `<open>key<key_end>value<close>`.

    quoted: the key ends at a quotation mark, and attributes may follow it up to key_end.
    value_open: stands before the value (GLM). line: a line break on either side of the value is layout.
    close may hold {key}. nested: a value may be elements of the same form (MiniMax M3). cdata: it may stand in CDATA.
    wrapper: a parameter of this name may hold all the others as an object (DeepSeek V4).
    attributes: what the template writes after a quoted key, with {type} or {is_string} of the value.
    """

    open: tuple[str, ...]
    key_end: str = ">"
    close: str
    quoted: bool = False
    value_open: str = ""
    line: bool = False
    nested: bool = False
    cdata: bool = False
    wrapper: str = ""
    attributes: str = ""
    separator: str = "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteralArguments:
    """Parameters as `key<assign>literal, ...` up to the call's closing bracket. raw: marks that enclose a string without
    escapes, beside quotation marks."""

    assign: str
    raw: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonCall:
    """A call as a JSON object that holds name and arguments; or, with name_is_key, `{name: arguments}`."""

    name: tuple[str, ...] = ("name",)
    arguments: tuple[str, ...] = ("arguments", "parameters")
    id: tuple[str, ...] = ("id",)
    name_is_key: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCall:
    """A call as `<open>name<name_end>arguments<close>`.

    name: a class of characters. head: how the name (and an `index`, which makes the whole head the call's id) stands in it.
    name_stops: end the name and belong to what follows. quoted: as in TagArguments, with head_end after the attributes.
    id_open: may follow the name, then the call's id up to name_end. A JSON object in the arguments' place is always read.
    written: the head as the template writes it, with {name} and {index}; the quotation mark and attributes included.
    """

    open: tuple[str, ...] = ()
    name: str = r'[^<>\n"{}\[\]]'
    head: str = r"(?P<name>.+)"
    name_end: tuple[str, ...] = ()
    name_stops: tuple[str, ...] = ()
    quoted: bool = False
    head_end: str = ""
    id_open: str = ""
    written: str = "{name}"
    arguments: JsonArguments | TagArguments | LiteralArguments
    close: tuple[str, ...] = ()


Call = JsonCall | TextCall


class Bare(Enum):
    """Where a call without an opening marker may stand."""

    ANYWHERE = auto()
    LINE = auto()  # at the start of a line


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Calls between markers. Each form in `calls` is tried in turn.

    bare: `open` belongs to the call itself, so it counts only where a call really follows, of a declared tool.
    single: an opening is followed by one call only, unless it is a list. brackets: the calls may stand in a JSON or
    Python list; listed: the template writes them so; several: it writes several calls into one block. separators: may
    stand between calls. pad: white space that the template writes inside the markers.
    """

    open: tuple[str, ...]
    close: tuple[str, ...] = ()
    calls: tuple[Call, ...]
    bare: Bare | None = None
    single: bool = False
    brackets: bool = False
    listed: bool = False
    several: bool = False
    separators: str = ",;"
    pad: str = ""


class Route(Enum):
    """What the body of a message is."""

    CONTENT = auto()
    REASONING = auto()
    CALL = auto()  # the arguments of a call of the header's `name`


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A message header, `<open>...<end>`. `routes`: patterns searched in it, the first that matches decides; a group
    `name` is the recipient. `initial`: how a header begins that the prompt has opened already. `writes`: the headers as the
    model writes them after its prompt, with {name}; `next`: what it writes between two messages."""

    open: tuple[str, ...]
    end: str
    routes: tuple[tuple[str, Route], ...]
    initial: tuple[str, ...] = ()
    writes: Mapping[Route, str] = field(default_factory=dict)
    bare: bool = False  # `open` could be text: counts only at a line's start and with a declared tool
    longest: int = 400
    next: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A family's markup. The first block, and the first form of call in it, are those that the grammar writes.

    signs: sets of substrings; a chat template that holds all of a set tells this format. See `detect`.
    ends: end a message, with no text of their own; a header's body ends there too. ignored: markup around content.
    """

    name: str
    signs: tuple[tuple[str, ...], ...] = ()
    reasoning: Reasoning | None = None
    blocks: tuple[Block, ...] = ()
    headers: tuple[Header, ...] = ()
    ends: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    ids: Id = Id.OPENAI


THINK = Reasoning(open=("<think>",), close=("</think>",))
# `<function=f>{...}</function>`: Llama 3 and Functionary.
FUNCTION_TAG = TextCall(open=("<function=",), name_end=(">",), arguments=JsonArguments(), close=("</function>",))
