from __future__ import annotations

import pytest

from mlx_server_nano.worker.drafts import Drafts


def test_inputs_are_padded():
    drafts = Drafts([[7, 8], [], [9]], 4)
    assert drafts.inputs([1, 2, 3]) == [[1, 7, 8, 0], [2, 0, 0, 0], [3, 9, 0, 0]]


@pytest.mark.parametrize(
    ("drawn", "accepted"),
    [([5, 8, 1, 1], [5]), ([7, 5, 1, 1], [7, 5]), ([7, 8, 4, 1], [7, 8, 4])],
)
def test_what_was_drawn_counts_while_the_draft_agrees(drawn: list[int], accepted: list[int]):
    """Padding is no draft, even where it is what was drawn."""
    assert Drafts([[7, 8]], 4).accepted(0, drawn) == accepted


def test_a_row_without_a_draft_takes_its_one_token():
    assert Drafts([[7, 8], []], 3).accepted(1, [0, 0, 0]) == [0]
