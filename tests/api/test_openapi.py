"""The OpenAPI document is true: of the routes, of what the decoders take and refuse, and of what the server really answers."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser
from typing import Any

import httpx
import jsonschema
import msgspec
import openapi_spec_validator
import pytest

from mlx_server_nano.api.fields import NO_EFFECT, NOT_SUPPORTED
from mlx_server_nano.api.openapi.document import build_document
from mlx_server_nano.api.openapi.operations import OPERATIONS, Operation
from mlx_server_nano.api.openapi.page import build_page
from mlx_server_nano.protocol import Answer, Delta, Embedded, Measured, Rendered, Tokenized
from mlx_server_nano.types import Alternative, FinishReason, GenerationRequest, TokenLogprob
from tests.api.conftest import HERMES, Running
from tests.api.fakes import Script, started
from tests.test_docs import routes

DOCUMENT = build_document()
SCHEMAS: Mapping[str, Any] = DOCUMENT["components"]["schemas"]
HI = [{"role": "user", "content": "hi"}]

with_body = pytest.mark.parametrize(
    "operation", [operation for operation in OPERATIONS if operation.body], ids=lambda operation: operation.path
)


def test_every_route_is_told_and_no_other() -> None:
    told = {
        (method.upper(), path.replace("{name}", "{id}"))
        for path, methods in DOCUMENT["paths"].items()
        for method in methods
    }
    assert told == routes()


def test_the_document_is_valid() -> None:
    openapi_spec_validator.validate(DOCUMENT)
    ids = [told["operationId"] for methods in DOCUMENT["paths"].values() for told in methods.values()]
    assert len(set(ids)) == len(ids)


def validator(schema: Mapping[str, Any]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return SCHEMAS[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def examples(schema: Mapping[str, Any], depth: int = 0) -> Iterator[Any]:
    """Some values that the schema allows: of each alternative, and at each bound."""
    schema = resolved(schema)
    if "enum" in schema:
        yield from schema["enum"]
    elif "anyOf" in schema and "type" not in schema:
        for option in schema["anyOf"]:
            yield from examples(option, depth)
    elif schema.get("type") == "object":
        required = schema.get("required", ())
        least: dict[str, Any] = {name: next(examples(schema["properties"][name], depth + 1)) for name in required}
        yield least
        if depth < 3:
            for name, field in schema.get("properties", {}).items():
                for value in examples(field, depth + 1):
                    yield least | {name: value}
    elif schema.get("type") == "array":
        inner = next(examples(schema.get("items", {}), depth + 1))
        yield [inner] * schema.get("minItems", 0)
        yield [inner]
    elif schema.get("type") == "string":
        yield "x" * max(1, schema.get("minLength", 0)) if "custom$" not in schema.get("pattern", "") else "custom"
    elif schema.get("type") == "integer":
        yield from (schema.get("minimum", 1), schema.get("maximum", 2))
    elif schema.get("type") == "number":
        yield from (schema.get("minimum", 0.5), schema.get("maximum", 0.5))
    else:
        yield {"boolean": True, "null": None}.get(schema.get("type", ""), {"any": 1})


def beyond(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Values just outside a schema without alternatives."""
    schema = resolved(schema)
    if "anyOf" in schema:
        return
    kind, example = schema.get("type"), next(examples(schema))
    if kind in ("integer", "number"):
        yield from (schema[bound] + step for bound, step in (("minimum", -1), ("maximum", 1)) if bound in schema)
        yield from (schema[bound] for bound in ("exclusiveMinimum",) if bound in schema)
    if kind == "array":
        yield from ([next(examples(schema["items"]))] * (schema["maxItems"] + 1) for _ in "x" if "maxItems" in schema)
        yield from ([] for _ in "x" if schema.get("minItems"))
    if kind == "string" and schema.get("minLength"):
        yield ""
    if kind is not None:
        yield [example] if kind != "array" else {"not": "a list"}


def fields(operation: Operation) -> Iterator[tuple[str, Mapping[str, Any], dict[str, Any]]]:
    """Each field of a body, with its schema and a body that is good without it."""
    assert operation.body is not None
    schema = SCHEMAS[operation.body.__name__]
    least = next(examples(schema))
    for name, field in schema["properties"].items():
        yield name, field, least


@with_body
def test_all_that_a_body_may_hold_is_decoded(operation: Operation) -> None:
    assert operation.body is not None
    schema = SCHEMAS[operation.body.__name__]
    assert list(schema["properties"]) == list(operation.body.__struct_encode_fields__)  # type: ignore[attr-defined]
    check = validator(schema)
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(operation.body)
    for body in examples(schema):
        check.validate(body)
        decoder.decode(json.dumps(body).encode())


