"""How a request for more, less or no thinking reaches a chat template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mlx_server_nano.template import TemplateError, compile_template, render, variables

# By which names templates know it, and what they call on and off.
_SWITCHES: Final[Mapping[str, tuple[Any, Any]]] = {
    "enable_thinking": (True, False),
    "thinking": (True, False),
    "thinking_mode": ("enabled", "disabled"),
    "thinking_budget": (None, 0),
}
_EFFORTS: Final = ("reasoning_effort", "thinking_effort", "reasoning_strength")
_LEVELS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_USUAL: Final = ("low", "medium", "high")


def thinking_variables(source: str, *, effort: str | None = None, enabled: bool | None = None) -> dict[str, Any]:
    """The template's variables for OpenAI's `reasoning_effort` and for `enable_thinking`; only those that it knows.

    effort "none" turns thinking off where the template can. A level that it does not take becomes the nearest that it does.
    """
    if effort is not None and enabled is None:
        enabled = effort != "none"
    known = variables(source)
    found: dict[str, Any] = {}
    if enabled is not None:
        for name in _SWITCHES.keys() & known:
            value = _SWITCHES[name][0 if enabled else 1]
            if value is not None:
                found[name] = value
    level = "none" if enabled is False else effort
    if level in _LEVELS and (enabled is not False or not found):
        for name in _EFFORTS:
            if name in known:
                found[name] = _nearest(source, name, level)
    return found


def _nearest(source: str, name: str, level: str) -> str:
    """The level nearest to this one that the template takes."""
    template = compile_template(source)
    message = {"role": "user", "content": "hi"}

    def taken(value: str) -> bool:
        given: dict[str, Any] = {name: value}
        try:
            render(template, [message], **given)
        except TemplateError:
            return False
        return True

    # A template that takes anything leaves it to the model, which knows the usual ones.
    levels = _USUAL if taken("no such level") else [value for value in _LEVELS if taken(value)]
    place = _LEVELS.index(level)
    return min(levels, key=lambda value: abs(_LEVELS.index(value) - place), default=level)
