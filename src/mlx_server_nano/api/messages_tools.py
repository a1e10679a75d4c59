"""Tools and the choice among them, on Anthropic's wire (ToolUnionParam, ToolChoiceParam)."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from mlx_server_nano.chat.request import CallMode, ToolChoice
from mlx_server_nano.errors import InvalidRequestError, UnsupportedParameterError
from mlx_server_nano.types import Tool

# Anthropic's own tool for finding others; the model sees all of them without it.
_SEARCH: Final = "tool_search_tool_"

_MODES: Final = {"auto": CallMode.AUTO, "any": CallMode.REQUIRED, "tool": CallMode.REQUIRED, "none": CallMode.NONE}


class ToolParam(Struct):
    """`type` names a tool of Anthropic's; it is absent or `custom` for the client's own."""

    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,128}$")] | None = None
    type: Annotated[str, Meta(extra_json_schema={"pattern": f"^(custom$|{_SEARCH})"})] | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class ToolChoiceParam(Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


def to_tools(wire: list[ToolParam] | None) -> tuple[Tool, ...]:
    """Raises InvalidRequestError for a tool without name or schema and for names that come twice, UnsupportedParameterError
    for Anthropic's own tools."""
    tools: dict[str, Tool] = {}
    for i, tool in enumerate(wire or ()):
        if tool.type is not None and tool.type.startswith(_SEARCH):
            continue
        if tool.type not in (None, "custom"):
            raise UnsupportedParameterError(
                f"The tool {tool.type!r} runs on Anthropic's servers or is built into its models: only custom tools are"
                " supported.",
                param=f"tools.{i}.type",
            )
        for name in ("name", "input_schema"):
            if getattr(tool, name) is None:
                raise InvalidRequestError(f"Missing required field: `tools.{i}.{name}`.", param=f"tools.{i}.{name}")
        if tool.name in tools:
            raise InvalidRequestError(f"There are two tools of the name {tool.name!r}.", param=f"tools.{i}.name")
        name = tool.name or ""
        tools[name] = Tool(
            name=name, description=tool.description, parameters=tool.input_schema, strict=bool(tool.strict)
        )
    return tuple(tools.values())


def to_choice(wire: ToolChoiceParam | None, tools: tuple[Tool, ...]) -> ToolChoice:
    """Raises InvalidRequestError for a forced choice without tools and for an unknown tool."""
    if wire is None:
        return ToolChoice()
    mode, parallel = _MODES[wire.type], not wire.disable_parallel_tool_use
    if mode is CallMode.REQUIRED and not tools:
        raise InvalidRequestError(f"`tool_choice` is {wire.type!r}, but there are no tools.", param="tool_choice")
    if wire.type != "tool":
        return ToolChoice(mode=mode, parallel=parallel)
    if all(tool.name != wire.name for tool in tools):
        raise InvalidRequestError(f"There is no tool {wire.name!r}.", param="tool_choice.name")
    return ToolChoice(mode=mode, only=frozenset((wire.name or "",)), parallel=parallel)
