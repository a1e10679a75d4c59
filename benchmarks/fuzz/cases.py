"""What is sent: bodies, paths and queries that schemathesis draws from the OpenAPI document, and each drawn field by itself in a
body that is good without it, where no other fault hides what the server makes of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Final

from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode

Operation = APIOperation[Any, Any, Any, Any]
Request = Case[Any]

# No schema can tell how long an answer may take: these bound it, and may be anything below.
_AT_MOST: Final = {
    "max_tokens": 8,
    "max_completion_tokens": 8,
    "max_output_tokens": 16,  # its least
    "n": 2,
    "best_of": 2,
}
_CHAT: Final = {"messages": [{"role": "user", "content": "hi"}]}
_GOOD: Final[Mapping[str, Mapping[str, Any]]] = {
    "/v1/chat/completions": _CHAT,
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/responses/input_tokens": {"input": "hi"},
    "/v1/messages": {**_CHAT, "max_tokens": 8},
    "/v1/messages/count_tokens": _CHAT,
    "/v1/embeddings": {"input": "hi"},
    "/tokenize": {"content": "hi"},
    "/detokenize": {"tokens": [1]},
    "/apply-template": _CHAT,
}


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """The document with every field of every body required, so that none is left out when they are drawn."""
    whole = copy.deepcopy(document)
    for path in _GOOD:
        told = whole["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        schema = whole["components"]["schemas"][told["$ref"].rpartition("/")[2]]
        schema["required"] = list(schema["properties"])
    return whole


def strategy(operation: Operation, *, valid: bool) -> st.SearchStrategy[Request]:
    """Requests that the document allows, or that break it in some place."""
    mode = GenerationMode.POSITIVE if valid else GenerationMode.NEGATIVE
    return operation.as_strategy(generation_mode=mode)


def can_break(operation: Operation) -> bool:
    """Whether there are requests that break the document: any text is a good path."""
    return bool(operation.body or operation.query)


def has_fields(path: str) -> bool:
    """Whether a body's fields can be sent one by one."""
    return path in _GOOD


def bounded(body: dict[str, Any], model: str) -> dict[str, Any]:
    """Of this model, if of any, and soon answered."""
    kept = dict(body)
    if isinstance(kept.get("model"), str):
        kept["model"] = model
    for name, most in _AT_MOST.items():
        if isinstance(kept.get(name), int):
            kept[name] = min(kept[name], most)
    return kept


def alone(path: str, body: dict[str, Any], model: str) -> Iterator[dict[str, Any]]:
    """Each of the body's fields in a good body."""
    for name, value in body.items():
        yield bounded({"model": model, **_GOOD[path], name: value}, model)
