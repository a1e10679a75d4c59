"""Answers that are one JSON document, and what the OpenAI dialects' answers begin with."""

from __future__ import annotations

import secrets
import time
from typing import Any

import msgspec
from msgspec import Struct
from starlette.responses import Response

from mlx_server_nano import __version__


def json_response(body: Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json")


def head(prefix: str, model: str) -> dict[str, Any]:
    """Fields of a ChatCompletion, a Completion and their chunks; the id is new and begins with `prefix`."""
    return {
        "id": f"{prefix}-{secrets.token_hex(16)}",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": f"fp_{__version__}",
    }
