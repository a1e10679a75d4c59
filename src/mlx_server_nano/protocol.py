"""What the gateway and a worker say to each other.

They share a stream socket pair. A frame is a 4-byte big-endian length and a msgpack body: one `ToWorker` in one
direction, one `ToGateway` in the other. A worker's life:

    worker                            gateway
    Ready(device)            ->                     imports are done; a spare waits here
                             <-       Load(...)     exactly once
    LoadProgress(fraction)*  ->
    Loaded(info)             ->                     or LoadFailed(failure), and the worker exits
                             <-       Generate(request_id, request)*, Cancel(request_id)* and Allow(memory_bytes)*
    Step(events)*            ->                     one frame per engine step, all rows together
                             <-       Unload(...)   perhaps; the worker exits

For each request a worker sends `Started`, an `Echo` if it is asked for, then `Delta`s, the last one of each choice with
a finish reason; or `Failed` at any point, and nothing after it. A question gets one `Measured`, `Tokenized`, `Rendered` or
`Embedded`, or `Failed`. A cancelled request gets nothing more. Either side's end of file ends the worker.
"""

from __future__ import annotations

import struct
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import Struct

from mlx_server_nano.errors import Failure
from mlx_server_nano.types import FinishReason, ModelInfo, TokenLogprob, Work

MAX_FRAME_BYTES: Final = 1 << 30
_HEADER: Final = struct.Struct(">I")


class LoadOptions(Struct, frozen=True, kw_only=True):
    """How a worker runs its model.

    adapter: the folder of a LoRA adapter. context_length: tokens of prompt and output together, if the model itself takes
    more. max_rows: sequences that decode together. prefill_chunk, busy_prefill_chunk: prompt tokens per engine step while
    nothing or something decodes. log_name stands in the worker's log lines.
    prefix_cache_bytes: for caches of earlier prompts and answers; 0: none; None: a tenth of the memory.
    prefix_cache_dir: folder for those that the memory has no room for; None: none. prefix_cache_disk: bytes in it.
    speculation: guess tokens and verify them together where that pays. draft_folder: of a small model that guesses too;
    draft_required: without one that fits, the model is not to be loaded; draft_trust_remote_code: what trust_remote_code is to
    the large model. kv_bits: of the keys and values in KV caches; None: the model's own precision."""

    log_name: str
    adapter: str | None = None
    context_length: int | None = None
    max_rows: int = 32
    prefill_chunk: int = 2048
    busy_prefill_chunk: int = 512
    trust_remote_code: bool = False
    prefix_cache_bytes: int | None = None
    speculation: bool = True
    draft_folder: str | None = None
    draft_required: bool = False
    draft_trust_remote_code: bool = False
    prefix_cache_dir: str | None = None
    prefix_cache_disk: int = 20 << 30
    kv_bits: int | None = None


class Load(Struct, frozen=True, array_like=True, tag="load"):
    """Load the model in this folder (Hub layout)."""

    path: str
    options: LoadOptions


class Generate(Struct, frozen=True, array_like=True, tag="generate"):
    request_id: int
    request: Work


class Cancel(Struct, frozen=True, array_like=True, tag="cancel"):
    """Nobody waits for this request any more. Unknown ids are fine: the last frames may have crossed."""

    request_id: int


class Unload(Struct, frozen=True, array_like=True, tag="unload"):
    """End, but write what is worth keeping to disk first, if it takes no longer than this."""

    seconds: float


class Allow(Struct, frozen=True, array_like=True, tag="allow"):
    """How much MLX may hold from now on, the model's weights included: it is loaded, or other models have come or gone."""

    memory_bytes: int


class Device(Struct, frozen=True, kw_only=True):
    """What MLX runs on. memory_bytes: what it recommends to use at most; None where it does not say (CPU)."""

    name: str
    backend: str
    memory_bytes: int | None


class Ready(Struct, frozen=True, array_like=True, tag="ready"):
    device: Device


class LoadProgress(Struct, frozen=True, array_like=True, tag="progress"):
    """fraction: of the weights' bytes, 0 to 1."""

    fraction: float


