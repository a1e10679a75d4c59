"""No JSON body makes the server fail or hang."""

import json

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_server_nano.api.responses_items import Item
from mlx_server_nano.api.responses_request import ResponseBody
from tests.api.test_fuzz import values

types = st.sampled_from(
    [
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "item_reference",
        "web_search_call",
    ]
)
parts = st.fixed_dictionaries(
    {"type": st.sampled_from(["input_text", "output_text", "refusal", "summary_text", "input_image"])},
    optional={"text": values, "refusal": values, "annotations": values},
)
items = st.fixed_dictionaries(
    {},
    optional={
        **{name: values | st.text(max_size=3) | st.lists(parts, max_size=2) for name in Item.__struct_fields__},
        "type": types,
        "role": st.sampled_from(["user", "assistant", "system", "developer", "tool"]),
    },
)
tools = st.fixed_dictionaries(
    {"type": st.sampled_from(["function", "custom", "web_search", "mcp"])},
    optional={"name": st.sampled_from("fg"), "parameters": values, "strict": values, "format": values},
)
plausible = st.fixed_dictionaries(
    {"model": st.just("m"), "input": st.text(max_size=3) | st.lists(items, min_size=1, max_size=3)},
    optional={
        **{name: values for name in ResponseBody.__struct_fields__ if name not in ("model", "input")},
        "tools": st.lists(tools, max_size=2) | values,
        "reasoning": st.fixed_dictionaries({}, optional={"effort": values, "summary": values}),
        "text": st.fixed_dictionaries({}, optional={"format": values}),
    },
)


@settings(max_examples=150)
@given(plausible | st.dictionaries(st.sampled_from(ResponseBody.__struct_fields__), values) | values)
def test_random_bodies(server, validate, body):
    response = httpx.post(f"{server.url}/v1/responses", content=json.dumps(body).encode())
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        assert response.json()["error"].keys() == {"message", "type", "param", "code"}
    elif response.headers["content-type"] == "application/json":
        validate(response.json(), "Response")
