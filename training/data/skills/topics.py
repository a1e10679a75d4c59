"""What small talk is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Topic:
    """What users ask, what is answered (one of several), what each answer must contain, and the thought before it."""

    asked: tuple[str, ...]
    answers: tuple[str, ...]
    needed: tuple[str, ...]
    thought: str


ASK: Final = "[|please |hey, |hello, |hello! |hi! |so, |ok, |quick question: |now ]"
TELL: Final = (
    "[|please |can you |could you |would you |would you please |could you please |now ][tell|show|explain to] me "
)
SERVER: Final = "[this server|the server|MLX Server Nano|this|this thing|your server]"
