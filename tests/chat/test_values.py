from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_server_nano.chat.values import Toolbox, convert, escape, literal, types_of
from mlx_server_nano.types import Tool

ROOT = {"$defs": {"s": {"type": "string"}, "loop": {"$ref": "#/$defs/loop"}, "a/b": {"type": "null"}}}


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": ["integer", "null"]}, {"integer", "null"}),
        ({"type": "int"}, {"integer"}),
        ({"anyOf": [{"type": "array"}, {"type": "null"}]}, {"array", "null"}),
        ({"anyOf": [{"type": "array"}, {}]}, set()),
        ({"allOf": [{"type": ["string", "null"]}, {"type": "string"}]}, {"string"}),
        (
            {"enum": [1, "a", None, True, 1.5, [], {}]},
            {"integer", "string", "null", "boolean", "number", "array", "object"},
        ),
        ({"const": "a"}, {"string"}),
        ({"properties": {}}, {"object"}),
        ({"$ref": "#/$defs/s"}, {"string"}),
        ({"$ref": "#/$defs/a~1b"}, {"null"}),
        ({"$ref": "#/$defs/loop"}, set()),
        ({"$ref": "#/$defs/missing"}, set()),
        ({}, set()),
        (True, set()),
        (None, set()),
    ],
)
def test_the_types_that_a_schema_allows(schema: Any, types: set[str]) -> None:
    assert types_of(schema, ROOT) == types


@given(
    text=st.text(max_size=40)
    | st.sampled_from(["NaN", "[NaN]", "-0", "1e999", "[" * 3000, "{'a': {1}}", "1" * 5000, "'x'"]),
    types=st.frozensets(st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object"])),
)
def test_whatever_the_text_its_value_is_json(text: str, types: frozenset[str]) -> None:
    json.loads(convert(text, types), parse_constant=pytest.fail, parse_int=str)
    json.loads(literal(text), parse_constant=pytest.fail, parse_int=str)


@given(st.lists(st.text(max_size=5)))
def test_escaping_piece_by_piece_is_escaping_the_whole(pieces: list[str]) -> None:
    assert json.loads(f'"{"".join(map(escape, pieces))}"') == "".join(pieces)


def test_a_name_may_carry_a_namespace() -> None:
    tools = Toolbox([Tool(name="f"), Tool(name="a.g")])
    assert [tools.resolve(name) for name in ("f", "functions.f", "a.g", "g", "b.h")] == ["f", "f", "a.g", "g", "b.h"]
    assert tools.declares("functions.f")
    assert not tools.declares("h")
    assert Toolbox([]).declares("h")
    assert not Toolbox([]).knows("h")
