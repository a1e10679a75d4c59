"""No JSON body makes the server fail or hang."""

import json

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_server_nano.api.chat_request import ChatBody
from mlx_server_nano.api.completions_request import CompletionBody
from mlx_server_nano.api.embeddings import EmbeddingBody
from mlx_server_nano.api.tokens import DetokenizeBody, TokenizeBody

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=5)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
parts = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "refusal", "image_url"]) | values}, optional={"text": values, "refusal": values}
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "system", "developer", "function"]) | values},
    optional={
        "content": values | st.lists(parts, max_size=2),
        "tool_calls": values | st.lists(st.fixed_dictionaries({"id": values, "function": values}), max_size=2),
        "tool_call_id": values,
        "reasoning": values,
    },
)
plausible = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": st.lists(messages, min_size=1, max_size=3)},
    optional={name: values for name in ChatBody.__struct_fields__ if name not in ("model", "messages")},
)


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url) as client:
        yield client


@settings(max_examples=300)
@given(plausible | st.dictionaries(st.sampled_from(ChatBody.__struct_fields__), values) | values)
def test_random_bodies(client, body):
    response = client.post("/v1/chat/completions", content=json.dumps(body).encode())
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        assert response.json()["error"].keys() == {"message", "type", "param", "code"}


@settings(max_examples=100)
@given(st.binary(max_size=50))
def test_random_bytes(client, body):
    assert client.post("/v1/chat/completions", content=body).status_code == 400


OTHERS = {
    "/v1/completions": CompletionBody.__struct_fields__,
    "/v1/embeddings": EmbeddingBody.__struct_fields__,
    "/tokenize": TokenizeBody.__struct_fields__,
    "/detokenize": DetokenizeBody.__struct_fields__,
    "/apply-template": ChatBody.__struct_fields__,
}


@settings(max_examples=200)
@given(st.data())
def test_random_bodies_of_the_plain_endpoints(client, data):
    """The scripted model answers only what is generated, so other requests that are taken go to one that does not exist."""
    path = data.draw(st.sampled_from(sorted(OTHERS)))
    fields = st.fixed_dictionaries({}, optional=dict.fromkeys(OTHERS[path], values))
    model = "m" if path == "/v1/completions" else "none"
    body = {**data.draw(fields), "model": model} | data.draw(
        st.fixed_dictionaries({}, optional={"prompt": st.text(), "input": st.text(), "content": st.text()})
    )
    response = client.post(path, content=json.dumps(body).encode())
    assert response.status_code in (200, 400, 404), response.text
