"""The Responses API: POST /v1/responses, and what clients do with the responses that are kept."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mlx_server_nano.api.gate import Gate
from mlx_server_nano.api.responses_items import Item
from mlx_server_nano.api.responses_request import ResponseBody, decode
from mlx_server_nano.api.responses_response import InputTokens, ResponseAnswer, ResponseStream
from mlx_server_nano.api.responses_store import ResponseStore, Stored
from mlx_server_nano.api.routing import Methods
from mlx_server_nano.api.run import AnswerJob, GenerationEndpoint, StreamJob
from mlx_server_nano.api.wire import UnknownFields
from mlx_server_nano.config import Settings
from mlx_server_nano.errors import InvalidRequestError, UnsupportedParameterError

if TYPE_CHECKING:
    from mlx_server_nano.models.manager import Manager

_PATH: Final = "/v1/responses"
_LIMIT: Final = re.compile(r"[1-9][0-9]?|100")


def responses_routes(settings: Settings, manager: Manager, gate: Gate) -> list[Route]:
    store = ResponseStore()
    dialect = ResponsesDialect(store)
    create = GenerationEndpoint(settings, manager, gate, dialect.prepare)
    count = GenerationEndpoint(settings, manager, gate, dialect.prepare_count)
    kept = KeptResponses(store)
    return [
        Route(_PATH, Methods({"POST": create})),
        Route(f"{_PATH}/input_tokens", Methods({"POST": count})),
        Route(f"{_PATH}/{{id}}", Methods({"GET": kept.retrieve, "DELETE": kept.delete})),
        Route(f"{_PATH}/{{id}}/cancel", Methods({"POST": kept.cancel})),
        Route(f"{_PATH}/{{id}}/input_items", Methods({"GET": kept.input_items})),
    ]


class ResponsesDialect:
    def __init__(self, store: ResponseStore) -> None:
        self._store = store
        self._unknown = UnknownFields(ResponseBody)

    def prepare(self, body: bytes) -> StreamJob | AnswerJob:
        """Raises InvalidRequestError, NotFoundError."""
        chat, options = decode(body, self._store)
        self._unknown.log(body)
        if options.stream:
            return StreamJob(options.model, ResponseStream(chat, options, self._store))
        return AnswerJob(options.model, ResponseAnswer(chat, options, self._store))

    def prepare_count(self, body: bytes) -> AnswerJob:
        """How long the prompt is that the same request would make. Raises InvalidRequestError, NotFoundError."""
        chat, options = decode(body, self._store)
        return AnswerJob(options.model, InputTokens(chat))


class DeletedResponse(Struct, tag_field="object", tag="response"):
    id: str
    deleted: bool = True


class ItemList(Struct, tag_field="object", tag="list"):
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


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
        await _json(msgspec.json.encode(DeletedResponse(response_id)))(scope, receive, send)

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
        if not _LIMIT.fullmatch(limit):
            raise InvalidRequestError("`limit` must be from 1 to 100.", param="limit")
        page = items[: int(limit)]
        body = ItemList(
            data=page,
            first_id=page[0].id if page else None,
            last_id=page[-1].id if page else None,
            has_more=len(items) > len(page),
        )
        await _json(msgspec.json.encode(body))(scope, receive, send)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
