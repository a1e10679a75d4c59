"""Reading a request's body."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Receive, Scope

from mlx_server_nano.api.gate import ClientGoneError
from mlx_server_nano.errors import PayloadTooLargeError, UnsupportedMediaTypeError


async def read_json_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body, `limit` bytes at most. A missing content type counts as JSON. The types of forms and plain text, which
    browsers send for any page without asking, never do.

    Raises UnsupportedMediaTypeError, PayloadTooLargeError (before reading, if the client tells the length), and
    ClientGoneError.
    """
    headers = Headers(scope=scope)
    media_type = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaTypeError(
            f"The content type must be application/json, not {media_type or 'empty'}: send `Content-Type: application/json`."
        )
    too_large = PayloadTooLargeError(f"The request body is larger than {limit} bytes.")
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)
