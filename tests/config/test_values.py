"""Values as text and as TOML holds them."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_server_nano.config import values
from mlx_server_nano.config.values import Kind


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (values.memory(), "24G", 24 << 30),
        (values.memory(), "1.5GiB", 3 << 29),
        (values.memory(), "512mb", 512 << 20),
        (values.memory(), "1000000", 1000000),
        (values.memory(zero=True), "0", 0),
        (values.optional(values.memory()), "", None),
        (values.count_or_unset(), "0", None),
        (values.count_or_unset(), "7", 7),
        (values.boolean(), "ON", True),
        (values.boolean(), "", False),
        (values.choice("A", "B"), "a", "A"),
        (values.pair("a=b"), "a = /m/y=z", ("a", "/m/y=z")),
        (values.key(), "sésame-1", "sésame-1"),
        (values.origin(), "https://chat.example:8443", "https://chat.example:8443"),
        (values.origin(), "tauri://localhost", "tauri://localhost"),
        (values.origin(), "*", "*"),
        (values.host_name(), "*.example.org", "*.example.org"),
        (values.optional(values.boolean()), "", None),
    ],
)
def test_text(kind: Kind, text: str, value: Any) -> None:
    assert kind.parse(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (values.memory(), "0"),
        (values.memory(), "nan"),
        (values.memory(), "9999999T"),
        (values.memory(), "5X"),
        (values.memory(zero=True), "-1"),
        (values.integer(0), "1.0"),
        (values.integer(0, 9), "10"),
        (values.number(0), "inf"),
        (values.number(0), "nan"),
        (values.number(0, 2), "2.1"),
        (values.boolean(), "2"),
        (values.pair("a=b"), "a"),
        (values.pair("a=b"), " =b"),
        (values.host(), "a b"),
        (values.directory(), ""),
        (values.key(), "a b"),
        (values.key(), "a\x00"),
        (values.origin(), "https://chat.example/"),
        (values.origin(), "https://Chat.example"),
        (values.origin(), "chat.example"),
        (values.origin(), "null"),
        (values.host_name(), "llm.example:8000"),
        (values.host_name(), "https://llm.example"),
        (values.pattern(), " "),
    ],
)
def test_unusable_text(kind: Kind, text: str) -> None:
    with pytest.raises(ValueError, match=r"^(not|less|empty)"):
        kind.parse(text)


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        (values.integer(0), 5, 5),
        (values.number(0), 5, 5.0),
        (values.number(0), 0.25, 0.25),
        (values.boolean(), False, False),
        (values.memory(), "24G", 24 << 30),
        (values.memory(), 1000000, 1000000),
        (values.text(), "5", "5"),
    ],
)
def test_values_of_toml(kind: Kind, given: object, value: Any) -> None:
    read = kind.read(given)
    assert read == value and type(read) is type(value)


@given(
    st.one_of(st.booleans(), st.integers(), st.floats(), st.text(), st.just([]), st.just({}), st.just(date(2026, 1, 1)))
)
def test_another_type_of_toml_is_no_value(given: object) -> None:
    kinds = {
        int: values.integer(-(10**9)),
        float: values.number(0),
        bool: values.boolean(),
        str: values.text(),
    }
    for kind in kinds.values():
        if type(given) not in kind.types:
            with pytest.raises(ValueError, match=f"not {kind.what[:5]}"):
                kind.read(given)
