"""Errors as each dialect writes them."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from mlx_server_nano.errors import ServerError

logger = logging.getLogger(__name__)

ErrorRenderer = Callable[[ServerError], bytes]


def openai_error(error: ServerError) -> bytes:
    """OpenAI's envelope: `{"error": {"message", "type", "param", "code"}}`, all four keys always there."""
    return msgspec.json.encode(
        {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
    )


def renderer_for(path: str) -> ErrorRenderer:
    """How the dialect at this path writes its errors; unknown paths speak OpenAI's."""
    return openai_error


def as_server_error(error: Exception) -> ServerError:
    """The error as a client may see it. One without a meaning on the wire is a fault of ours: it is logged with its
    traceback, and nothing of it leaves the server."""
    if isinstance(error, ServerError):
        return error
    logger.error("A request failed", exc_info=error)
    return ServerError("The server had an internal error while processing the request.")
