"""An answer as output items, and as the events that tell of them while they grow (OpenAI's ResponseStreamEvent)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

from msgspec import UNSET

from mlx_server_nano.api.logprobs import ChatTokenLogprob, to_openai
from mlx_server_nano.api.responses_items import new_id, seal
from mlx_server_nano.api.responses_object import (
    CustomCallItem,
    FunctionCallItem,
    ItemStatus,
    MessageItem,
    OutputItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    SummaryText,
)
from mlx_server_nano.chat.answer import Piece
from mlx_server_nano.chat.deltas import CallEnd, CallStart, ContentDelta, Delta, ReasoningDelta
from mlx_server_nano.types import FinishReason

# An event's type and its fields, without the sequence number.
Events = Iterator[tuple[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class _Channel:
    """A kind of text: the item that it makes up, and what its events are called."""

    item: str
    index: str
    part_event: str
    text_event: str


_MESSAGE: Final = _Channel("message", "content_index", "response.content_part", "response.output_text")
_REASONING: Final = _Channel("reasoning", "content_index", "response.content_part", "response.reasoning_text")
_SUMMARY: Final = _Channel(
    "reasoning", "summary_index", "response.reasoning_summary_part", "response.reasoning_summary_text"
)


class _Item(ABC):
    def __init__(self, kind: str, output_index: int) -> None:
        self.id = new_id(kind)
        self.status: ItemStatus = "in_progress"
        self._kind = kind
        self._output_index = output_index
        self._at: dict[str, Any] = {"item_id": self.id, "output_index": output_index}

    @property
    def answers(self) -> bool:
        """Whether the client waits for this, not for reasoning."""
        return self._kind != "reasoning"

    @abstractmethod
    def to_wire(self) -> OutputItem: ...

    def opening(self) -> Events:
        yield "response.output_item.added", {"output_index": self._output_index, "item": self.to_wire()}

    def closing(self, status: ItemStatus) -> Events:
        self.status = status
        yield "response.output_item.done", {"output_index": self._output_index, "item": self.to_wire()}


class _Text(_Item):
    """A message or reasoning: one part with a text."""

    def __init__(self, channel: _Channel, output_index: int, *, sealed: bool) -> None:
        super().__init__(channel.item, output_index)
        self.channel = channel
        self._sealed = sealed and channel.item == "reasoning"
        self._text: list[str] = []
        self._logprobs: list[ChatTokenLogprob] = []
        self._begun = False
        self._where = {**self._at, channel.index: 0}

    def to_wire(self) -> OutputItem:
        text = "".join(self._text)
        if self.channel is _MESSAGE:
            return MessageItem(self.id, self.status, [OutputText(text, self._logprobs)] if self._begun else [])
        sealed = seal(text) if self._sealed and self.status != "in_progress" else UNSET
        if self.channel is _SUMMARY:
            summary = [SummaryText(text)] if self._begun else []
            return ReasoningItem(self.id, self.status, summary, encrypted_content=sealed)
        said = [ReasoningText(text)] if self._begun else []
        return ReasoningItem(self.id, self.status, [], said, encrypted_content=sealed)

    def opening(self) -> Events:
        yield from super().opening()
        yield f"{self.channel.part_event}.added", {**self._where, "part": self._part()}
        self._begun = True

    def add(self, text: str, logprobs: list[ChatTokenLogprob]) -> Events:
        self._text.append(text)
        self._logprobs += logprobs
        yield f"{self.channel.text_event}.delta", {**self._where, "delta": text, **self._with(logprobs)}

    def closing(self, status: ItemStatus) -> Events:
        text = "".join(self._text)
        yield f"{self.channel.text_event}.done", {**self._where, "text": text, **self._with(self._logprobs)}
        yield f"{self.channel.part_event}.done", {**self._where, "part": self._part()}
        yield from super().closing(status)

    def _part(self) -> OutputText | ReasoningText | SummaryText:
        text = "".join(self._text)
        if self.channel is _MESSAGE:
            return OutputText(text, self._logprobs)
        return SummaryText(text) if self.channel is _SUMMARY else ReasoningText(text)

    def _with(self, logprobs: list[ChatTokenLogprob]) -> dict[str, Any]:
        return {"logprobs": logprobs} if self.channel is _MESSAGE else {}


class _Call(_Item):
    """A call of a function."""

    def __init__(self, start: CallStart, output_index: int, kind: str = "function_call") -> None:
        super().__init__(kind, output_index)
        self._start = start
        self._arguments: list[str] = []

    def to_wire(self) -> OutputItem:
        return FunctionCallItem(self.id, self.status, self._start.id, self._start.name, self._given)

    def add(self, fragment: str) -> Events:
        self._arguments.append(fragment)
        yield "response.function_call_arguments.delta", {**self._at, "delta": fragment}

    def closing(self, status: ItemStatus) -> Events:
        done = {**self._at, "name": self._start.name, "arguments": self._given}
        yield "response.function_call_arguments.done", done
        yield from super().closing(status)

    @property
    def _given(self) -> str:
        return "".join(self._arguments)


class _CustomCall(_Call):
    """A call of a custom tool, whose arguments are text."""

    def __init__(self, start: CallStart, output_index: int) -> None:
        super().__init__(start, output_index, "custom_tool_call")

    def to_wire(self) -> OutputItem:
        return CustomCallItem(self.id, self.status, self._start.id, self._start.name, self._given)

    def add(self, fragment: str) -> Events:
        self._arguments.append(fragment)
        yield "response.custom_tool_call_input.delta", {**self._at, "delta": fragment}

    def closing(self, status: ItemStatus) -> Events:
        yield "response.custom_tool_call_input.done", {**self._at, "input": self._given}
        yield from _Item.closing(self, status)


class Output:
    """The items of one answer.

    custom: the names of custom tools. summarize: reasoning goes out as a summary, the only one there is: its whole text.
    sealed: it goes out as `encrypted_content` as well.
    """

    def __init__(self, custom: Collection[str], *, summarize: bool, sealed: bool) -> None:
        self._custom = custom
        self._reasoning = _SUMMARY if summarize else _REASONING
        self._sealed = sealed
        self._items: list[_Text | _Call] = []
        self._open: _Text | _Call | None = None
        self._logprobs: list[ChatTokenLogprob] = []
        self.finish: FinishReason | None = None

    def to_wire(self) -> list[OutputItem]:
        return [item.to_wire() for item in self._items]

    def take(self, piece: Piece) -> Events:
        """Must be read to its end."""
        self._logprobs += map(to_openai, piece.logprobs)
        last = len(piece.deltas) - 1
        for i, delta in enumerate(piece.deltas):
            cut = i == last and piece.finish is FinishReason.LENGTH
            yield from self._take(delta, cut)
        if piece.deltas:
            self._logprobs = []
        if piece.finish is not None:
            self.finish = piece.finish
            yield from self._close(cut=piece.finish is FinishReason.LENGTH)
            if piece.finish is not FinishReason.LENGTH and not any(item.answers for item in self._items):
                # Clients expect a message, be it empty.
                yield from self._begin(_Text(_MESSAGE, len(self._items), sealed=False))
                yield from self._close()

    def interrupt(self) -> None:
        """No piece will come any more; what was open stays unfinished."""
        if self._open is not None:
            self._open.status = "incomplete"

    def _take(self, delta: Delta, cut: bool) -> Events:
        if isinstance(delta, ContentDelta):
            logprobs, self._logprobs = self._logprobs, []
            yield from self._say(_MESSAGE, delta.text, logprobs)
        elif isinstance(delta, ReasoningDelta):
            yield from self._say(self._reasoning, delta.text, [])
        elif isinstance(delta, CallStart):
            yield from self._close()
            kind = _CustomCall if delta.name in self._custom else _Call
            yield from self._begin(kind(delta, len(self._items)))
        elif isinstance(delta, CallEnd):
            yield from self._close(cut=cut)
        elif isinstance(self._open, _Call):
            yield from self._open.add(delta.fragment)

    def _say(self, channel: _Channel, text: str, logprobs: list[ChatTokenLogprob]) -> Events:
        if not isinstance(self._open, _Text) or self._open.channel is not channel:
            yield from self._close()
            yield from self._begin(_Text(channel, len(self._items), sealed=self._sealed))
        if isinstance(self._open, _Text):
            yield from self._open.add(text, logprobs)

    def _begin(self, item: _Text | _Call) -> Events:
        self._items.append(item)
        self._open = item
        yield from item.opening()

    def _close(self, *, cut: bool = False) -> Events:
        if self._open is not None:
            yield from self._open.closing("incomplete" if cut else "completed")
            self._open = None
