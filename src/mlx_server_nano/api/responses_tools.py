"""Tools and the choice among them, flat as the Responses API writes them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from mlx_server_nano.chat.custom import Toolset, custom_tool
from mlx_server_nano.chat.request import CallMode, ToolChoice
from mlx_server_nano.errors import InvalidRequestError, UnsupportedParameterError
from mlx_server_nano.types import Tool

logger = logging.getLogger(__name__)

# Built-in tools that Codex lists in every request, whether or not the server has them.
_UNASKED: Final = ("web_search", "namespace", "local_shell")


class FlatCustomFormat(Struct, omit_defaults=True):
    """A `grammar` needs `syntax` and `definition`."""

    type: Literal["text", "grammar"]
    syntax: Literal["lark", "regex"] | None = None
    definition: str | None = None


class FlatTool(Struct, kw_only=True):
    """A function, or a custom tool, which has a `format` instead of `parameters`. The other types are left out."""

    type: Annotated[str, Meta(extra_json_schema={"enum": ["function", "custom", *_UNASKED]})]
    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,128}$")] | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    format: FlatCustomFormat | None = None


class FlatChoice(Struct, omit_defaults=True, kw_only=True):
    """A tool that must be called, or those that may be."""

    type: Annotated[str, Meta(extra_json_schema={"enum": ["function", "custom", "allowed_tools"]})]
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: Annotated[list[FlatChoice], Meta(min_length=1)] | None = None


def to_toolset(wire: Sequence[FlatTool] | None) -> tuple[Toolset, list[dict[str, Any]]]:
    """The tools, and how the response shows them. Raises InvalidRequestError for missing names and for names that come
    twice, UnsupportedParameterError for built-in tools."""
    tools: dict[str, Tool] = {}
    custom: set[str] = set()
    echo: list[dict[str, Any]] = []
    ignored = [tool.type for tool in wire or () if tool.type in _UNASKED]
    if ignored:
        logger.debug("Ignoring tools that the server does not have: %s", ", ".join(ignored))
    for i, tool in enumerate(wire or ()):
        if tool.type in _UNASKED:
            continue
        if tool.type not in ("function", "custom"):
            raise UnsupportedParameterError(
                f"The built-in tool {tool.type!r} is not supported: function and custom tools are.",
                param=f"tools.{i}.type",
            )
        if tool.name is None:
            raise InvalidRequestError(f"Missing required field: `tools.{i}.name`.", param=f"tools.{i}.name")
        if tool.name in tools:
            raise InvalidRequestError(f"There are two tools of the name {tool.name!r}.", param=f"tools.{i}.name")
        if tool.type == "custom":
            custom.add(tool.name)
            tools[tool.name] = custom_tool(tool.name, tool.description, _rule(tool.format, f"tools.{i}.format"))
        else:
            tools[tool.name] = Tool(
                name=tool.name,
                description=tool.description,
                parameters=tool.parameters,
                strict=bool(tool.strict),
            )
        echo.append(_echo(tool))
    return Toolset(tuple(tools.values()), frozenset(custom)), echo


def _rule(wire: FlatCustomFormat | None, path: str) -> tuple[str, str] | None:
    if wire is None or wire.type == "text":
        return None
    for name in ("syntax", "definition"):
        if getattr(wire, name) is None:
            raise InvalidRequestError(f"Missing required field: `{path}.{name}`.", param=f"{path}.{name}")
    return wire.syntax or "", wire.definition or ""


def _echo(tool: FlatTool) -> dict[str, Any]:
    shown: dict[str, Any] = {"type": tool.type, "name": tool.name}
    if tool.description is not None:
        shown["description"] = tool.description
    if tool.type == "function":
        return shown | {"parameters": tool.parameters, "strict": bool(tool.strict)}
    return shown | {"format": msgspec.to_builtins(tool.format or FlatCustomFormat("text"))}


def to_choice(wire: CallMode | FlatChoice | None, toolset: Toolset, *, parallel: bool) -> ToolChoice:
    """Raises InvalidRequestError for an unknown mode, an unknown tool, and a forced call without tools."""
    if wire is None:
        return ToolChoice(parallel=parallel)
    if isinstance(wire, CallMode):
        if wire is CallMode.REQUIRED and not toolset.tools:
            raise InvalidRequestError("`tool_choice` is `required`, but there are no tools.", param="tool_choice")
        return ToolChoice(mode=wire, parallel=parallel)
    if wire.type == "allowed_tools":
        if wire.mode is None or wire.tools is None:
            missing = "tool_choice.mode" if wire.mode is None else "tool_choice.tools"
            raise InvalidRequestError(f"Missing required field: `{missing}`.", param=missing)
        names = {_named(choice, toolset, f"tool_choice.tools.{i}") for i, choice in enumerate(wire.tools)}
        return ToolChoice(mode=CallMode(wire.mode), only=frozenset(names), parallel=parallel)
    name = _named(wire, toolset, "tool_choice")
    return ToolChoice(mode=CallMode.REQUIRED, only=frozenset((name,)), parallel=parallel)


def _named(wire: FlatChoice, toolset: Toolset, path: str) -> str:
    if wire.type not in ("function", "custom"):
        raise InvalidRequestError(
            f"A tool of type {wire.type!r} can't be chosen: function and custom tools can.", param=f"{path}.type"
        )
    if wire.name is None or not toolset.has(wire.name, custom=wire.type == "custom"):
        raise InvalidRequestError(f"There is no {wire.type} tool {wire.name!r}.", param=f"{path}.name")
    return wire.name
