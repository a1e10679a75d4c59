"""Tools and the choice among them, on OpenAI's wire."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from mlx_server_nano.chat.custom import Toolset, custom_tool
from mlx_server_nano.chat.request import CallMode, ToolChoice
from mlx_server_nano.errors import InvalidRequestError
from mlx_server_nano.types import Tool

MAX_TOOLS: Final = 1024

ToolName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class FunctionDefinition(Struct):
    """parameters: a JSON Schema; without it the function takes no arguments."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Grammar(Struct):
    syntax: Literal["lark", "regex"]
    definition: str


class CustomFormat(Struct):
    type: Literal["text", "grammar"]
    grammar: Grammar | None = None


class CustomDefinition(Struct):
    name: ToolName
    description: str | None = None
    format: CustomFormat | None = None


class ChatTool(Struct):
    """A function, or a custom tool, whose input is plain text."""

    type: Literal["function", "custom"]
    function: FunctionDefinition | None = None
    custom: CustomDefinition | None = None


class Named(Struct):
    name: str


class ToolReference(Struct):
    """A tool, by its type and name."""

    type: Literal["function", "custom"]
    function: Named | None = None
    custom: Named | None = None


class AllowedTools(Struct):
    mode: Literal["auto", "required"]
    tools: Annotated[list[ToolReference], Meta(min_length=1)]


class ChatToolChoice(Struct):
    """A tool that must be called, or those that may be."""

    type: Literal["function", "custom", "allowed_tools"]
    function: Named | None = None
    custom: Named | None = None
    allowed_tools: AllowedTools | None = None


def to_toolset(wire: list[ChatTool] | None) -> Toolset:
    """Raises InvalidRequestError for a missing definition and for names that come twice."""
    tools: dict[str, Tool] = {}
    custom: set[str] = set()
    for i, tool in enumerate(wire or ()):
        definition = tool.function if tool.type == "function" else tool.custom
        path = f"tools.{i}.{tool.type}"
        if definition is None:
            raise InvalidRequestError(f"Missing required field: `{path}`.", param=path)
        if definition.name in tools:
            raise InvalidRequestError(f"There are two tools of the name {definition.name!r}.", param=f"{path}.name")
        if isinstance(definition, FunctionDefinition):
            tools[definition.name] = Tool(
                name=definition.name,
                description=definition.description,
                parameters=definition.parameters,
                strict=bool(definition.strict),
            )
        else:
            custom.add(definition.name)
            rule = _rule(definition.format, f"{path}.format")
            tools[definition.name] = custom_tool(definition.name, definition.description, rule)
    return Toolset(tuple(tools.values()), frozenset(custom))


def _rule(wire: CustomFormat | None, path: str) -> tuple[str, str] | None:
    if wire is None or wire.type == "text":
        return None
    if wire.grammar is None:
        raise InvalidRequestError(f"Missing required field: `{path}.grammar`.", param=f"{path}.grammar")
    return wire.grammar.syntax, wire.grammar.definition


def to_choice(wire: CallMode | ChatToolChoice | None, toolset: Toolset, *, parallel: bool) -> ToolChoice:
    """Raises InvalidRequestError for a choice without tools and for an unknown tool."""
    if wire is None:
        return ToolChoice(parallel=parallel)
    if not toolset.tools and wire != CallMode.NONE:
        raise InvalidRequestError("`tool_choice` is only allowed when `tools` are given.", param="tool_choice")
    if isinstance(wire, CallMode):
        return ToolChoice(mode=wire, parallel=parallel)
    if wire.type != "allowed_tools":
        name = _named(wire, toolset, "tool_choice")
        return ToolChoice(mode=CallMode.REQUIRED, only=frozenset((name,)), parallel=parallel)
    allowed = wire.allowed_tools
    if allowed is None:
        path = "tool_choice.allowed_tools"
        raise InvalidRequestError(f"Missing required field: `{path}`.", param=path)
    names = {_named(tool, toolset, f"tool_choice.allowed_tools.tools.{i}") for i, tool in enumerate(allowed.tools)}
    return ToolChoice(mode=CallMode(allowed.mode), only=frozenset(names), parallel=parallel)


def _named(wire: ToolReference | ChatToolChoice, toolset: Toolset, path: str) -> str:
    tool = wire.custom if wire.type == "custom" else wire.function
    if tool is None:
        raise InvalidRequestError(f"Missing required field: `{path}.{wire.type}`.", param=f"{path}.{wire.type}")
    if not toolset.has(tool.name, custom=wire.type == "custom"):
        raise InvalidRequestError(f"There is no {wire.type} tool {tool.name!r}.", param=f"{path}.{wire.type}.name")
    return tool.name
