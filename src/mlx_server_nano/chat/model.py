"""How one loaded model chats: the format that it writes, what its template wants, and so what a request becomes for it."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlx_server_nano.chat.detect import detect, named
from mlx_server_nano.chat.formats.base import Format
from mlx_server_nano.chat.grammar import answer_grammar, call_grammar, json_body
from mlx_server_nano.chat.prepare import Prepared, Traits, prepare, probe
from mlx_server_nano.chat.request import AnswerFormat, CallMode, ChatRequest, Thinking
from mlx_server_nano.chat.thinking import thinking_variables
from mlx_server_nano.chat.truncation import droppable
from mlx_server_nano.errors import InvalidRequestError
from mlx_server_nano.template import TemplateError
from mlx_server_nano.types import ChatPrompt, Constraint, GenerationRequest, ModelInfo, Role, ThinkingBudget, Tool


@dataclass(frozen=True, slots=True)
class Bound:
    """A chat request as the worker takes it, and how to read the answer: its format, the tools that may be called (none
    where calls are not wanted), and which of these are custom."""

    request: GenerationRequest
    format: Format
    tools: tuple[Tool, ...]
    custom: frozenset[str]


class ChatModel:
    def __init__(self, info: ModelInfo, format_name: str | None = None) -> None:
        """Reads and tries the chat template, which takes milliseconds: keep it off the event loop. format_name: instead of
        the detected one. Raises InvalidRequestError for an unknown name."""
        self._info = info
        self._template_kwargs: Mapping[str, Any] = {}
        self._thinking: dict[Thinking, dict[str, Any]] = {}
        self.format = detect(info.chat_template, info.special_tokens, format_name)
        try:
            self._traits = probe(info.chat_template) if info.chat_template is not None else Traits()
        except TemplateError:
            self._traits = Traits()

    def configured(self, format_name: str | None, template_kwargs: Mapping[str, Any] | None) -> ChatModel:
        """The same model with another format, and with variables for its template where a request has none; None: as it is.
        Raises InvalidRequestError for an unknown format."""
        if format_name is None and template_kwargs is None:
            return self
        other = copy.copy(self)
        if format_name is not None:
            other.format = named(format_name)
        if template_kwargs is not None:
            other._template_kwargs = template_kwargs
        return other

    def bind(self, chat: ChatRequest) -> Bound:
        """Where a grammar for many tools is to be written this takes long: keep it off the event loop. Raises
        InvalidRequestError for what this model or its template can't do."""
        if not self._info.chats:
            raise InvalidRequestError("This model has no chat template; use /v1/completions.", param="messages")
        tools = () if chat.choice.mode is CallMode.NONE else chat.tools
        prepared = prepare(chat.messages, tools, self._traits, self.format)
        request = GenerationRequest(
            prompt=ChatPrompt(
                messages=prepared.messages,
                tools=prepared.tools,
                template_kwargs={
                    **self._template_kwargs,
                    **self._thinking_variables(chat.thinking),
                    **chat.template_kwargs,
                },
                droppable=self._droppable(chat, prepared) if chat.truncate else (),
            ),
            sampling=chat.sampling,
            max_tokens=chat.max_tokens,
            stop=chat.stop,
            n=chat.n,
            logprobs=chat.logprobs,
            constraint=self._constraint(chat, tools, prepared.format),
            thinking=self._budget(chat, prepared.format),
        )
        return Bound(request, prepared.format, tools, chat.custom)

    def _droppable(self, chat: ChatRequest, prepared: Prepared) -> tuple[tuple[int, ...], ...]:
        instructed = any(message.role in (Role.SYSTEM, Role.DEVELOPER) for message in chat.messages)
        in_words = bool(chat.tools) and not self._traits.tools
        return droppable(
            prepared.messages,
            head_instructs=not self._traits.system and (instructed or in_words),
            alternating=self._traits.alternating,
        )

    def _thinking_variables(self, thinking: Thinking) -> dict[str, Any]:
        asked = replace(thinking, budget=None)
        if self._info.chat_template is None or asked == Thinking():
            return {}
        # Found out by trying the template, which must be compiled for that: once.
        if asked not in self._thinking:
            self._thinking[asked] = thinking_variables(
                self._info.chat_template, effort=asked.effort, enabled=asked.enabled
            )
        return self._thinking[asked]

    def _budget(self, chat: ChatRequest, format: Format) -> ThinkingBudget | None:
        if chat.thinking.budget is None or format.reasoning is None:
            return None
        return ThinkingBudget(
            tokens=chat.thinking.budget, open=format.reasoning.open[0], close=format.reasoning.close[0]
        )

    def _constraint(self, chat: ChatRequest, tools: Sequence[Tool], format: Format) -> Constraint | None:
        choice = chat.choice
        required = bool(tools) and choice.mode is CallMode.REQUIRED
        allowed = [tool for tool in tools if not choice.only or tool.name in choice.only]
        restricted = len(allowed) < len(tools) or not choice.parallel or any(tool.strict for tool in tools)
        body = None if chat.answer is None or required else answer_body(chat.answer)
        if body is None and not required and not (tools and restricted):
            return None

        def grammar(inside: bool) -> str:
            special = self._info.special_tokens
            if not tools and body is not None:
                return answer_grammar(format, body, special_tokens=special, starts_in_reasoning=inside)
            return call_grammar(
                format,
                allowed,
                special_tokens=special,
                required=required,
                parallel=choice.parallel,
                answer=body,
                starts_in_reasoning=inside,
            )

        param = "tools" if body is None or chat.answer is None else chat.answer.param
        if format.reasoning is None:
            return Constraint(grammar=grammar(False), param=param)
        return Constraint(
            grammar=grammar(False),
            in_reasoning=grammar(True),
            reasoning_open=format.reasoning.open,
            param=param,
        )


def answer_body(answer: AnswerFormat) -> str:
    """The Lark expression for the content of an answer."""
    if answer.grammar is not None:
        return f"%lark {{\n{answer.grammar}\n}}"
    if answer.regex is not None:
        return "%lark {\nstart: /" + re.sub(r"(?<!\\)/", r"\/", answer.regex) + "/\n}"
    return json_body(answer.schema)
