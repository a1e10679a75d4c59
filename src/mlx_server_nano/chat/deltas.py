"""What the format machine yields: the structure of a model's answer, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """Text for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Text that the model thinks to itself."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A tool call begins. `index` counts the calls of this answer from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of a call's arguments. All pieces together are the JSON text, as well formed as the model wrote it."""

    index: int
    fragment: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """Nothing more comes for this call."""

    index: int


Delta = ContentDelta | ReasoningDelta | CallStart | CallArguments | CallEnd
