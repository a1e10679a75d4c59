"""The one machine that turns what a model writes, in any format, into content, reasoning and tool calls, as it arrives."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable, Generator, Sequence
from typing import Final

from mlx_server_nano.chat.deltas import Delta
from mlx_server_nano.chat.formats.base import Bare, Block, Format, Header, Id, JsonCall, Route
from mlx_server_nano.chat.lexer import Source, Step, drop, markers
from mlx_server_nano.chat.readers import json, text
from mlx_server_nano.chat.readers.context import Context
from mlx_server_nano.chat.sink import Sink
from mlx_server_nano.chat.values import Toolbox
from mlx_server_nano.types import Tool

_LIST_OPEN: Final = markers("[")
_LIST_CLOSE: Final = markers("]")
_ALPHABET: Final = string.ascii_letters + string.digits


def new_id(kind: Id) -> str:
    """A fresh id for a call, in the form that the family's templates accept."""
    count, prefix = (9, "") if kind is Id.NINE else (24, "call_")
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(count))


class Machine:
    """Feed it the text of one answer in pieces of any size; it yields deltas.

    However the text is cut, the deltas are the same once neighbours of a kind are joined. No text is lost: each character
    comes out as content, reasoning, or a call's name, id or arguments, or is markup (white space beside markup and an
    envelope's other members included). What looks like a call and turns out to be none comes out as content.

    starts_in_reasoning: the prompt has opened the reasoning already; see `start`.
    calls: False passes call markup on as content, for requests without tools.
    """

    def __init__(
        self,
        format: Format,
        tools: Sequence[Tool] = (),
        *,
        starts_in_reasoning: bool = False,
        calls: bool = True,
        make_id: Callable[[], str] | None = None,
    ) -> None:
        self._format = format
        self._source = Source()
        self._sink = Sink(make_id or (lambda: new_id(format.ids)))
        self._tools = Toolbox(tools)
        self._blocks = {opening: block for block in format.blocks if calls for opening in block.open}
        self._headers = {opening: header for header in format.headers for opening in header.open}
        # A call may have ended without its block's closing, which then still comes.
        self._unclosed: frozenset[str] = frozenset()
        reasoning = format.reasoning
        self._think_open = frozenset(reasoning.open if reasoning else ())
        self._think_close = frozenset(reasoning.close if reasoning else ())
        self._closings = frozenset(closing for block in format.blocks for closing in block.close)
        self._openings = tuple(o for o, block in self._blocks.items() if block.bare is None)
        self._wanted = markers(
            *self._blocks,
            *self._headers,
            *self._think_open,
            *self._think_close,
            *self._closings,
            *format.ends,
            *format.ignored,
        )
        self._run: Generator[None, None, None] | None = self._answer(starts_in_reasoning)

    def feed(self, text: str) -> list[Delta]:
        """The deltas that more text makes certain."""
        if text:
            self._source.push(text)
            self._advance()
        return self._sink.take()

    def finish(self) -> list[Delta]:
        """The deltas that were still held back, once no more text comes."""
        self._source.closed = True
        self._advance()
        self._sink.finish()
        return self._sink.take()

    def _advance(self) -> None:
        if self._run is not None and next(self._run, self) is self:
            self._run = None

    def _answer(self, starts_in_reasoning: bool) -> Step[None]:
        if starts_in_reasoning:
            yield from self._reason(self._format.reasoning.close if self._format.reasoning else self._format.ends)
        for header in self._format.headers:
            if header.initial and (yield from self._first_header(header)):
                break
        while True:
            found = yield from self._source.until(self._wanted, self._sink.content)
            if not found:
                return
            yield from self._markup(found)

    def _markup(self, found: str) -> Step[None]:
        """Act on a marker found in content; it is content itself if it means nothing here."""
        sink = self._sink
        if found in self._blocks and (yield from self._block(found, self._blocks[found])):
            return
        if found in self._headers and (yield from self._header(self._headers[found])):
            return
        reasoning = self._format.reasoning
        if reasoning and found in self._think_open and (reasoning.anywhere or sink.fresh):
            yield from self._reason(reasoning.close)
        elif (found in self._think_close and sink.fresh) or found in self._format.ignored or found in self._format.ends:
            sink.layout()
        elif found in self._unclosed or (found in self._closings and sink.fresh and sink.calls):
            self._unclosed = frozenset()
        else:
            sink.content(found)

    def _reason(self, close: Sequence[str]) -> Step[None]:
        """Reasoning, after its opening, up to and with its end.

        A call's opening in it ends it, unless the reasoning is closed later: only then was it a thought about a call.
        """
        source, sink, reasoning = self._source, self._sink, self._format.reasoning
        also_ends = (*(reasoning.also_ends if reasoning else ()), *self._headers)
        closing = markers(*close, *also_ends)
        wanted = markers(*closing.texts, *self._openings)
        sink.begin_reasoning()
        repeated = markers(*self._think_open)
        while (yield from source.skip_to(repeated)):
            pass
        found = yield from source.until(wanted, sink.reasoning)
        if found in self._openings:
            source.back(found)
            position = source.mark()
            ending = yield from source.until(closing, drop)
            source.back(ending)
            if ending:
                sink.reasoning(source.since(position))
                found = yield from source.match(closing)
            else:
                source.rewind(position)
                yield from source.match(markers(found))
            source.release()
        # From here on the text has ended: what reads like a call is one.
        while found in self._openings and not (yield from self._block(found, self._blocks[found])):
            sink.reasoning(found)
            found = yield from source.until(wanted, sink.reasoning)
        if found in also_ends:
            source.back(found)
        if found:
            sink.end_reasoning()

    def _block(self, opening: str, block: Block) -> Step[bool]:
        """Calls after a block's opening. False: none follows, and nothing but the opening is consumed."""
        source, sink = self._source, self._sink
        if block.bare is Bare.LINE and not sink.line_start:
            return False
        source.back(opening)
        start = source.mark()
        if block.bare is None:
            yield from source.match(markers(opening))
        stops = markers(*block.close, *self._openings)
        context = Context(source, sink, self._tools, stops, block.bare is not None)
        count = 0
        bracket = closed = doubled = False
        while not closed:
            position = source.mark()
            closed = bool((yield from source.skip_to(markers(*block.close))))
            if closed:
                continue
            if not doubled and not count and block.bare is None:
                # Some models write the opening twice.
                doubled = True
                yield from source.skip_to(markers(*block.open))
            if bracket and (yield from source.skip_to(_LIST_CLOSE)):
                bracket = False
                continue
            if count:
                yield from source.skip_to(markers(*block.separators))
            elif block.brackets and not bracket:
                bracket = bool((yield from source.skip_to(_LIST_OPEN)))
            yield from source.space()
            if (count and block.single and not bracket) or not (yield from self._call(context, block)):
                source.rewind(position)
                break
            sink.end()
            count += 1
        if not count:
            source.rewind(start)
            yield from source.match(markers(opening))
        source.release()
        self._unclosed = frozenset(block.close) if count and not closed else frozenset()
        return count > 0

    def _call(self, context: Context, block: Block) -> Step[bool]:
        """One call, in whichever of the block's forms stands here. False: none, and nothing is consumed."""
        for syntax in block.calls:
            position = self._source.mark()
            reader = json.call(context, syntax) if isinstance(syntax, JsonCall) else text.call(context, syntax)
            if (yield from reader):
                return True
            self._source.rewind(position)
        return False

    def _first_header(self, header: Header) -> Step[bool]:
        """A header that the prompt has opened."""
        position = self._source.mark()
        yield from self._source.space()
        found = yield from self._source.match(markers(*header.initial))
        self._source.back(found)
        if (found or "" in header.initial) and (yield from self._message(header, opened=False)):
            return True
        self._source.rewind(position)
        self._source.release()
        return False

    def _header(self, header: Header) -> Step[bool]:
        """A header and, where it is no content, its message. False: it is none; nothing but its opening is consumed."""
        if header.bare and not self._sink.line_start:
            return False
        position = self._source.mark()
        if (yield from self._message(header, opened=not header.bare)):
            return True
        self._source.rewind(position)
        self._source.release()
        return False

    def _message(self, header: Header, opened: bool) -> Step[bool]:
        """A message from its header on. opened: markup has said that it is a header, even if the answer ends in it."""
        source, sink = self._source, self._sink
        ends = self._format.ends
        head, found = yield from source.within(markers(header.end, *ends), header.longest)
        if found != header.end:
            # The answer was cut off in a header: that is markup.
            return opened and not found and not (yield from source.peek())
        route, name = _route(header, head)
        if header.bare and name and not self._tools.knows(name):
            return False
        source.release()
        sink.layout()
        if route is Route.REASONING:
            yield from self._reason(ends)
        elif route is Route.CALL:
            stops = markers(*ends, *self._headers)
            Context(source, sink, self._tools, stops, False).start(name)
            yield from json.arguments(source, sink.arguments, stops)
            sink.end()
        return True


def _route(header: Header, head: str) -> tuple[Route, str]:
    for expression, route in header.routes:
        match = re.search(expression, head.strip())
        if match:
            return route, match.groupdict().get("name", "")
    return Route.CONTENT, ""