@with_body
def test_what_a_body_may_not_hold_is_refused(operation: Operation) -> None:
    assert operation.body is not None
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(operation.body)
    count = 0
    for name, field, least in fields(operation):
        options = [option for option in field.get("anyOf", [field]) if option != {"type": "null"}]
        for option in options if len(options) == 1 else ():
            for value in beyond(option):
                count += 1
                with pytest.raises(msgspec.ValidationError):
                    decoder.decode(json.dumps(least | {name: value}).encode())
        if name in SCHEMAS[operation.body.__name__].get("required", ()):
            with pytest.raises(msgspec.ValidationError):
                decoder.decode(json.dumps({key: value for key, value in least.items() if key != name}).encode())
    assert count


WRITTEN = (
    "<think>Hm.</think>Well. "
    '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call><tool_call>{"name": "g", "arguments": {"input": "x"}}</tool_call>'
)
LOGPROB = TokenLogprob("é".encode()[:1], -0.5, (Alternative(b"a", -0.5), Alternative(b"b", -2.0)))


def play(work: Any) -> Any:
    """An answer of each kind."""
    name = type(work).__name__
    if isinstance(work, GenerationRequest):
        logprobs = (LOGPROB,) if work.logprobs is not None else ()
        last = Delta(0, 0, WRITTEN, 2, logprobs, FinishReason.STOP, None)
        return [started(), [last]]
    answers: dict[str, Answer] = {
        "Measure": Measured(0, 7),
        "Embed": Embedded(0, (struct.pack("<2f", 0.5, 1.0),), 3),
        "Tokenize": Tokenized(0, (5, 6), (b"a", b"\xe2")),
    }
    return [[answers.get(name, Rendered(0, "text"))]]


FUNCTION = {"name": "f", "parameters": {"type": "object"}}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": HI, "tools": [
        {"type": "function", "function": FUNCTION}, {"type": "custom", "custom": {"name": "g"}}
    ], "logprobs": True, "top_logprobs": 2}),
    ("/v1/chat/completions", {"messages": HI}),
    ("/v1/completions", {"prompt": "a", "logprobs": 1}),
    ("/v1/completions", {"prompt": ["a"]}),
    ("/v1/responses", {"input": "hi", "tools": [{"type": "function", **FUNCTION}, {"type": "custom", "name": "g"}]}),
    ("/v1/responses", {"input": "hi", "include": ["reasoning.encrypted_content"], "reasoning": {"summary": "auto"}}),
    ("/v1/responses/input_tokens", {"input": "hi"}),
    ("/v1/messages", {"messages": HI, "max_tokens": 5, "tools": [
        {"name": "f", "input_schema": {"type": "object"}}, {"name": "g", "input_schema": {"type": "object"}}
    ]}),
    ("/v1/messages/count_tokens", {"messages": HI}),
    ("/v1/embeddings", {"input": "a"}),
    ("/v1/embeddings", {"input": [1, 2], "encoding_format": "base64"}),
    ("/tokenize", {"content": "a"}),
    ("/tokenize", {"content": "a", "with_pieces": True}),
    ("/detokenize", {"tokens": [1]}),
    ("/apply-template", {"messages": HI}),
    ("/admin/load", {}),
    ("/admin/unload", {"force": True}),
]  # fmt: skip


def check(operation: Operation, response: httpx.Response) -> None:
    """The response is one that the document tells."""
    told = DOCUMENT["paths"][operation.path][operation.method.lower()]["responses"][str(response.status_code)]
    if "$ref" in told:
        told = DOCUMENT["components"]["responses"][told["$ref"].rpartition("/")[2]]
    kind = response.headers["content-type"].partition(";")[0]
    content = told["content"][kind]
    if kind == "application/json":
        validator(content["schema"]).validate(response.json())


def operation_at(method: str, path: str) -> Operation:
    (found,) = (operation for operation in OPERATIONS if (operation.method, operation.path) == (method, path))
    return found


@pytest.fixture
def playing(server: Running) -> Iterator[httpx.Client]:
    server.manager.scripts["m"] = Script(play, template=HERMES.removesuffix("<think>"))
    with httpx.Client(base_url=server.url) as client:
        yield client


