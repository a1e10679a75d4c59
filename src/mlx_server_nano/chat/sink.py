"""Collects what the machine finds and turns it into deltas."""

from __future__ import annotations

from collections.abc import Callable

from mlx_server_nano.chat.deltas import CallArguments, CallEnd, CallStart, ContentDelta, Delta, ReasoningDelta


class _Prose:
    """A channel of text. Whitespace next to markup is layout, not text: it is held until text follows."""

    __slots__ = ("held", "layout")

    def __init__(self) -> None:
        self.held = ""
        self.layout = False

    def pass_on(self, text: str) -> str:
        """What of `text`, and of the whitespace held before it, may go out now."""
        body = text.rstrip()
        if not body:
            self.held += text
            return ""
        out = (self.held if not self.layout else "") + body
        if self.layout:
            out = out.lstrip()
        self.held = text[len(body) :]
        self.layout = False
        return out

    def at_markup(self) -> None:
        """Markup stands here: whitespace on either side of it is layout."""
        self.held = ""
        self.layout = True


class Sink:
    """Deltas in order, neighbours of a kind merged. One call at most is open at a time."""

    __slots__ = (
        "_content",
        "_deltas",
        "_make",
        "_new_id",
        "_open",
        "_parts",
        "_reasoning",
        "_written",
        "calls",
        "fresh",
    )

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._deltas: list[Delta] = []
        self._make: Callable[[str], Delta] | None = None
        self._parts: list[str] = []
        self._content = _Prose()
        self._reasoning = _Prose()
        self._open = False
        self._written = False
        self.calls = 0
        # No content (whitespace aside) since the beginning or the last markup.
        self.fresh = True

    @property
    def line_start(self) -> bool:
        """Whether content would go on at the start of a line."""
        return self.fresh or "\n" in self._content.held

    def content(self, text: str) -> None:
        out = self._content.pass_on(text)
        if out:
            self.fresh = False
            self._written = True
            self._add(ContentDelta, out)

    def reasoning(self, text: str) -> None:
        out = self._reasoning.pass_on(text)
        if out:
            self._add(ReasoningDelta, out)

    def begin_reasoning(self) -> None:
        self._content.at_markup()
        self._reasoning.at_markup()

    def end_reasoning(self) -> None:
        self._content.at_markup()
        self._reasoning.at_markup()
        self.fresh = True

    def layout(self) -> None:
        """Markup that opens a message: whitespace around it is none of the text."""
        self._content.at_markup()
        self.fresh = True

    def start(self, name: str, call_id: str | None = None) -> None:
        self._flush()
        self._deltas.append(CallStart(self.calls, call_id or self._new_id(), name))
        self.calls += 1
        self._open = True

    def arguments(self, fragment: str) -> None:
        self._add(self._argument, fragment)

    def end(self) -> None:
        if self._open:
            self._flush()
            self._deltas.append(CallEnd(self.calls - 1))
            self._open = False
            self.fresh = True
            if not self._written:
                self._content.at_markup()

    def finish(self) -> None:
        """The answer is over: trailing whitespace belongs to it unless markup came before."""
        self.end()
        if self._content.held and not self._content.layout and not self.calls:
            self._add(ContentDelta, self._content.held)
        self._content.held = ""

    def take(self) -> list[Delta]:
        """The deltas since the last call."""
        self._flush()
        deltas, self._deltas = self._deltas, []
        return deltas

    def _add(self, make: Callable[[str], Delta], text: str) -> None:
        if not text:
            return
        if self._make != make:
            self._flush()
            self._make = make
        self._parts.append(text)

    def _argument(self, fragment: str) -> Delta:
        return CallArguments(self.calls - 1, fragment)

    def _flush(self) -> None:
        if self._make is not None:
            self._deltas.append(self._make("".join(self._parts)))
            self._make = None
            self._parts = []
