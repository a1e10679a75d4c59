"""Messages in the form that a chat template wants, so that it renders them.

Templates differ: arguments as an object or as JSON text, a system message or none, one call in a turn or several, and so on.
What one wants is found out by rendering small conversations, never from its model's name.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from jinja2 import Template

from mlx_server_nano.chat.detect import takes_tools
from mlx_server_nano.chat.formats import FORMATS
from mlx_server_nano.chat.formats.base import Format, JsonCall
from mlx_server_nano.template import TemplateError, compile_template, render
from mlx_server_nano.types import Message, Role, Tool, ToolCall

TOOL_RESPONSE: Final = "<tool_response>"  # begins the result of a call where a template knows no such role
_ALPHANUMERICS: Final = string.digits + string.ascii_letters
_LONG_ID: Final = "call_abcdefghijklmnopqrstuvwx"
_USER: Final[Mapping[str, Any]] = {"role": "user", "content": "probeuser"}
_TOKENS: Final[Mapping[str, Any]] = {"bos_token": "<s>", "eos_token": "</s>"}
_TOOL: Final[Mapping[str, Any]] = {
    "type": "function",
    "function": {
        "name": "probetool",
        "description": "d",
        "parameters": {"type": "object", "properties": {"key": {"type": "string", "description": "k"}}, "required": []},
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a template wants. The defaults are those of a template that takes all."""

    tools: bool = True  # renders the tools that it is given
    calls: bool = True  # renders an assistant's calls
    results: bool = True  # renders the results of calls
    no_tools_as_list: bool = False  # wants [] where there are no tools, else none
    arguments_as_text: bool = False  # wants a call's arguments as JSON text, else as an object
    single_calls: bool = False  # at most one call in a turn
    text_with_calls: bool = True  # a turn may hold text beside calls
    nine_ids: bool = False  # wants ids of nine alphanumeric characters
    system: bool = True  # knows a system message
    late_system: bool = True  # also after the first message
    alternating: bool = False  # wants user and assistant in turn
    reasoning_blocks: bool = False  # wants reasoning as a part of a list of contents
    reasoning_with_calls: bool = True  # a turn may hold text and reasoning beside calls


def probe(source: str) -> Traits:
    """What the template of this Jinja source wants. It renders some twenty small conversations, in milliseconds; a template
    of unknown origin can take longer, so keep it off an event loop. Raises TemplateError if it is no Jinja at all."""
    return _Probe(compile_template(source), takes_tools(source)).traits()


class _Probe:
    def __init__(self, template: Template, tools: bool) -> None:
        self._template = template
        self._tools = tools
        self._list = False
        self._text_arguments = False
        self._id = "abcdef123"

    def _render(self, *messages: Mapping[str, Any], tools: bool = False) -> str | None:
        given: list[Mapping[str, Any]] | None = [_TOOL] if tools else [] if self._list else None
        try:
            return render(self._template, messages, given, **_TOKENS)
        except TemplateError:
            return None

    def _works(self, *messages: Mapping[str, Any], shows: Sequence[str] = (), tools: bool = False) -> bool:
        rendered = self._render(*messages, tools=tools)
        return rendered is not None and all(text in rendered for text in shows)

    def _call(self, call_id: str, value: str = "probevalue") -> dict[str, Any]:
        arguments: Any = {"key": value}
        return {
            "id": call_id,
            "type": "function",
            "function": {
                "name": "probetool",
                "arguments": json.dumps(arguments) if self._text_arguments else arguments,
            },
        }

    def _turn(self, *ids: str, **fields: Any) -> tuple[Mapping[str, Any], ...]:
        """A user's message, the assistant's calls, their results."""
        calls = [self._call(call_id) for call_id in ids]
        results = [{"role": "tool", "tool_call_id": i, "name": "probetool", "content": "proberesult"} for i in ids]
        return (_USER, {"role": "assistant", "content": "", "tool_calls": calls, **fields}, *results)

    def _renders_calls(self) -> bool:
        rendered = self._render(*self._turn(self._id), tools=self._tools) or ""
        # Python's repr of an object, or JSON text in a JSON string: the template meant the other form.
        return "probevalue" in rendered and "{'key'" not in rendered and '{\\"key' not in rendered

    def traits(self) -> Traits:
        self._list = not self._works(_USER)
        calls = self._renders_calls()
        if not calls:
            self._text_arguments = True
            calls = self._renders_calls()
            self._text_arguments = calls
        tools, one, two = self._tools, self._id, "abcdef456"
        system, answer = {"role": "system", "content": "probesystem"}, {"role": "assistant", "content": "probeanswer"}
        late = {"role": "system", "content": "probelate"}
        thought = {"type": "thinking", "thinking": "probethought"}
        said = {"type": "text", "text": "probeanswer"}
        plain = self._works(*self._turn(one), tools=tools)
        reasoned = self._turn(one, content="probeanswer", **_reasoning("probethought"))
        return Traits(
            tools=tools,
            calls=calls,
            results=self._works(*self._turn(one), shows=("proberesult",), tools=tools),
            no_tools_as_list=self._list,
            arguments_as_text=self._text_arguments,
            single_calls=plain and not self._works(*self._turn(one, two), tools=tools),
            text_with_calls=not plain or self._works(*self._turn(one, content="x"), shows=("probevalue",), tools=tools),
            nine_ids=plain and not self._works(*self._turn(_LONG_ID), tools=tools),
            system=self._works(system, _USER, shows=("probesystem",)),
            late_system=self._works(system, _USER, answer, late, _USER, shows=("probesystem", "probelate")),
            alternating=not self._works(_USER, _USER),
            reasoning_blocks=not self._works(_USER, {**answer, **_reasoning("probethought")}, shows=("probethought",))
            and "[THINK]probethought" in (self._render(_USER, {**answer, "content": [thought, said]}) or ""),
            reasoning_with_calls=not plain or self._works(*reasoned, tools=tools),
        )