@pytest.mark.parametrize(("path", "body"), CALLS)
def test_real_answers(playing: httpx.Client, path: str, body: dict[str, Any]) -> None:
    operation = operation_at("POST", path)
    response = playing.post(path, json={"model": "m", **body})
    assert response.status_code == 200, response.text
    check(operation, response)
    if operation.stream and operation.answer:
        response = playing.post(path, json={"model": "m", **body, "stream": True})
        assert response.headers["content-type"].startswith("text/event-stream")
        check(operation, response)


def test_every_body_is_tried() -> None:
    assert {path for path, _ in CALLS} == {operation.path for operation in OPERATIONS if operation.body}


@with_body
def test_real_errors(playing: httpx.Client, operation: Operation) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    responses = [
        playing.post(operation.path, json={}),
        playing.post(operation.path, json={**dict(CALLS)[operation.path], "model": "no"}),
        playing.post(operation.path, content=b"a=b", headers=form),
    ]
    assert [response.status_code for response in responses] == [400, 404, 415]
    for response in responses:
        check(operation, response)


@with_body
def test_fields_that_are_not_acted_on(playing: httpx.Client, operation: Operation) -> None:
    """Those without effect take all that is told of them; those that are refused take what asks for nothing."""
    good = {**dict(CALLS)[operation.path], "model": "no"}
    for name, field, _ in fields(operation):
        refused = field.get("description") == NOT_SUPPORTED
        if refused:
            response = playing.post(operation.path, json={**good, name: "something"})
            assert response.status_code == 400 and name in response.text
        if refused or field.get("description") == NO_EFFECT.description:
            for value in examples(field):
                response = playing.post(operation.path, json={**good, name: value})
                assert response.status_code == 404, response.text


def test_what_is_got(playing: httpx.Client) -> None:
    made = playing.post("/v1/responses", json={"model": "m", "input": "hi"}).json()["id"]
    tried = set()
    for method, path, given, status in [
        ("GET", "/v1/responses/{id}", made, 200),
        ("GET", "/v1/responses/{id}", "none", 404),
        ("GET", "/v1/responses/{id}/input_items", made, 200),
        ("POST", "/v1/responses/{id}/cancel", made, 400),
        ("DELETE", "/v1/responses/{id}", made, 200),
        ("GET", "/v1/models", "", 200),
        ("GET", "/v1/models/{name}", "org/model", 200),
        ("GET", "/v1/models/{name}", "none", 404),
        ("GET", "/health", "", 200),
        ("GET", "/", "", 200),
        ("GET", "/web/{name}", "app.js", 200),
        ("GET", "/web/{name}", "none", 404),
        ("GET", "/admin/status", "", 200),
        ("GET", "/metrics", "", 200),
        ("GET", "/openapi.json", "", 200),
        ("GET", "/docs", "", 200),
    ]:
        response = playing.request(method, path.replace("{id}", given).replace("{name}", given))
        assert response.status_code == status, (path, response.text)
        check(operation_at(method, path), response)
        tried.add((method, path))
    assert tried == {(operation.method, operation.path) for operation in OPERATIONS if not operation.body}


def test_the_server_gives_the_document_and_the_page(playing: httpx.Client) -> None:
    assert playing.get("/openapi.json").json() == json.loads(json.dumps(DOCUMENT))
    response = playing.get("/docs")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.text == build_page(DOCUMENT)


def test_who_may_ask(start: Callable[..., Running]) -> None:
    """What needs a key is told, and what is answered without one or to a page of elsewhere."""
    with httpx.Client(base_url=start(api_key=("secret",)).url) as client:
        for operation in OPERATIONS:
            path = operation.path.replace("/web/{name}", "/web/app.js")
            response = client.request(operation.method, path)
            assert response.status_code == (200 if operation.keyless else 401)
            check(operation, response)
            response = client.request(operation.method, path, headers={"origin": "https://elsewhere"})
            assert response.status_code == 403
            check(operation, response)


class Page(HTMLParser):
    """Collects links and anchors, and holds that tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.targets: set[str] = set()
        self.links: set[str] = set()
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "img", "link", "iframe")
        given = dict(attrs)
        assert "src" not in given
        if given.get("id"):
            self.targets.add(f"#{given['id']}")
        if given.get("href"):
            self.links.add(str(given["href"]))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_tells_all_and_asks_for_nothing() -> None:
    page = Page(build_page(DOCUMENT))
    assert page.open == []
    assert page.links - {"openapi.json"} <= page.targets
    for operation in OPERATIONS:
        assert operation.path in page.words
    for schema in SCHEMAS.values():
        for name in schema.get("properties", ()):
            assert name in page.words
