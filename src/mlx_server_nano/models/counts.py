"""What has happened to the models since the server started. Workers come and go; these stay."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ModelCounts:
    """loads: those that succeeded, load_seconds: how long they took together, downloads aside. crashes: of its workers.
    drafted_tokens, accepted_tokens: guessed, and those of them that came true."""

    loads: int = 0
    load_seconds: float = 0.0
    crashes: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
