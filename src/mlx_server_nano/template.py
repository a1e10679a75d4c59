"""How a chat template renders: Jinja with what Hugging Face's templates expect of their surroundings.

The worker renders with it; the gateway only to find out what a template wants of its messages (`chat.prepare`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import Template, TemplateError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import SandboxedEnvironment

__all__ = ["TemplateError", "compile_template", "render", "variables"]


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks what a model writes, for training. Here it is only its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Not Jinja's own filter, which escapes for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment(now: Callable[[], datetime]) -> SandboxedEnvironment:
    environment = SandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters |= {"tojson": _to_json, "fromjson": json.loads, "from_json": json.loads}
    environment.globals |= {"raise_exception": _raise, "strftime_now": lambda form: now().strftime(form)}
    return environment


def compile_template(source: str, now: Callable[[], datetime] = datetime.now) -> Template:
    """A chat template ready to render. It runs sandboxed; unlike in transformers it may change its own lists (Kimi K2's
    does). Raises TemplateError for a source that is no Jinja."""
    return _environment(now).from_string(source)


def variables(source: str) -> frozenset[str]:
    """The variables that a template takes from outside, and some that it may have set itself before. Raises TemplateError
    for a source that is no Jinja."""
    return frozenset(meta.find_undeclared_variables(_environment(datetime.now).parse(source)))


def render(
    template: Template,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    add_generation_prompt: bool = True,
    **variables: Any,
) -> str:
    """The prompt. `variables`: the special tokens (`bos_token`, ...) and the request's own. Raises TemplateError for
    messages that the template refuses or can't handle."""
    try:
        return template.render(
            messages=list(messages),  # some templates add lists to it
            tools=None if tools is None else list(tools),
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **variables,
        )
    except TemplateError:
        raise
    except Exception as error:  # A template may do anything to values that it does not expect.
        raise TemplateError(f"{type(error).__name__}: {error}") from error
