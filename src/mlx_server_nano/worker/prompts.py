"""Prompts to token ids."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import structs

from mlx_server_nano.errors import ContextLengthError, InvalidRequestError
from mlx_server_nano.template import TemplateError
from mlx_server_nano.types import ChatPrompt, GenerationRequest, Role, TextPrompt, ThinkingBudget, TokenPrompt
from mlx_server_nano.worker.grammar import GrammarCompiler
from mlx_server_nano.worker.scheduler import Prepared
from mlx_server_nano.worker.thinking import ThinkingLimit

_TAIL = 256
_UNLIKELY = "\u2042\u2042"


class Tokenizing:
    """Renders and tokenizes with one model's tokenizer and template. Not for use by several threads at a time."""

    def __init__(
        self,
        tokenizer: Any,
        apply_template: Callable[..., str] | None,
        grammars: GrammarCompiler,
        *,
        context_length: int,
        vocab_size: int,
        find_branches: bool,
    ) -> None:
        """find_branches: say where later prompts are likely to differ; costs three more renderings.

        apply_template(messages, tools, **kwargs) gives the prompt's text; None: the model has no chat template."""
        self._tokenizer = tokenizer
        self._apply_template = apply_template
        self._grammars = grammars
        self._context_length = context_length
        self._vocab_size = vocab_size
        self._find_branches = find_branches

    def prepare(self, request_id: int, request: GenerationRequest) -> Prepared:
        """Raises InvalidRequestError for a prompt that can't be rendered or is empty, ContextLengthError for one that
        leaves no room for a token of output."""
        prompt = request.prompt
        branches: tuple[int, ...] = ()
        if isinstance(prompt, ChatPrompt):
            prompt, text, ids = self._fitted(prompt, request.max_tokens)
            tail = text[-_TAIL:]
            branches = self._branches(prompt, ids) if self._find_branches else ()
        else:
            ids = self._ids(prompt, "prompt")
            tail = prompt.text[-_TAIL:] if isinstance(prompt, TextPrompt) else ""
        self._check(ids, request)
        return Prepared(
            request_id=request_id,
            request=request,
            ids=ids,
            tail=tail,
            continues_text=not isinstance(prompt, ChatPrompt),
            grammar=self._grammars.compile(request.constraint, tail) if request.constraint else None,
            thinking=self._thinking(request.thinking, tail),
            branches=branches,
        )

    def _fitted(self, prompt: ChatPrompt, max_tokens: int | None) -> tuple[ChatPrompt, str, list[int]]:
        """The prompt, its text and its tokens; without as many of the droppable messages as it takes to fit. Then there is room
        for the answer too, a quarter of the context at most, so that not every turn of a conversation cuts it anew."""
        whole = self._attempt(prompt, 0)
        if len(whole[2]) < self._context_length:
            return whole
        quarter = self._context_length // 4
        limit = self._context_length - (quarter if max_tokens is None else min(max_tokens, quarter))
        tried: dict[int, tuple[ChatPrompt, str, list[int]]] = {}

        def fits(dropped: int) -> bool:
            tried[dropped] = self._attempt(prompt, dropped)
            return len(tried[dropped][2]) <= limit

        choices = range(1, len(prompt.droppable) + 1)
        found = bisect_left(choices, True, key=fits)
        return tried[choices[found]] if found < len(choices) else whole

    def _attempt(self, prompt: ChatPrompt, dropped: int) -> tuple[ChatPrompt, str, list[int]]:
        gone = {i for group in prompt.droppable[:dropped] for i in group}
        if gone:
            left = tuple(message for i, message in enumerate(prompt.messages) if i not in gone)
            prompt = structs.replace(prompt, messages=left)
        text = self.render(prompt)
        return prompt, text, self._encode(text, add_special_tokens=False)

    def embeddable(self, text: TextPrompt | TokenPrompt, param: str) -> list[int]:
        """Raises InvalidRequestError for an empty text, ContextLengthError for one that is too long."""
        ids = self._ids(text, param)
        if not ids:
            raise InvalidRequestError("The input is empty.", param=param)
        if len(ids) > self._context_length:
            raise ContextLengthError(
                f"This model's maximum context length is {self._context_length} tokens, but the input has {len(ids)}.",
                param=param,
            )
        return ids

    def _ids(self, prompt: TextPrompt | TokenPrompt, param: str) -> list[int]:
        if isinstance(prompt, TokenPrompt):
            self.check_ids(prompt.ids, param)
            return list(prompt.ids)
        bos = self._tokenizer.bos_token
        return self._encode(prompt.text, add_special_tokens=not (bos and prompt.text.startswith(bos)))

    def check_ids(self, ids: Sequence[int], param: str) -> None:
        """Raises InvalidRequestError for an id that the model does not have."""
        if any(not 0 <= i < self._vocab_size for i in ids):
            raise InvalidRequestError(f"token ids must be in 0..{self._vocab_size - 1}", param=param)

    def _thinking(self, budget: ThinkingBudget | None, tail: str) -> ThinkingLimit | None:
        if budget is None:
            return None
        closing = self._encode(f"\n{budget.close}\n\n", add_special_tokens=False)
        return ThinkingLimit(budget, closing, inside=tail.rstrip().endswith(budget.open))

    def _check(self, ids: list[int], request: GenerationRequest) -> None:
        if not ids:
            raise InvalidRequestError("The prompt is empty.", param="prompt")
        room = 0 if request.max_tokens == 0 else 1
        if len(ids) + room > self._context_length:
            param = "messages" if isinstance(request.prompt, ChatPrompt) else "prompt"
            raise ContextLengthError(
                f"This model's maximum context length is {self._context_length} tokens, but the prompt has {len(ids)}"
                + ("; at least one must be left for the answer." if room else "."),
                param=param,
            )
        for token_id in request.sampling.logit_bias:
            if not 0 <= token_id < self._vocab_size:
                raise InvalidRequestError(
                    f"token id {token_id} is not in 0..{self._vocab_size - 1}", param=f"logit_bias.{token_id}"
                )

    def _branches(self, prompt: ChatPrompt, ids: list[int]) -> tuple[int, ...]:
        """The ends of what other conversations under the same system prompt share, of what comes before the last user message,
        and of what the next turn shares, whose rendering may leave out reasoning and how the answer was made to begin. Found by
        rendering with that message changed, or a next turn, so that no knowledge of the template is needed."""
        messages = prompt.messages
        users = [i for i, message in enumerate(messages) if message["role"] == Role.USER]
        others = [
            (*messages[:at], {**messages[at], "content": _UNLIKELY}, *messages[at + 1 :])
            for at in ({users[0], users[-1]} if users else ())
        ]
        others.append((*messages, *({"role": role, "content": _UNLIKELY} for role in (Role.ASSISTANT, Role.USER))))
        found: set[int] = set()
        for other in others:
            try:
                text = self.render(structs.replace(prompt, messages=other))
            except InvalidRequestError:
                continue
            changed = self._encode(text, add_special_tokens=False)
            found.add(next((i for i, (a, b) in enumerate(zip(ids, changed, strict=False)) if a != b), len(ids)))
        return tuple(sorted(at for at in found if 0 < at < len(ids) - 1))

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens))

    def render(self, prompt: ChatPrompt) -> str:
        """Raises InvalidRequestError."""
        if self._apply_template is None:
            raise InvalidRequestError("This model has no chat template; use /v1/completions.", param="messages")
        try:
            return self._apply_template(prompt.messages, prompt.tools, **prompt.template_kwargs)
        except TemplateError as error:
            raise InvalidRequestError(
                f"The model's chat template refuses these messages: {error}", param="messages"
            ) from error
