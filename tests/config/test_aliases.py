from __future__ import annotations

import pytest

from mlx_server_nano.config.aliases import check, follow


@pytest.mark.parametrize(
    ("name", "names"),
    [("a", ("a", "b", "org/c")), ("b", ("b", "org/c")), ("org/c", ("org/c",)), ("other", ("other",))],
)
def test_an_alias_is_followed_to_its_end(name: str, names: tuple[str, ...]) -> None:
    assert follow(name, {"a": "b", "b": "org/c", "x": "a"}) == names


@pytest.mark.parametrize(
    ("aliases", "model_map", "told"),
    [
        ([("a", "a")], [], "a = a goes round in circles"),
        ([("x", "a"), ("a", "b"), ("b", "c"), ("c", "b")], [], "x = a = b = c = b goes round in circles"),
        ([("a", "m"), ("a", "n")], [], "and for "),
        ([("a", "m")], [("a", "n")], "in --model-map"),
    ],
)
def test_contradictions(aliases: list[tuple[str, str]], model_map: list[tuple[str, str]], told: str) -> None:
    with pytest.raises(ValueError) as caught:
        check(aliases, model_map)
    assert told in str(caught.value)


def test_what_is_no_contradiction() -> None:
    check([("a", "m"), ("a", "m"), ("b", "a")], [("a", "m"), ("*", "n")])
