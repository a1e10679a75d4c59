"""POST /v1/chat/completions: the dialect, decoder and encoders together."""

from __future__ import annotations

from mlx_server_nano.api.chat_request import ChatBody, decode
from mlx_server_nano.api.chat_response import ChatAnswer, ChatStream
from mlx_server_nano.api.run import AnswerJob, StreamJob
from mlx_server_nano.api.wire import UnknownFields


class ChatDialect:
    def __init__(self) -> None:
        self._unknown = UnknownFields(ChatBody)

    def prepare(self, body: bytes) -> StreamJob | AnswerJob:
        """Raises InvalidRequestError."""
        chat, options = decode(body)
        self._unknown.log(body)
        if options.stream:
            return StreamJob(options.model, ChatStream(options.model, chat, include_usage=options.include_usage))
        return AnswerJob(options.model, ChatAnswer(options.model, chat))
