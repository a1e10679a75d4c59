"""What is there to copy and paste. tests/e2e/test_demo.py runs it."""

from __future__ import annotations

import ast
import json
import shlex

import pytest

from mlx_server_nano.cli.examples import PROMPT, examples

URL = "http://[::1]:9000"


def parts(*, key: bool) -> tuple[list[str], str]:
    """The arguments of curl, and the Python code."""
    _, curl, python = examples(URL, "demo", key=key).split("\n\n")
    return shlex.split(curl.replace("\\\n", "")), python


@pytest.mark.parametrize("key", [False, True])
def test_both_ask_the_same(key):
    (program, address, *arguments), python = parts(key=key)
    assert (program, address) == ("curl", f"{URL}/v1/chat/completions")
    body = json.loads(arguments[-1])
    assert body == {"model": "demo", "messages": [{"role": "user", "content": PROMPT}]}
    assert ("Authorization: Bearer YOUR_KEY" in arguments) is key
    calls = [node for node in ast.walk(ast.parse(python)) if isinstance(node, ast.Call)]
    given = {k.arg: ast.literal_eval(k.value) for call in calls for k in call.keywords}
    assert given == body | {"base_url": f"{URL}/v1", "api_key": "YOUR_KEY" if key else "unused"}
