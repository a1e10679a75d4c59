"""Tools and the choice among them, on OpenAI's wire."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from mlx_server_nano.chat.request import CallMode, ToolChoice
from mlx_server_nano.errors import InvalidRequestError, UnsupportedParameterError
from mlx_server_nano.types import Tool

MAX_TOOLS: Final = 1024

ToolName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class FunctionDefinition(Struct):
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class WireTool(Struct):
    type: str
    function: FunctionDefinition | None = None


class Named(Struct):
    name: str


class AllowedTools(Struct):
    mode: Literal["auto", "required"]
    tools: Annotated[list[WireChoice], Meta(min_length=1)]


class WireChoice(Struct):
    """An object in `tool_choice`, and in its list of allowed tools."""

    type: str
    function: Named | None = None
    allowed_tools: AllowedTools | None = None


def to_tools(wire: list[WireTool] | None) -> tuple[Tool, ...]:
    """Raises InvalidRequestError for a missing function and for names that come twice, UnsupportedParameterError for
    tools that are no functions."""
    tools: dict[str, Tool] = {}
    for i, tool in enumerate(wire or ()):
        if tool.type != "function":
            raise UnsupportedParameterError(
                f"Tools of type {tool.type!r} are not supported: only functions are.", param=f"tools.{i}.type"
            )
        if tool.function is None:
            raise InvalidRequestError(f"Missing required field: `tools.{i}.function`.", param=f"tools.{i}.function")
        function = tool.function
        if function.name in tools:
            raise InvalidRequestError(
                f"There are two tools of the name {function.name!r}.", param=f"tools.{i}.function.name"
            )
        tools[function.name] = Tool(
            name=function.name,
            description=function.description,
            parameters=function.parameters,
            strict=bool(function.strict),
        )
    return tuple(tools.values())


def to_choice(wire: str | WireChoice | None, tools: tuple[Tool, ...], *, parallel: bool) -> ToolChoice:
    """Raises InvalidRequestError for a choice without tools, an unknown mode and an unknown tool."""
    if wire is None:
        return ToolChoice(parallel=parallel)
    if not tools and wire != "none":
        raise InvalidRequestError("`tool_choice` is only allowed when `tools` are given.", param="tool_choice")
    if isinstance(wire, str):
        if wire not in list(CallMode):
            raise InvalidRequestError(
                f"`tool_choice` must be one of {', '.join(CallMode)}, or an object.", param="tool_choice"
            )
        return ToolChoice(mode=CallMode(wire), parallel=parallel)
    if wire.type == "allowed_tools" and wire.allowed_tools is not None:
        allowed = wire.allowed_tools
        names = {
            _named(choice, tools, f"tool_choice.allowed_tools.tools.{i}") for i, choice in enumerate(allowed.tools)
        }
        return ToolChoice(mode=CallMode(allowed.mode), only=frozenset(names), parallel=parallel)
    name = _named(wire, tools, "tool_choice")
    return ToolChoice(mode=CallMode.REQUIRED, only=frozenset((name,)), parallel=parallel)


def _named(wire: WireChoice, tools: tuple[Tool, ...], path: str) -> str:
    if wire.type != "function" or wire.function is None:
        raise InvalidRequestError(
            "A tool is chosen by `type: function` and a `function` with its `name`.", param=f"{path}.type"
        )
    if all(tool.name != wire.function.name for tool in tools):
        raise InvalidRequestError(f"There is no tool {wire.function.name!r}.", param=f"{path}.function.name")
    return wire.function.name
