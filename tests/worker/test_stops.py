"""Stop strings: whatever the chunks, the text up to the stop string that is complete first, and nothing is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_server_nano.worker.stops import StopMatcher


def run(stops: tuple[str, ...], chunks: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    sent = ""
    for chunk in chunks:
        text, stop = matcher.feed(chunk)
        sent += text
        if stop is not None:
            return sent, stop
    return sent + matcher.flush(), None


def reference(stops: tuple[str, ...], text: str) -> tuple[str, str | None]:
    """Read the text character by character; of two stop strings that end at one place the longer counts."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return text[: end - len(stop)], stop
    return text, None


@given(
    stops=st.lists(st.text("ab", min_size=1, max_size=5), max_size=4).map(tuple),
    chunks=st.lists(st.text("ab", max_size=6), max_size=12),
)
def test_any_chunks_give_what_one_reader_of_the_whole_text_would_see(stops, chunks):
    assert run(stops, chunks) == reference(stops, "".join(chunks))


@given(stops=st.lists(st.text("abc", min_size=1, max_size=6), max_size=4).map(tuple), text=st.text("abc", max_size=40))
def test_nothing_is_held_that_can_not_become_a_stop_string(stops, text):
    matcher = StopMatcher(stops)
    sent = ""
    for char in text:
        released, stop = matcher.feed(char)
        sent += released
        if stop is not None:
            return
    held = text[len(sent) :]
    assert any(stop.startswith(held) and stop != held for stop in stops) or held == ""
    assert matcher.flush() == held
    assert matcher.flush() == ""


@pytest.mark.parametrize(
    ("stops", "chunks", "expected"),
    [
        (("END",), ["one EN", "D two"], ("one ", "END")),
        (("END",), ["one EN"], ("one EN", None)),
        (("bc", "abcd"), ["abcd"], ("a", "bc")),
        (("bc", "abcd"), ["a", "b", "c", "d"], ("a", "bc")),
        (("c", "abc"), ["xabc"], ("x", "abc")),
        (("aab",), ["aa", "ab"], ("a", "aab")),
        (("\n\n",), ["a\n", "\nb"], ("a", "\n\n")),
        ((), ["a", "b"], ("ab", None)),
    ],
)
def test_examples(stops, chunks, expected):
    assert run(stops, chunks) == expected
