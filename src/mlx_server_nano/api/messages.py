"""POST /v1/messages and /v1/messages/count_tokens (Anthropic's dialect): decoders and encoders together."""

from __future__ import annotations

from mlx_server_nano.api.messages_request import MessagesBody, decode, decode_prompt
from mlx_server_nano.api.messages_response import MessageAnswer, MessageStream, TokenCount
from mlx_server_nano.api.run import AnswerJob, StreamJob
from mlx_server_nano.api.wire import UnknownFields


class MessagesDialect:
    def __init__(self) -> None:
        self._unknown = UnknownFields(MessagesBody)

    def prepare(self, body: bytes) -> StreamJob | AnswerJob:
        """Raises InvalidRequestError."""
        chat, wire = decode(body)
        self._unknown.log(body)
        with_thinking = wire.thinking is None or wire.thinking.display != "omitted"
        if wire.stream:
            return StreamJob(wire.model, MessageStream(wire.model, chat, with_thinking=with_thinking))
        return AnswerJob(wire.model, MessageAnswer(wire.model, chat, with_thinking=with_thinking))

    def prepare_count(self, body: bytes) -> AnswerJob:
        """Raises InvalidRequestError."""
        chat, wire = decode_prompt(body)
        return AnswerJob(wire.model, TokenCount(chat))
