"""The Responses API: POST /v1/responses, and what clients do with the responses that are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mlx_server_nano.api.body import read_json_body
from mlx_server_nano.api.gate import Gate, ending_with_client
from mlx_server_nano.api.responses_request import ResponseBody, decode
from mlx_server_nano.api.responses_response import ResponseAnswer, ResponseStream
from mlx_server_nano.api.responses_store import ResponseStore, Stored
from mlx_server_nano.api.routing import Methods
from mlx_server_nano.api.run import AnswerJob, GenerationEndpoint, StreamJob
from mlx_server_nano.api.wire import UnknownFields
from mlx_server_nano.config import Settings
from mlx_server_nano.errors import InvalidRequestError, UnsupportedParameterError
from mlx_server_nano.protocol import Started

if TYPE_CHECKING:
    from mlx_server_nano.models.manager import Manager

_PATH: Final = "/v1/responses"


def responses_routes(settings: Settings, manager: Manager, gate: Gate) -> list[Route]:
    store = ResponseStore()
    create = GenerationEndpoint(settings, manager, gate, ResponsesDialect(settings, store).prepare)
    kept = KeptResponses(store)
    count = InputTokens(settings, manager, gate, store)
    return [
        Route(_PATH, Methods({"POST": create})),
        Route(f"{_PATH}/input_tokens", Methods({"POST": count})),
        Route(f"{_PATH}/{{id}}", Methods({"GET": kept.retrieve, "DELETE": kept.delete})),
        Route(f"{_PATH}/{{id}}/cancel", Methods({"POST": kept.cancel})),
        Route(f"{_PATH}/{{id}}/input_items", Methods({"GET": kept.input_items})),
    ]


class ResponsesDialect:
    def __init__(self, settings: Settings, store: ResponseStore) -> None:
        self._settings = settings
        self._store = store
        self._unknown = UnknownFields(ResponseBody)

    def prepare(self, body: bytes) -> StreamJob | AnswerJob:
        """Raises InvalidRequestError, NotFoundError."""
        chat, options = decode(body, self._settings, self._store)
        self._unknown.log(body)
        if options.stream:
            return StreamJob(options.model, ResponseStream(chat, options, self._store))
        return AnswerJob(options.model, ResponseAnswer(chat, options, self._store))


class KeptResponses:
    """All raise NotFoundError for a response that is not kept (any more)."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    def _find(self, scope: Scope) -> Stored:
        return self._store.get(scope["path_params"]["id"])

    async def retrieve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises UnsupportedParameterError for a stream."""
        stored = self._find(scope)
        if Request(scope).query_params.get("stream", "false") != "false":
            raise UnsupportedParameterError("A kept response can't be streamed again.", param="stream")
        await _json(stored.body)(scope, receive, send)

    async def delete(self, scope: Scope, receive: Receive, send: Send) -> None:
        response_id = self._find(scope).id
        self._store.delete(response_id)
        body = {"id": response_id, "object": "response", "deleted": True}
        await _json(msgspec.json.encode(body))(scope, receive, send)

    async def cancel(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises InvalidRequestError: there are no background responses."""
        raise InvalidRequestError(f"The response {self._find(scope).id!r} has ended: there is nothing to cancel.")

    async def input_items(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises InvalidRequestError for a bad query."""
        query = Request(scope).query_params
        items = list(self._find(scope).input)
        order = query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise InvalidRequestError("`order` must be asc or desc.", param="order")
        if order == "desc":
            items.reverse()
        if (after := query.get("after")) is not None:
            at = next((i for i, item in enumerate(items) if item.id == after), None)
            if at is None:
                raise InvalidRequestError(f"There is no item {after!r}.", param="after")
            items = items[at + 1 :]
        limit = query.get("limit", "20")
        if not limit.isdecimal() or not 1 <= int(limit) <= 100:
            raise InvalidRequestError("`limit` must be from 1 to 100.", param="limit")
        page = items[: int(limit)]
        body = {
            "object": "list",
            "data": page,
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
            "has_more": len(items) > len(page),
        }
        await _json(msgspec.json.encode(body))(scope, receive, send)


class InputTokens:
    """POST /v1/responses/input_tokens: the length of the prompt that the same request to /v1/responses would make. The
    worker tells it before the prefill, and the generation ends there."""

    def __init__(self, settings: Settings, manager: Manager, gate: Gate, store: ResponseStore) -> None:
        self._settings = settings
        self._manager = manager
        self._gate = gate
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._gate.admit() as interrupt:
            with interrupt:
                body = await read_json_body(scope, receive, self._settings.max_body)
                chat, options = decode(body, self._settings, self._store)
                tokens = 0
                async with ending_with_client(receive, interrupt), self._manager.lease(options.model) as lease:
                    generation = lease.generate(lease.chat.bind(chat).request)
                    try:
                        for event in await generation.next():
                            if isinstance(event, Started):
                                tokens = event.prompt_tokens
                    finally:
                        generation.cancel()
            answer = {"object": "response.input_tokens", "input_tokens": tokens}
            await _json(msgspec.json.encode(answer))(scope, receive, send)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
