"""Errors as each dialect writes them."""

from __future__ import annotations

import logging
from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from mlx_server_nano.errors import (
    ContextLengthError,
    ServerError,
    UnavailableError,
    UnsupportedThreadError,
    log_fault,
)

logger = logging.getLogger(__name__)

ANTHROPIC_PATH: Final = "/v1/messages"

# Of Anthropic's errors; what is not here is an invalid_request_error below 500 and an api_error from there on.
_ANTHROPIC_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class OpenAIErrorBody(Struct):
    """param: the request's field at fault, as a path (`messages.0.role`)."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(Struct):
    error: OpenAIErrorBody


class AnthropicErrorDetails(Struct):
    error_code: str


class AnthropicErrorBody(Struct):
    """details: for errors that Anthropic's SDKs recover from by themselves."""

    type: str
    message: str
    details: AnthropicErrorDetails | UnsetType = UNSET


class AnthropicError(Struct, tag_field="type", tag="error"):
    error: AnthropicErrorBody
    request_id: str | None


def openai_error(error: ServerError) -> bytes:
    """OpenAI's envelope, all of its keys always there."""
    return msgspec.json.encode(OpenAIError(OpenAIErrorBody(error.message, error.type, error.param, error.code)))


def anthropic_error(error: ServerError, request_id: str | None = None) -> bytes:
    """Anthropic's envelope. The field at fault is named in the message."""
    status = anthropic_status(type(error))
    kind = _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    message = error.message
    if isinstance(error, ContextLengthError):
        message = f"prompt is too long: {message}"  # by these words Claude Code knows that it must compact
    elif error.param is not None and error.param not in message:
        message = f"{error.param}: {message}"
    details: AnthropicErrorDetails | UnsetType = UNSET
    if isinstance(error, UnsupportedThreadError):
        details = AnthropicErrorDetails("thread_unsupported_request")  # the SDK's tool runner goes on without threads
    return msgspec.json.encode(AnthropicError(AnthropicErrorBody(kind, message, details), request_id))


def anthropic_status(kind: type[ServerError]) -> int:
    """Anthropic says 529 where a service cannot take a request now."""
    return 529 if issubclass(kind, UnavailableError) else kind.status


def is_anthropic(path: str) -> bool:
    """Whether the dialect at this path is Anthropic's; unknown paths speak OpenAI's."""
    return path == ANTHROPIC_PATH or path.startswith(f"{ANTHROPIC_PATH}/")


def as_server_error(error: Exception) -> ServerError:
    """The error as a client may see it. One without a meaning on the wire is a fault of ours: it is logged, and nothing of it
    leaves the server."""
    if isinstance(error, ServerError):
        return error
    log_fault(logger, "A request failed", error)
    return ServerError("The server had an internal error while processing the request.")
