"""The signature of a thinking block. Clients send it back unread; here it is the thinking itself, so that a block whose text
was left out (`display: omitted`) still tells the model in the next turn what it thought."""

from __future__ import annotations

import base64
from typing import Final

# Other servers' signatures are encoded otherwise, and mean nothing here.
_OURS: Final = "mlx1."


def sign(thinking: str) -> str:
    return _OURS + base64.urlsafe_b64encode(thinking.encode()).decode()


def recall(signature: str) -> str:
    """The thinking behind a signature of ours; empty for any other."""
    if not signature.startswith(_OURS):
        return ""
    try:
        return base64.urlsafe_b64decode(signature.removeprefix(_OURS)).decode()
    except ValueError:
        return ""
