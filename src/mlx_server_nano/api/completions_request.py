"""POST /v1/completions: the request (OpenAI's CreateCompletionRequest, document 2.3.0)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, cast

import msgspec
from msgspec import Meta

from mlx_server_nano.api.chat_request import StreamOptions
from mlx_server_nano.api.completions_infill import infill_for
from mlx_server_nano.api.fields import NO_EFFECT
from mlx_server_nano.api.inputs import MAX_INPUTS, Inputs, to_prompts
from mlx_server_nano.api.sampling import SamplingFields
from mlx_server_nano.api.wire import decode_json
from mlx_server_nano.errors import InvalidRequestError, UnsupportedParameterError
from mlx_server_nano.types import GenerationRequest, ModelInfo, Prompt, Sampling, TextPrompt, TokenPrompt

_DEFAULT_MAX_TOKENS: Final = 16


class CompletionBody(SamplingFields, kw_only=True):
    """A completion of raw text. Every field but `model` and `prompt` may be null, which means its default."""

    model: Annotated[str, Meta(min_length=1)]
    prompt: Inputs | None
    max_tokens: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    best_of: Annotated[int, Meta(ge=0, le=20)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str | None, NO_EFFECT] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """A decoded request. Of `candidates` choices for each prompt the `n` likeliest are shown. logprobs: how many
    alternatives to show for each token; None: nothing. suffix: what follows after the completion."""

    model: str
    prompts: tuple[TextPrompt | TokenPrompt, ...]
    sampling: Sampling
    max_tokens: int | None
    stop: tuple[str, ...]
    n: int
    candidates: int
    logprobs: int | None
    echo: bool
    suffix: str | None
    stream: bool
    include_usage: bool

    @property
    def choices(self) -> int:
        """Of all prompts together; choice j of prompt p has the number p * n + j."""
        return self.n * len(self.prompts)

    @property
    def ranked(self) -> bool:
        return self.candidates > self.n

    def bind(self, info: ModelInfo, default_max_tokens: int | None = None) -> tuple[GenerationRequest, ...]:
        """One request for each prompt. Raises UnsupportedParameterError if the model can't fill in before a suffix."""
        bound = default_max_tokens or _DEFAULT_MAX_TOKENS
        prompts: tuple[Prompt, ...] = self.prompts
        stop = self.stop
        if self.suffix is not None:
            infill = infill_for(info.special_tokens)
            if infill is None:
                raise UnsupportedParameterError(
                    "This model has no tokens for filling in before a suffix.", param="suffix"
                )
            texts = cast(tuple[TextPrompt, ...], self.prompts)
            prompts = tuple(TextPrompt(text=infill.prompt(prompt.text, self.suffix)) for prompt in texts)
            stop += infill.ends
        return tuple(
            GenerationRequest(
                prompt=prompt,
                sampling=self.sampling,
                max_tokens=bound if self.max_tokens is None else self.max_tokens,
                stop=stop,
                n=self.candidates,
                first_choice=index * self.candidates,
                echo=self.echo,
                logprobs=0 if self.logprobs is None and self.ranked else self.logprobs,
            )
            for index, prompt in enumerate(prompts)
        )


_DECODER: Final = msgspec.json.Decoder(CompletionBody)


def decode(body: bytes) -> CompletionRequest:
    """Raises InvalidRequestError; `param` is the path of the field at fault."""
    wire = decode_json(_DECODER, body)
    prompts = to_prompts("" if wire.prompt is None else wire.prompt, "prompt")
    n = wire.n or 1
    candidates = n if wire.best_of is None else wire.best_of
    stream = bool(wire.stream)
    if candidates < n:
        raise InvalidRequestError("`best_of` must not be less than `n`.", param="best_of")
    if len(prompts) * candidates > MAX_INPUTS:
        raise InvalidRequestError(
            f"{len(prompts)} prompts of {candidates} choices each are more than {MAX_INPUTS} choices.",
            param="n" if wire.best_of is None else "best_of",
        )
    if candidates > n and stream:
        raise InvalidRequestError("`best_of` cannot be streamed: the best are known at the end.", param="best_of")
    if wire.stream_options is not None and not stream:
        raise InvalidRequestError("`stream_options` is only allowed when `stream` is true.", param="stream_options")
    if wire.suffix and wire.echo:
        raise InvalidRequestError("`echo` and `suffix` exclude each other.", param="suffix")
    if wire.suffix and not all(isinstance(prompt, TextPrompt) for prompt in prompts):
        raise InvalidRequestError("`suffix` needs a prompt that is text.", param="suffix")
    return CompletionRequest(
        model=wire.model,
        prompts=prompts,
        sampling=wire.to_sampling(),
        max_tokens=wire.max_tokens,
        stop=wire.stop_strings(),
        n=n,
        candidates=candidates,
        logprobs=wire.logprobs,
        echo=bool(wire.echo),
        suffix=wire.suffix or None,
        stream=stream,
        include_usage=wire.stream_options is not None and bool(wire.stream_options.include_usage),
    )
