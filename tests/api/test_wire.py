import json
import logging

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_server_nano.api.wire import UnknownFields, decode_json
from mlx_server_nano.errors import InvalidRequestError


class Item(msgspec.Struct):
    name: str
    weights: dict[int, float] = {}


class Body(msgspec.Struct):
    items: list[Item]
    note: str | None = None


DECODER = msgspec.json.Decoder(Body)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ("[]", None),
        ("{}", "items"),
        ('{"items": [{"name": "a"}, {}]}', "items.1.name"),
        ('{"items": [{"name": 1}]}', "items.0.name"),
        ('{"items": [{"name": "a", "weights": {"x": 1}}]}', "items.0.weights"),
        ('{"items": [{"name": "a", "weights": {"1": "x"}}]}', "items.0.weights"),
        ("nonsense", None),
        ('{"items": [], "x": ' + "[" * 100_000, None),
    ],
)
def test_faults_name_the_field(body, param):
    with pytest.raises(InvalidRequestError) as caught:
        decode_json(DECODER, body.encode())
    assert caught.value.param == param
    assert "$" not in caught.value.message
    if param is not None:
        assert param in caught.value.message


@pytest.mark.parametrize(
    "body", [b'{"items": [], "note": "\xff"}', '{"items": []}'.encode("utf-16"), b'\xef\xbb\xbf{"items": []}']
)
def test_only_utf_8(body):
    with pytest.raises(InvalidRequestError):
        decode_json(DECODER, body)


def test_half_an_emoji_becomes_a_replacement_character():
    body = rb'{"items": [], "note": "a\ud83d b\ude00 \ud83d\ude00 \\ud83d"}'
    assert decode_json(DECODER, body).note == "a\ufffd b\ufffd \U0001f600 \\ud83d"


@given(st.text(st.characters(exclude_categories=())))
def test_any_json_string_decodes(text):
    expected = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert decode_json(DECODER, json.dumps({"items": [], "note": text}).encode()).note == expected


def test_unknown_fields_are_logged_once(caplog):
    unknown = UnknownFields(Body)
    with caplog.at_level(logging.INFO):
        unknown.log(b'{"items": [], "later": 1}')
    with caplog.at_level(logging.DEBUG):
        unknown.log(b'{"items": [], "extra": 1}')
        unknown.log(b'{"items": [], "extra": 1, "later": 1, "x": "\\ud800"}')
        unknown.log(b'{"items": [], "extra": 1, "later": 1}')
    assert [record.args for record in caplog.records] == [("extra",), ("later",)]
