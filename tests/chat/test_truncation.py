"""What may be left out of a prompt that is too long."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_server_nano.chat.prepare import TOOL_RESPONSE
from mlx_server_nano.chat.truncation import droppable


def said(roles: str) -> list[dict[str, Any]]:
    """S: system, U: user, A: assistant, C: a call, T: its result, R: a result in a user's message."""
    kinds = {"S": "system", "U": "user", "A": "assistant", "C": "assistant", "T": "tool", "R": "user"}
    return [{"role": kinds[c], "content": f"{TOOL_RESPONSE}\nx" if c == "R" else "x"} for c in roles]


@pytest.mark.parametrize(
    ("roles", "groups"),
    [
        ("U", ()),
        ("SU", ()),
        ("SUAU", ((1,), (2,))),
        ("UAUA", ((0,), (1,))),
        ("SUCTTCTU", ((1,), (2, 3, 4), (5, 6))),
        ("SUCTCT", ((2, 3),)),  # an agent at work: its task and the newest result stay
        ("UCRCRU", ((0,), (1, 2), (3, 4))),
        ("UASUA", ((0,), (1,))),
    ],
)
def test_groups(roles: str, groups: tuple[tuple[int, ...], ...]) -> None:
    assert droppable(said(roles), head_instructs=False, alternating=False) == groups


def test_instructions_in_the_first_message_stay() -> None:
    assert droppable(said("UAUAU"), head_instructs=True, alternating=False) == ((1,), (2,), (3,))
    assert droppable(said("UAUAU"), head_instructs=True, alternating=True) == ((2, 3),)


turns = st.lists(st.sampled_from(["U", "UA", "UCTA", "UCTTCTA"]), min_size=1, max_size=6).map("".join)


@given(turns, st.booleans(), st.integers(0, 20))
def test_whatever_is_dropped(roles: str, alternating: bool, count: int) -> None:
    messages = said("S" + roles)
    groups = droppable(messages, head_instructs=False, alternating=alternating)
    flat = [i for group in groups for i in group]
    assert flat == sorted(set(flat)), "oldest first, each once"
    gone = {i for group in groups[:count] for i in group}
    left = "".join(kind for i, kind in enumerate("S" + roles) if i not in gone)
    assert left[0] == "S" and "U" in left and left[-1] == roles[-1]
    assert "T" not in "".join(left.split("C")[0]), "no result without its call"
    if alternating:
        assert left[1] == "U"