def _reasoning(text: str) -> dict[str, str]:
    """Reasoning under the names by which templates look for it."""
    return {"reasoning_content": text, "reasoning": text, "thinking": text}


@dataclass(frozen=True, slots=True)
class Prepared:
    """What goes to the template, and the format in which the answer is to be read."""

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] | None
    format: Format


def prepare(messages: Sequence[Message], tools: Sequence[Tool], traits: Traits, format: Format) -> Prepared:
    """The messages and tools as a template with these traits wants them. `format`: the one detected from it.

    Where a template takes no tools, they come before its system message, in words; the answer is then in Hermes's format,
    which models that never saw it can follow. Calls and results that it does not render become text.
    """
    in_words = bool(tools) and not traits.tools
    if in_words:
        traits = replace(traits, calls=False, results=False)
        format = FORMATS["hermes"]
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    rewritten = [_message(message, names, traits, format) for message in messages]
    if in_words:
        rewritten.insert(0, {"role": "system", "content": _instructions(tools)})
        traits = replace(traits, late_system=False)
    if traits.single_calls:
        rewritten = _one_by_one(rewritten)
    rewritten = _systems(rewritten, traits)
    if traits.alternating:
        rewritten = _merged(rewritten)
    if tools and traits.tools:
        return Prepared(tuple(rewritten), tuple(_tool(tool) for tool in tools), format)
    return Prepared(tuple(rewritten), () if traits.no_tools_as_list else None, format)


def _message(message: Message, names: Mapping[str, str], traits: Traits, form: Format) -> dict[str, Any]:
    if message.role is Role.TOOL and not traits.results:
        return {"role": "user", "content": f"{TOOL_RESPONSE}\n{message.content or ''}\n</tool_response>"}
    role = Role.SYSTEM if message.role is Role.DEVELOPER else message.role
    out: dict[str, Any] = {"role": str(role), "content": message.content or ""}
    if message.name is not None:
        out["name"] = message.name
    if message.tool_call_id is not None:
        out["tool_call_id"] = _id(message.tool_call_id, traits)
        out["name"] = message.name or names.get(message.tool_call_id, "")
    if message.tool_calls and not traits.calls:
        out["content"] += ("\n" if message.content else "") + _written(message.tool_calls, form)
    elif message.tool_calls:
        out["tool_calls"] = [
            {
                "id": _id(call.id, traits),
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": call.arguments if traits.arguments_as_text else _object(call.arguments),
                },
            }
            for call in message.tool_calls
        ]
        if not traits.text_with_calls:
            out["content"] = ""
    if message.reasoning:
        if traits.reasoning_blocks:
            thought = {"type": "thinking", "thinking": message.reasoning}
            out["content"] = [thought, *([{"type": "text", "text": out["content"]}] if out["content"] else [])]
        elif not (message.tool_calls and out["content"] and not traits.reasoning_with_calls):
            out |= _reasoning(message.reasoning)
    return out


