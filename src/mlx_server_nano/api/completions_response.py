"""POST /v1/completions: the answer (OpenAI's CreateCompletionResponse), whole and in chunks of the same shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from mlx_server_nano.api.answer import head
from mlx_server_nano.api.completions_logprobs import LegacyLogprobs, LogprobWriter
from mlx_server_nano.api.completions_request import CompletionRequest
from mlx_server_nano.api.envelope import openai_error
from mlx_server_nano.api.sse import COMMENT
from mlx_server_nano.api.usage import CompletionUsage, to_openai_usage
from mlx_server_nano.chat.answer import Usage
from mlx_server_nano.errors import ServerError
from mlx_server_nano.protocol import Delta, Echo, Event, Started
from mlx_server_nano.types import FinishReason, GenerationRequest, TokenLogprob

if TYPE_CHECKING:
    from mlx_server_nano.models.lease import Lease

_encode: Final = msgspec.json.encode


class CompletionChoice(Struct):
    index: int
    text: str
    logprobs: LegacyLogprobs | None
    finish_reason: FinishReason | None


class Completion(Struct, tag_field="object", tag="text_completion"):
    """created: in Unix seconds."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: CompletionUsage


class _Reader:
    """What both encoders do with events."""

    def __init__(self, asked: CompletionRequest) -> None:
        self._asked = asked
        self._usage = Usage()

    def begin(self, lease: Lease) -> tuple[GenerationRequest, ...]:
        return self._asked.bind(lease.info, lease.defaults.max_tokens)

    def _count(self, event: Event) -> None:
        if isinstance(event, Delta):
            self._usage.completion += event.tokens
        elif isinstance(event, Started):
            self._usage.prompt += event.prompt_tokens
            self._usage.cached += event.cached_tokens


class _Candidate:
    """What one choice has said so far."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.echo: Echo | None = None
        self.logprobs: list[TokenLogprob] = []
        self.finish: FinishReason | None = None

    @property
    def likelihood(self) -> float:
        """The mean log-probability of its tokens; an empty choice is the least likely."""
        values = [logprob.logprob for logprob in self.logprobs]
        return sum(values) / len(values) if values else float("-inf")

    def written_logprobs(self) -> LegacyLogprobs:
        writer = LogprobWriter()
        before = writer.echo(self.echo) if self.echo is not None else LegacyLogprobs()
        after = writer.write(self.logprobs)
        return LegacyLogprobs(
            before.tokens + after.tokens,
            before.token_logprobs + after.token_logprobs,
            before.top_logprobs + after.top_logprobs,
            before.text_offset + after.text_offset,
        )


class CompletionAnswer(_Reader):
    """Collects a whole answer."""

    def __init__(self, asked: CompletionRequest) -> None:
        super().__init__(asked)
        self._candidates = [_Candidate() for _ in range(asked.candidates * len(asked.prompts))]

    def feed(self, events: Sequence[Event]) -> None:
        for event in events:
            self._count(event)
            if isinstance(event, Delta):
                candidate = self._candidates[event.choice]
                candidate.text.append(event.text)
                candidate.logprobs += event.logprobs
                candidate.finish = event.finish
            elif isinstance(event, Echo):
                for candidate in self._candidates[event.first_choice :][: self._asked.candidates]:
                    candidate.text.append(event.text)
                    candidate.echo = event

    def body(self) -> bytes:
        asked = self._asked
        chosen: list[_Candidate] = []
        for at in range(0, len(self._candidates), asked.candidates):
            candidates = self._candidates[at : at + asked.candidates]
            if asked.ranked:
                candidates = sorted(candidates, key=lambda candidate: -candidate.likelihood)
            chosen += candidates[: asked.n]
        choices = [
            CompletionChoice(
                index,
                "".join(candidate.text),
                candidate.written_logprobs() if asked.logprobs is not None else None,
                candidate.finish,
            )
            for index, candidate in enumerate(chosen)
        ]
        return _encode(Completion(**head("cmpl", asked.model), choices=choices, usage=to_openai_usage(self._usage)))


class CompletionStream(_Reader):
    """Writes an answer's chunks: for each choice the echoed prompt, its text, its finish with the last of it; then the usage,
    if asked for."""

    keep_alive = COMMENT

    def __init__(self, asked: CompletionRequest) -> None:
        super().__init__(asked)
        start = {"object": "text_completion", **head("cmpl", asked.model)}
        self._start = b"data: " + _encode(start).removesuffix(b"}") + b',"choices":['
        self._end = b'],"usage":null}\n\n' if asked.include_usage else b"]}\n\n"
        self._writers = [LogprobWriter() for _ in range(asked.choices)] if asked.logprobs is not None else None

    def feed(self, events: Sequence[Event]) -> bytes:
        chunks: list[bytes] = []
        for event in events:
            self._count(event)
            if isinstance(event, Delta):
                logprobs = self._writers[event.choice].write(event.logprobs) if self._writers is not None else None
                chunks.append(self._chunk(CompletionChoice(event.choice, event.text, logprobs, event.finish)))
            elif isinstance(event, Echo):
                for choice in range(event.first_choice, event.first_choice + self._asked.n):
                    logprobs = self._writers[choice].echo(event) if self._writers is not None else None
                    chunks.append(self._chunk(CompletionChoice(choice, event.text, logprobs, None)))
        return b"".join(chunks)

    def end(self) -> bytes:
        if not self._asked.include_usage:
            return b"data: [DONE]\n\n"
        return b'%b],"usage":%b}\n\ndata: [DONE]\n\n' % (self._start, _encode(to_openai_usage(self._usage)))

    def fail(self, error: ServerError) -> bytes:
        """OpenAI's clients raise on an `error` key; no [DONE] follows."""
        return b"data: %b\n\n" % openai_error(error)

    def _chunk(self, choice: CompletionChoice) -> bytes:
        return b"%b%b%b" % (self._start, _encode(choice), self._end)
