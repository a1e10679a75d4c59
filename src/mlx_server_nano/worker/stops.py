"""Stop strings, matched on text: a stop string that tokenizes differently in its context still stops."""

from __future__ import annotations


class StopMatcher:
    """Passes text on, holding back a tail that may become a stop string."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""

    def feed(self, text: str) -> tuple[str, str | None]:
        """The text that is safe to send, and the stop string if one is complete: the one that ends first, as if the text
        came character by character; of two that end together, the longer. After a match nothing may be fed any
        more."""
        if not self._stops:
            return text, None
        buffer = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := buffer.find(stop)) >= 0]
        if found:
            _, at, stop = min(found)
            self._held = ""
            return buffer[:at], stop
        keep = max(self._overlap(buffer, stop) for stop in self._stops)
        self._held = buffer[len(buffer) - keep :]
        return buffer[: len(buffer) - keep], None

    def flush(self) -> str:
        """What was held back for a stop string that never came."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(buffer: str, stop: str) -> int:
        """The length of the longest tail of `buffer` that begins `stop`."""
        for length in range(min(len(buffer), len(stop) - 1), 0, -1):
            if buffer.endswith(stop[:length]):
                return length
        return 0
