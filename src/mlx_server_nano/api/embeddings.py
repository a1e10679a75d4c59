"""POST /v1/embeddings (OpenAI's CreateEmbeddingRequest and CreateEmbeddingResponse, document 2.3.0)."""

from __future__ import annotations

import array
import base64
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from mlx_server_nano.api.fields import NO_EFFECT
from mlx_server_nano.api.inputs import NonEmptyInputs, to_prompts
from mlx_server_nano.api.run import AnswerJob
from mlx_server_nano.api.wire import UnknownFields, decode_json
from mlx_server_nano.protocol import Embedded, Event
from mlx_server_nano.types import Embed

if TYPE_CHECKING:
    from mlx_server_nano.models.lease import Lease


class EmbeddingBody(Struct, kw_only=True):
    """Texts to be embedded. dimensions: the first so many, brought back to length 1."""

    model: Annotated[str, Meta(min_length=1)]
    input: NonEmptyInputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    user: Annotated[str | None, NO_EFFECT] = None


class Embedding(Struct, tag_field="object", tag="embedding"):
    """embedding: numbers, or base64 of little-endian float32, as was asked for."""

    index: int
    embedding: list[float] | str


class EmbeddingUsage(Struct):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct, tag_field="object", tag="list"):
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


_DECODER: Final = msgspec.json.Decoder(EmbeddingBody)


class EmbeddingDialect:
    def __init__(self) -> None:
        self._unknown = UnknownFields(EmbeddingBody)

    def prepare(self, body: bytes) -> AnswerJob:
        """Raises InvalidRequestError."""
        wire = decode_json(_DECODER, body)
        self._unknown.log(body)
        inputs = to_prompts(wire.input, "input")
        encoder = EmbeddingAnswer(
            wire.model, Embed(inputs=inputs, dimensions=wire.dimensions), in_base64=wire.encoding_format == "base64"
        )
        return AnswerJob(wire.model, encoder)


class EmbeddingAnswer:
    def __init__(self, model: str, question: Embed, *, in_base64: bool) -> None:
        self._model = model
        self._question = question
        self._show: Callable[[bytes], list[float] | str] = _base64 if in_base64 else _floats
        self._vectors: tuple[bytes, ...] = ()
        self._tokens = 0

    def begin(self, lease: Lease) -> Embed:
        return self._question

    def feed(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Embedded):
                self._vectors, self._tokens = event.vectors, event.tokens

    def body(self) -> bytes:
        data = [Embedding(index, self._show(vector)) for index, vector in enumerate(self._vectors)]
        usage = EmbeddingUsage(self._tokens, self._tokens)
        return msgspec.json.encode(EmbeddingList(data=data, model=self._model, usage=usage))


def _base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode()


def _floats(vector: bytes) -> list[float]:
    values = array.array("f", vector)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()
