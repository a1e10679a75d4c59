from __future__ import annotations

import re

import pytest

from mlx_server_nano.chat.lexer import Markers, Source, Step, drop, markers


@pytest.mark.parametrize(
    ("text", "closed", "found"),
    [
        ("plain", False, (5, "")),
        ("a<b>c", False, (1, "<b>")),
        ("a<", False, (1, "")),
        ("a<", True, (2, "")),
        ("a<b", False, (1, "")),
        ("a<x", False, (3, "")),
        ("<b><b", False, (0, "<b>")),
        # The longest one counts, as soon as it is sure that it can't come.
        ("<long", False, (0, "")),
        ("<long>", False, (0, "")),
        ("<long>er", False, (0, "<long>er")),
        ("<long>e", True, (0, "<long>")),
        ("<long>x", False, (0, "<long>")),
        # A marker may stand within another one.
        ("[<b>", False, (0, "")),
        ("[<b>]", False, (0, "[<b>]")),
        ("[<b>x", False, (1, "<b>")),
    ],
)
def test_the_first_marker_is_found_as_soon_as_it_is_certain(text: str, closed: bool, found: tuple[int, str]) -> None:
    assert Markers(["<b>", "<long>", "<long>er", "[<b>]"]).find(text, 0, closed) == found


def test_no_markers_find_nothing() -> None:
    assert Markers([]).find("text", 0, False) == (4, "")


def drive(step: Step[object], source: Source, text: str) -> object:
    """Run a step, feeding a character whenever it asks for more."""
    pieces = iter(text)
    while True:
        try:
            next(step)
        except StopIteration as stop:
            return stop.value
        piece = next(pieces, None)
        if piece is None:
            source.closed = True
        else:
            source.push(piece)


def test_text_passes_on_up_to_a_marker() -> None:
    source, out = Source(), list[str]()
    assert drive(source.until(markers("</a>"), out.append), source, "one </b> two</a>") == "</a>"
    assert "".join(out) == "one </b> two"


def test_text_without_a_marker_passes_on_to_its_end() -> None:
    source, out = Source(), list[str]()
    assert drive(source.until(markers("</a>"), out.append), source, "one </") == ""
    assert "".join(out) == "one </"


def test_marked_text_can_be_read_again() -> None:
    source = Source()
    drive(source.until(markers("|"), drop), source, "ab|")
    position = source.mark()
    drive(source.until(markers("|"), drop), source, "cd|")
    assert source.since(position) == "cd|"
    source.rewind(position)
    source.release()
    assert drive(source.match(markers("cd")), source, "") == "cd"


def test_a_run_ends_at_another_character_or_its_limit() -> None:
    source = Source()
    assert drive(source.run(re.compile("[a-z]*")), source, "abc1") == "abc"
    assert drive(source.run(re.compile("1*"), 3), source, "111111") == "1111"


def test_text_within_a_limit() -> None:
    source = Source()
    assert drive(source.within(markers("!"), 4), source, "abcd!") == ("abcd", "!")
    source = Source()
    assert drive(source.within(markers("!"), 3), source, "abcd!") == ("", "")
    source = Source()
    assert drive(source.within(markers("!"), 9), source, "abcd") == ("abcd", "")


def test_skipping_to_a_marker_takes_the_white_space_only_with_it() -> None:
    source = Source()
    assert drive(source.skip_to(markers("x")), source, " \n x") == "x"
    assert drive(source.skip_to(markers("x")), source, " y") == ""
    assert drive(source.peek(), source, "") == " "
