"""POST /v1/completions: raw text in, raw text out, whatever the model's chat format."""

from __future__ import annotations

from mlx_server_nano.api.completions_request import CompletionBody, decode
from mlx_server_nano.api.completions_response import CompletionAnswer, CompletionStream
from mlx_server_nano.api.run import AnswerJob, StreamJob
from mlx_server_nano.api.wire import UnknownFields


class CompletionDialect:
    def __init__(self) -> None:
        self._unknown = UnknownFields(CompletionBody)

    def prepare(self, body: bytes) -> StreamJob | AnswerJob:
        """Raises InvalidRequestError."""
        asked = decode(body)
        self._unknown.log(body)
        if asked.stream:
            return StreamJob(asked.model, CompletionStream(asked))
        return AnswerJob(asked.model, CompletionAnswer(asked))