class Loaded(Struct, frozen=True, array_like=True, tag="loaded"):
    info: ModelInfo


class LoadFailed(Struct, frozen=True, array_like=True, tag="load_failed"):
    failure: Failure


class Started(Struct, frozen=True, array_like=True, tag="started"):
    """The prompt is rendered and tokenized and its prefill begins.

    cached_tokens: taken from the prefix cache. prompt_tail: the rendered prompt's last characters, from which the
    format machine reads whether the model starts inside its reasoning.
    """

    request_id: int
    prompt_tokens: int
    cached_tokens: int
    prompt_tail: str


class Echo(Struct, frozen=True, array_like=True, tag="echo"):
    """The prompt's text. first_token and logprobs, if the request asks for log-probabilities: the first token's bytes,
    before which there is nothing that could predict it, and what is to be said of all others."""

    request_id: int
    first_choice: int
    text: str
    first_token: bytes = b""
    logprobs: tuple[TokenLogprob, ...] = ()


class Delta(Struct, frozen=True, array_like=True, tag="delta"):
    """New text of one choice. `tokens` counts those behind it (they may exceed what the text shows while text is held
    back for a stop string). `stop` is the stop string that ended the choice, if one did."""

    request_id: int
    choice: int
    text: str
    tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None
    stop: str | None = None


class Measured(Struct, frozen=True, array_like=True, tag="measured"):
    """A prompt's length."""

    request_id: int
    tokens: int


class Tokenized(Struct, frozen=True, array_like=True, tag="tokenized"):
    """A text's tokens, and the bytes behind each."""

    request_id: int
    ids: tuple[int, ...]
    pieces: tuple[bytes, ...]


class Rendered(Struct, frozen=True, array_like=True, tag="rendered"):
    """The text of tokens or messages."""

    request_id: int
    text: str


class Embedded(Struct, frozen=True, array_like=True, tag="embedded"):
    """A vector for each input, as little-endian float32. tokens: of all inputs together."""

    request_id: int
    vectors: tuple[bytes, ...]
    tokens: int


class Failed(Struct, frozen=True, array_like=True, tag="failed"):
    """This request ended with an error; others go on."""

    request_id: int
    failure: Failure


Answer = Measured | Tokenized | Rendered | Embedded
Event = Started | Echo | Delta | Answer | Failed


class Step(Struct, frozen=True, array_like=True, tag="step"):
    """All that one engine step has to say; nothing but the memory once the engine comes to rest. memory_bytes: what MLX
    holds now, caches included. drafted_tokens, accepted_tokens: guessed since the last frame, and those of them that came
    true. kv_bytes: of rows' caches, some steps old perhaps. prefix_bytes: of caches that are kept for later requests."""

    events: tuple[Event, ...]
    memory_bytes: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    kv_bytes: int = 0
    prefix_bytes: int = 0


ToWorker = Load | Generate | Cancel | Allow | Unload
ToGateway = Ready | LoadProgress | Loaded | LoadFailed | Step


T = TypeVar("T")


class FrameError(Exception):
    """The peer sent something that is no frame."""


class FrameReader(Generic[T]):
    """Cuts a byte stream into messages: `feed` what was received, get the messages that it completes.

    Raises FrameError for a frame that is too long or does not decode.
    """

    def __init__(self, message_type: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(message_type)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[T]:
        buffer = self._buffer
        buffer += data
        messages: list[T] = []
        start = 0
        while len(buffer) - start >= _HEADER.size:
            (length,) = _HEADER.unpack_from(buffer, start)
            if length > MAX_FRAME_BYTES:
                raise FrameError(f"a frame of {length} bytes")
            end = start + _HEADER.size + length
            if len(buffer) < end:
                break
            with memoryview(buffer) as view, view[start + _HEADER.size : end] as body:
                try:
                    messages.append(self._decoder.decode(body))
                except msgspec.MsgspecError as error:
                    raise FrameError(str(error)) from error
            start = end
        del buffer[:start]
        return messages


def to_frame(message: Struct) -> bytes:
    body = msgspec.msgpack.encode(message)
    return _HEADER.pack(len(body)) + body
