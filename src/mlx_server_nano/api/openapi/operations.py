"""What the endpoints take and answer: one table for the OpenAPI document, which a test holds against the routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mlx_server_nano.api.admin import LoadBody, StatusReport, UnloadBody, Unloaded
from mlx_server_nano.api.chat_request import ChatBody
from mlx_server_nano.api.chat_response import ChatCompletion
from mlx_server_nano.api.completions_request import CompletionBody
from mlx_server_nano.api.completions_response import Completion
from mlx_server_nano.api.embeddings import EmbeddingBody, EmbeddingList
from mlx_server_nano.api.messages_request import MessagesBody, PromptBody
from mlx_server_nano.api.messages_response import Message, MessageTokensCount
from mlx_server_nano.api.models import Model, ModelList
from mlx_server_nano.api.responses import DeletedResponse, ItemList
from mlx_server_nano.api.responses_object import ResponseObject
from mlx_server_nano.api.responses_request import ResponseBody
from mlx_server_nano.api.responses_response import ResponseInputTokens
from mlx_server_nano.api.status import HealthReport, Welcome
from mlx_server_nano.api.tokens import DetokenizeBody, RenderedPrompt, TemplateBody, TokenizeBody, Tokens, TokensText
from mlx_server_nano.errors import (
    AuthenticationError,
    DiskFullError,
    InvalidRequestError,
    ModelAccessError,
    ModelInUseError,
    NotFoundError,
    OriginNotAllowedError,
    PayloadTooLargeError,
    QueueFullError,
    ServerError,
    UnavailableError,
    UnsupportedMediaTypeError,
)

ERRORS: Final[Mapping[type[ServerError], str]] = {
    InvalidRequestError: "A field is wrong, or asks for what the server or the model can't do",
    AuthenticationError: "The API key is missing or wrong",
    ModelAccessError: "The model is gated or private; or a host name or a web page that may not use the server",
    NotFoundError: "There is no such model or response",
    ModelInUseError: "The model is in use or pinned",
    PayloadTooLargeError: "The body is too large",
    UnsupportedMediaTypeError: "The body is not JSON",
    QueueFullError: "Too many requests wait for the model",
    ServerError: "The server or a model failed",
    UnavailableError: "The server is stopping, the Hub can't be reached or there is too little memory",
    DiskFullError: "There is no room for the model on the disk",
}
_ANYWHERE: Final = (AuthenticationError, OriginNotAllowedError, ServerError, UnavailableError)
_GENERATING: Final = (
    InvalidRequestError,
    ModelAccessError,
    ModelInUseError,
    NotFoundError,
    PayloadTooLargeError,
    UnsupportedMediaTypeError,
    QueueFullError,
    DiskFullError,
    *_ANYWHERE,
)

_CHUNKS: Final = (
    "With `stream: true`: events without a name, whose data are chunks of the same shape, with `delta`s where the "
    "whole answer has texts, and at the end `[DONE]`. An error in mid-stream is an event with an `error`."
)
_COMPLETION_CHUNKS: Final = (
    "With `stream: true`: events without a name, whose data are objects of the same shape with the next piece of each "
    "text, and at the end `[DONE]`. An error in mid-stream is an event with an `error`."
)
_RESPONSE_EVENTS: Final = (
    "With `stream: true`: numbered events, each named by its `type`, from `response.created` over "
    "`response.output_item.added`, the deltas of its parts and `response.output_item.done` to `response.completed`, "
    "`response.incomplete` or `response.failed`, which hold the whole response."
)
_LOAD_EVENTS: Final = (
    "Events without a name, whose data are objects with `model`, `state` (`downloading`, `loading`, `ready`) and `progress` "
    "from 0 to 1 of that state. The last has the state `ready`; or it holds an `error`."
)
_MESSAGE_EVENTS: Final = (
    "With `stream: true`: `message_start`; for each block `content_block_start`, `content_block_delta`s and "
    "`content_block_stop`; `message_delta`, `message_stop`. `ping` may come at any time; `error` ends a failed stream."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """`answer` is None for a web page, the document itself and what is always a stream; media_type is empty where there is
    none at all.

    stream: what comes as text/event-stream, if that can be asked for. parameters: OpenAPI's Parameter objects. errors: what
    may go wrong, one class for each status.
    """

    method: str = "POST"
    path: str
    group: str
    summary: str
    body: type | None = None
    answer: type | None = None
    media_type: str = "application/json"
    stream: str = ""
    parameters: Sequence[dict[str, Any]] = ()
    errors: Sequence[type[ServerError]] = field(default=_GENERATING)
    keyless: bool = False


def _path_parameter(name: str, text: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": text,
        "schema": {"type": "string", "minLength": 1},
    }


def _query(name: str, text: str, **schema: object) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": text, "schema": schema}


_RESPONSE_ID: Final = _path_parameter("id", "The id of a stored response.")
_KEPT: Final = (NotFoundError, *_ANYWHERE)

OPERATIONS: Final = (
    Operation(
        path="/v1/chat/completions",
        group="Chat completions",
        summary="Answers a conversation",
        body=ChatBody,
        answer=ChatCompletion,
        stream=_CHUNKS,
    ),
    Operation(
        path="/v1/completions",
        group="Completions",
        summary="Continues raw text",
        body=CompletionBody,
        answer=Completion,
        stream=_COMPLETION_CHUNKS,
    ),
    Operation(
        path="/v1/responses",
        group="Responses",
        summary="Makes a response",
        body=ResponseBody,
        answer=ResponseObject,
        stream=_RESPONSE_EVENTS,
    ),
    Operation(
        path="/v1/responses/input_tokens",
        group="Responses",
        summary="Counts the tokens that a request for a response would take",
        body=ResponseBody,
        answer=ResponseInputTokens,
    ),
    Operation(
        method="GET",
        path="/v1/responses/{id}",
        group="Responses",
        summary="A stored response",
        answer=ResponseObject,
        parameters=(_RESPONSE_ID, _query("stream", "A stored response can't be streamed again.", enum=["false"])),
        errors=(InvalidRequestError, *_KEPT),
    ),
    Operation(
        method="DELETE",
        path="/v1/responses/{id}",
        group="Responses",
        summary="Forgets a stored response",
        answer=DeletedResponse,
        parameters=(_RESPONSE_ID,),
        errors=_KEPT,
    ),
    Operation(
        path="/v1/responses/{id}/cancel",
        group="Responses",
        summary="Always refused: nothing runs in the background",
        media_type="",
        parameters=(_RESPONSE_ID,),
        errors=(InvalidRequestError, *_KEPT),
    ),
    Operation(
        method="GET",
        path="/v1/responses/{id}/input_items",
        group="Responses",
        summary="What a stored response was asked",
        answer=ItemList,
        parameters=(
            _RESPONSE_ID,
            _query("order", "The newest first, or the oldest.", enum=["asc", "desc"], default="desc"),
            _query("after", "The id of the item after which to begin.", type="string"),
            _query("limit", "Items at most.", type="integer", minimum=1, maximum=100, default=20),
        ),
        errors=(InvalidRequestError, *_KEPT),
    ),
    Operation(
        path="/v1/messages",
        group="Messages",
        summary="Answers a conversation, in Anthropic's dialect",
        body=MessagesBody,
        answer=Message,
        stream=_MESSAGE_EVENTS,
    ),
    Operation(
        path="/v1/messages/count_tokens",
        group="Messages",
        summary="Counts the tokens that a request for a message would take",
        body=PromptBody,
        answer=MessageTokensCount,
    ),
    Operation(
        path="/v1/embeddings",
        group="Embeddings and tokens",
        summary="Vectors for texts",
        body=EmbeddingBody,
        answer=EmbeddingList,
    ),
    Operation(
        path="/tokenize",
        group="Embeddings and tokens",
        summary="A text's tokens",
        body=TokenizeBody,
        answer=Tokens,
    ),
    Operation(
        path="/detokenize",
        group="Embeddings and tokens",
        summary="The text of tokens",
        body=DetokenizeBody,
        answer=TokensText,
    ),
    Operation(
        path="/apply-template",
        group="Embeddings and tokens",
        summary="The prompt that the model's chat template makes of a chat completion's body",
        body=TemplateBody,
        answer=RenderedPrompt,
    ),
    Operation(
        method="GET",
        path="/v1/models",
        group="Models and status",
        summary="Models that are usable without a download",
        answer=ModelList,
        errors=_ANYWHERE,
    ),
    Operation(
        method="GET",
        path="/v1/models/{name}",
        group="Models and status",
        summary="One of them, by any name that a request may use",
        answer=Model,
        parameters=(_path_parameter("name", "It may hold slashes."),),
        errors=(NotFoundError, *_ANYWHERE),
    ),
    Operation(
        method="GET",
        path="/health",
        group="Models and status",
        summary="200 while requests can be served, else 503 with the same body",
        answer=HealthReport,
        errors=(OriginNotAllowedError,),
        keyless=True,
    ),
    Operation(
        method="GET",
        path="/",
        group="Models and status",
        summary="The server's name, version and endpoints; the web page for those that accept `text/html`",
        answer=Welcome,
        errors=_ANYWHERE[1:],
        keyless=True,
    ),
    Operation(
        method="GET",
        path="/admin/status",
        group="Models and status",
        summary="The loaded models and what they do, and the memory for them",
        answer=StatusReport,
        errors=_ANYWHERE,
    ),
    Operation(
        path="/admin/load",
        group="Models and status",
        summary="Downloads and loads a model, and tells how far it is",
        body=LoadBody,
        media_type="text/event-stream",
        stream=_LOAD_EVENTS,
    ),
    Operation(
        path="/admin/unload",
        group="Models and status",
        summary="Unloads a model, or ends its download or load",
        body=UnloadBody,
        answer=Unloaded,
        errors=(
            InvalidRequestError,
            NotFoundError,
            ModelInUseError,
            PayloadTooLargeError,
            UnsupportedMediaTypeError,
            *_ANYWHERE,
        ),
    ),
    Operation(
        method="GET",
        path="/web/{name}",
        group="Models and status",
        summary="The files of the web page",
        media_type="text/javascript",
        parameters=(_path_parameter("name", "A file's name."),),
        errors=(NotFoundError, *_ANYWHERE[1:]),
        keyless=True,
    ),
    Operation(
        method="GET",
        path="/metrics",
        group="Models and status",
        summary="Counters, gauges and histograms, as Prometheus reads them",
        media_type="text/plain",
        errors=_ANYWHERE,
    ),
    Operation(
        method="GET",
        path="/openapi.json",
        group="Models and status",
        summary="This description, as an OpenAPI document",
        errors=_ANYWHERE,
    ),
    Operation(
        method="GET",
        path="/docs",
        group="Models and status",
        summary="This description, as a page",
        media_type="text/html",
        errors=_ANYWHERE[1:],
        keyless=True,
    ),
)
