"""The OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.1), made of the structs that the endpoints decode and encode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from mlx_server_nano import __version__
from mlx_server_nano.api.envelope import AnthropicError, OpenAIError, anthropic_status, is_anthropic
from mlx_server_nano.api.openapi.operations import ERRORS, OPERATIONS, Operation

_ABOUT: Final = (
    "An OpenAI-compatible server for language models on MLX. Every field may be left out unless it is required. Fields that are "
    "not listed are ignored and logged once at DEBUG. Every answer has an `x-request-id`: the request's own, or a new one."
)
_REFERENCE: Final = "#/components/schemas/{name}"


def build_document() -> dict[str, Any]:
    """Takes tens of milliseconds."""
    types = {kind for operation in OPERATIONS for kind in (operation.body, operation.answer) if kind is not None}
    ordered = sorted(types, key=lambda kind: kind.__name__)
    _, schemas = msgspec.json.schema_components([*ordered, OpenAIError, AnthropicError], ref_template=_REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "MLX Server Nano", "version": __version__, "description": _ABOUT, "license": {"name": "MIT"}},
        "tags": [{"name": group} for group in dict.fromkeys(operation.group for operation in OPERATIONS)],
        "security": [{"bearer": []}, {"x-api-key": []}, {}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": _errors(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "Where the server has API keys."},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": _id(operation),
        "tags": [operation.group],
        "summary": operation.summary,
        "responses": _responses(operation),
    }
    if operation.keyless:
        told["security"] = []
    if operation.parameters:
        told["parameters"] = list(operation.parameters)
    if operation.body is not None:
        told["requestBody"] = {"required": True, "content": _content(operation.body)}
    return told


def _id(operation: Operation) -> str:
    words = operation.path.removeprefix("/v1").replace("{", "").replace("}", "").replace(".", "_").replace("-", "_")
    return f"{operation.method.lower()}{words.replace('/', '_').rstrip('_')}" if words != "/" else "get_root"


def _responses(operation: Operation) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    if operation.media_type:
        responses["200"] = {"description": operation.summary, "content": _answers(operation)}
    if operation.path == "/health":
        responses["503"] = {"description": "Requests can't be served now", "content": _answers(operation)}
    dialect = "Anthropic" if is_anthropic(operation.path) else "OpenAI"
    for error in operation.errors:
        status = anthropic_status(error) if dialect == "Anthropic" else error.status
        responses[str(status)] = {"$ref": f"#/components/responses/{dialect}{status}"}
    return dict(sorted(responses.items()))


def _answers(operation: Operation) -> dict[str, Any]:
    if operation.answer is None:
        schema: Mapping[str, Any] = {"type": "object" if operation.media_type == "application/json" else "string"}
        content = {operation.media_type: {"schema": schema}}
    else:
        content = _content(operation.answer)
    if operation.stream:
        # Without a type: some programs take the schema for that of the whole text, others for each event's.
        content["text/event-stream"] = {"schema": {"description": operation.stream}}
    return content


def _content(kind: type) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REFERENCE.format(name=kind.__name__)}}}


def _errors() -> dict[str, Any]:
    found = {}
    for error, text in ERRORS.items():
        found[f"OpenAI{error.status}"] = {"description": text, "content": _content(OpenAIError)}
        found[f"Anthropic{anthropic_status(error)}"] = {"description": text, "content": _content(AnthropicError)}
    return found
