"""Which format a model writes, told from its chat template."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from mlx_server_nano.chat.formats import FORMATS, PLAIN, THINKING
from mlx_server_nano.chat.formats.base import Format
from mlx_server_nano.errors import InvalidRequestError

_COMMENT: Final = re.compile(r"\{#.*?#\}", re.DOTALL)
_TOOLS: Final = re.compile(r"\b(?:\w+_)?tools\b")


def named(name: str) -> Format:
    """Raises InvalidRequestError if there is no such format."""
    if name not in FORMATS:
        raise InvalidRequestError(f"no tool format {name!r}; there are: {', '.join(sorted(FORMATS))}")
    return FORMATS[name]


def detect(template: str | None, special_tokens: Iterable[str] = (), name: str | None = None) -> Format:
    """The format for a chat template (Jinja source).

    Without a template the special tokens tell: with one they don't, since many tokenizers name tokens that their model
    does not use. `name` overrides both; raises InvalidRequestError if there is no such format.
    """
    if name is not None:
        return named(name)
    text = "\n".join(special_tokens) if template is None else _COMMENT.sub("", template)
    for found in FORMATS.values():
        if any(all(sign in text for sign in signs) for signs in found.signs):
            return found
    return THINKING if "<think>" in text else PLAIN


def takes_tools(template: str | None) -> bool:
    """Whether the template writes the tools that it is given into the prompt."""
    return template is not None and _TOOLS.search(_COMMENT.sub("", template)) is not None
