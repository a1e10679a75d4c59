"""POST /tokenize, /detokenize and /apply-template, as llama.cpp's server has them, for people who look into prompts.

`model` may be left out while exactly one model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from mlx_server_nano.api.chat_request import ChatFields, to_request
from mlx_server_nano.api.run import AnswerJob
from mlx_server_nano.api.sampling import TokenId
from mlx_server_nano.api.wire import decode_json
from mlx_server_nano.errors import InvalidRequestError
from mlx_server_nano.protocol import Event, Rendered, Tokenized
from mlx_server_nano.types import ChatPrompt, Detokenize, RenderChat, Tokenize, Work

if TYPE_CHECKING:
    from mlx_server_nano.models.lease import Lease
    from mlx_server_nano.models.manager import Manager

ModelName = Annotated[str, Meta(min_length=1)]


class TokenizeBody(Struct):
    """A text whose tokens are wanted. `model` may be left out while exactly one is loaded.

    add_special: with the tokens that the tokenizer puts around a text. parse_special: markup in the text becomes its
    tokens. with_pieces: show the text of each token.
    """

    content: str
    model: ModelName | None = None
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class DetokenizeBody(Struct):
    """Tokens whose text is wanted, markup included. `model` may be left out while exactly one is loaded."""

    tokens: list[TokenId]
    model: ModelName | None = None


class TokenPiece(Struct):
    """piece: the token's text, or its bytes where they are no text by themselves."""

    id: int
    piece: str | list[int]


class Tokens(Struct):
    tokens: list[int | TokenPiece]


class TokensText(Struct):
    content: str


class RenderedPrompt(Struct):
    prompt: str


class TemplateBody(ChatFields, kw_only=True):
    """A chat completion, of which only what makes the prompt counts. `model` may be left out while exactly one is loaded."""

    model: ModelName | None = None


_TOKENIZE: Final = msgspec.json.Decoder(TokenizeBody)
_DETOKENIZE: Final = msgspec.json.Decoder(DetokenizeBody)
_TEMPLATE: Final = msgspec.json.Decoder(TemplateBody)


@dataclass(slots=True)
class _Asked:
    """An encoder for a question with one answer."""

    question: Callable[[Lease], Work]
    show: Callable[[Any], Struct]
    answer: Event | None = None

    def begin(self, lease: Lease) -> Work:
        return self.question(lease)

    def feed(self, events: Sequence[Event]) -> None:
        (self.answer,) = events

    def body(self) -> bytes:
        return msgspec.json.encode(self.show(self.answer))


class TokenDialect:
    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def tokenize(self, body: bytes) -> AnswerJob:
        """Raises InvalidRequestError, as the others do."""
        wire = decode_json(_TOKENIZE, body)
        question = Tokenize(
            text=wire.content, add_special=bool(wire.add_special), parse_special=wire.parse_special is not False
        )
        show = _pieces if wire.with_pieces else _ids
        return AnswerJob(self._model(wire.model), _Asked(lambda _: question, show))

    def detokenize(self, body: bytes) -> AnswerJob:
        wire = decode_json(_DETOKENIZE, body)
        question = Detokenize(ids=tuple(wire.tokens))
        return AnswerJob(self._model(wire.model), _Asked(lambda _: question, _content))

    def apply_template(self, body: bytes) -> AnswerJob:
        """The body is that of a chat completion: all of it that a template sees counts."""
        wire = decode_json(_TEMPLATE, body)
        chat = to_request(wire)

        def question(lease: Lease) -> Work:
            prompt = lease.chat.bind(chat).request.prompt
            assert isinstance(prompt, ChatPrompt)  # noqa: S101  what `bind` makes
            return RenderChat(prompt=prompt)

        return AnswerJob(self._model(wire.model), _Asked(question, _prompt))

    def _model(self, name: str | None) -> str:
        if name is not None:
            return name
        loaded = [status.id for status in self._manager.status() if status.loaded_since is not None]
        if len(loaded) != 1:
            raise InvalidRequestError(
                f"`model` may be left out only while one model is loaded, and there are {len(loaded)}.", param="model"
            )
        return loaded[0]


def _ids(answer: Tokenized) -> Tokens:
    return Tokens(list(answer.ids))


def _pieces(answer: Tokenized) -> Tokens:
    pairs = zip(answer.ids, answer.pieces, strict=True)
    return Tokens([TokenPiece(token_id, _piece(piece)) for token_id, piece in pairs])


def _piece(piece: bytes) -> str | list[int]:
    """Part of a character is shown as its bytes."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def _content(answer: Rendered) -> TokensText:
    return TokensText(answer.text)


def _prompt(answer: Rendered) -> RenderedPrompt:
    return RenderedPrompt(answer.text)