def _written(calls: Sequence[ToolCall], form: Format) -> str:
    """Calls as a model writes them in a format of JSON objects; for other formats as in Hermes's."""
    blocks = [block for block in form.blocks if isinstance(block.calls[0], JsonCall) and block.bare is None]
    block = blocks[0] if blocks else FORMATS["hermes"].blocks[0]
    objects = [json.dumps({"name": c.name, "arguments": _object(c.arguments)}, ensure_ascii=False) for c in calls]
    close = block.pad + block.close[0] if block.close else ""
    if block.listed:
        return f"{block.open[0]}{block.pad}[{', '.join(objects)}]{close}"
    return "\n".join(f"{block.open[0]}{block.pad}{text}{close}" for text in objects)


def _id(call_id: str, traits: Traits) -> str:
    """The id, or for a template that wants nine alphanumerics and gets other ids, always the same nine in its place."""
    if not traits.nine_ids or (len(call_id) == 9 and call_id.isascii() and call_id.isalnum()):
        return call_id
    digest = hashlib.sha256(call_id.encode()).digest()
    return "".join(_ALPHANUMERICS[byte % len(_ALPHANUMERICS)] for byte in digest[:9])


def _object(arguments: str) -> dict[str, Any]:
    try:
        found = json.loads(arguments or "{}")
    except ValueError:
        found = None
    # A model wrote what is no object; the template needs one, and the model should see what it wrote.
    return found if isinstance(found, dict) else {"arguments": arguments}


def _tool(tool: Tool) -> dict[str, Any]:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    function = {"name": tool.name, "description": tool.description or "", "parameters": parameters}
    return {"type": "function", "function": function}


def _one_by_one(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Turns of several calls as several turns of one call, each with its result."""
    out: list[dict[str, Any]] = []
    results = {m["tool_call_id"]: m for m in messages if m["role"] == "tool" and "tool_call_id" in m}
    placed: set[str] = set()
    for message in messages:
        calls = message.get("tool_calls", ())
        if len(calls) < 2:
            if message.get("tool_call_id") not in placed:
                out.append(message)
            continue
        for number, call in enumerate(calls):
            out.append(
                {**message, "tool_calls": [call]}
                if number == 0
                else {"role": "assistant", "content": "", "tool_calls": [call]}
            )
            if call["id"] in results:
                out.append(results[call["id"]])
                placed.add(call["id"])
    return out


def _systems(messages: Sequence[dict[str, Any]], traits: Traits) -> list[dict[str, Any]]:
    """System messages where the template can take them: the first place, any, or the head of the first user's message."""
    systems = [m for m in messages if m["role"] == "system"]
    if not systems or (traits.system and (traits.late_system or systems == [messages[0]])):
        return list(messages)
    text = "\n\n".join(m["content"] for m in systems)
    others = [m for m in messages if m["role"] != "system"]
    if traits.system:
        return [{"role": "system", "content": text}, *others]
    if others and others[0]["role"] == "user":
        return [{**others[0], "content": f"{text}\n\n{others[0]['content']}"}, *others[1:]]
    return [{"role": "user", "content": text}, *others]


def _merged(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours of the same role joined to one message."""
    out: list[dict[str, Any]] = []
    for message in messages:
        last = out[-1] if out else message
        plain = isinstance(last["content"], str) and isinstance(message["content"], str) and message["role"] != "tool"
        calling = "tool_calls" in last or "tool_calls" in message
        if out and last["role"] == message["role"] and plain and not calling:
            out[-1] = {**last, "content": "\n\n".join(text for text in (last["content"], message["content"]) if text)}
        else:
            out.append(message)
    return out


def _instructions(tools: Sequence[Tool]) -> str:
    listed = "\n".join(json.dumps(_tool(tool), ensure_ascii=False) for tool in tools)
    return (
        "You may call functions to answer the user. These are the functions, as JSON:\n"
        f"<tools>\n{listed}\n</tools>\n\n"
        "To call one, write a JSON object with its name and its arguments between these tags, and nothing after it; "
        "repeat the whole for each further call:\n"
        '<tool_call>\n{"name": "<name>", "arguments": {<arguments>}}\n</tool_call>'
    )
