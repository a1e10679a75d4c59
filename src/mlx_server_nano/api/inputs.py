"""Text in its four forms on OpenAI's wire: a text, several, token ids, several lists of those."""

from __future__ import annotations

from typing import Annotated, Final, TypeVar, cast

from msgspec import Meta

from mlx_server_nano.api.sampling import TokenId
from mlx_server_nano.errors import InvalidRequestError
from mlx_server_nano.types import TextPrompt, TokenPrompt

MAX_INPUTS: Final = 2048

NonEmpty = Annotated[str, Meta(min_length=1)]
# What `to_prompts` checks, in the words of JSON Schema.
_ALIKE: Final = Meta(
    min_length=1,
    extra_json_schema={
        "anyOf": [
            {"items": {"type": "string"}, "maxItems": MAX_INPUTS},
            {"items": {"type": "integer"}},
            {"items": {"type": "array", "minItems": 1}, "maxItems": MAX_INPUTS},
        ]
    },
)

Inputs = str | Annotated[list[str | TokenId | list[TokenId]], _ALIKE]
NonEmptyInputs = NonEmpty | Annotated[list[NonEmpty | TokenId | list[TokenId]], _ALIKE]

T = TypeVar("T")


def to_prompts(inputs: Inputs, param: str) -> tuple[TextPrompt | TokenPrompt, ...]:
    """Text, several texts, token ids, or several lists of those. Raises InvalidRequestError."""
    if isinstance(inputs, str):
        return (TextPrompt(text=inputs),)
    first = inputs[0]
    if isinstance(first, int):
        return (TokenPrompt(ids=tuple(_all_of(int, inputs, param))),)
    if len(inputs) > MAX_INPUTS:
        raise InvalidRequestError(f"At most {MAX_INPUTS} entries are allowed.", param=param)
    if isinstance(first, str):
        return tuple(TextPrompt(text=text) for text in _all_of(str, inputs, param))
    lists: list[list[int]] = _all_of(list, inputs, param)
    for index, ids in enumerate(lists):
        if not ids:
            raise InvalidRequestError("A list of token ids must not be empty.", param=f"{param}.{index}")
    return tuple(TokenPrompt(ids=tuple(ids)) for ids in lists)


def _all_of(kind: type[T], values: list[str | int | list[int]], param: str) -> list[T]:
    for index, value in enumerate(values):
        if not isinstance(value, kind):
            raise InvalidRequestError("Texts, token ids and lists of those can't be mixed.", param=f"{param}.{index}")
    return cast(list[T], values)
