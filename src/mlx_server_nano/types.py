"""Values that the gateway and the workers both speak. Frozen; nothing here does anything.

They travel between the processes as msgpack (see `protocol`), hence msgspec structs.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar, Final

from msgspec import Struct


class Role(StrEnum):
    """Who speaks a message. `developer` is OpenAI's newer name for `system`."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class FinishReason(StrEnum):
    """Why a sequence ended: by itself or at a stop string, at its token limit, or with tool calls."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


class ToolCall(Struct, frozen=True, kw_only=True):
    """A call in an assistant's message. `arguments` is the JSON text as the client or the model wrote it."""

    id: str
    name: str
    arguments: str


class Tool(Struct, frozen=True, kw_only=True):
    """A function that the model may call. `parameters` is a JSON Schema; None means no arguments."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One turn. Text parts are joined before they come here; a missing content is None."""

    role: Role
    content: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


# Arguments that rendering a chat template sets itself.
RESERVED_TEMPLATE_KWARGS: Final = frozenset(
    ("template", "chat_template", "messages", "tools", "documents", "add_generation_prompt", "tokenize")
)


class ChatPrompt(Struct, frozen=True, kw_only=True, tag="chat"):
    """Messages to be rendered with the model's chat template, already in the form that it wants (see `chat.prepare`).

    messages, tools, template_kwargs go to the template as they are; tools None: the template's variable is none.
    droppable: groups of messages (their indices) that may be left out, in this order, if the prompt is too long.
    """

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] | None = None
    template_kwargs: dict[str, Any] = {}
    droppable: tuple[tuple[int, ...], ...] = ()


class TextPrompt(Struct, frozen=True, kw_only=True, tag="text"):
    """Plain text; the tokenizer adds its usual special tokens."""

    text: str


class TokenPrompt(Struct, frozen=True, kw_only=True, tag="tokens"):
    """Token ids, used as they are."""

    ids: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class Sampling(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How tokens are chosen. None means: not given, so the model's default holds, once the gateway has
    filled in the operator's.

    temperature 0 is greedy. top_k 0 is off. The penalties follow OpenAI's (presence, frequency: over the output) and
    Hugging Face's (repetition: over prompt and output) definitions. `logit_bias` maps token ids to additions.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] = {}
    seed: int | None = None


class Constraint(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the output must follow: a grammar in llguidance's Lark dialect.

    `in_reasoning` takes its place if the rendered prompt ends with one of `reasoning_open`. param: the request's field to
    blame for a grammar that does not compile.
    """

    grammar: str
    in_reasoning: str | None = None
    reasoning_open: tuple[str, ...] = ()
    param: str | None = None


class ThinkingBudget(Struct, frozen=True, kw_only=True):
    """At most this many tokens of reasoning: then the worker writes `close` in the model's place. The model reasons if its
    answer, or the rendered prompt's end, is `open`."""

    tokens: int
    open: str
    close: str


class GenerationRequest(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="generation"):
    """All that a worker needs to answer a request; every dialect decodes to this.

    max_tokens: tokens at most for each choice; None: until the context is full; 0: only the prompt is processed.
    stop: strings that end a choice and are not part of it.
    n: how many choices, from one prefill. first_choice: the number of the first one, for a client's request that becomes
    several of these.
    echo: send the prompt's text ahead of the choices, with its tokens' log-probabilities if `logprobs` asks for any.
    logprobs: None: none wanted; k: the chosen token's log-probability and the k most likely alternatives'.
    constraint: a grammar that every choice follows, whatever the sampling. thinking: a limit for its reasoning.
    """

    prompt: Prompt
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    first_choice: int = 0
    echo: bool = False
    logprobs: int | None = None
    constraint: Constraint | None = None
    thinking: ThinkingBudget | None = None


class Question(Struct, frozen=True, kw_only=True):
    """Something else to ask a worker, with one answer. n: what it counts as among choices."""

    n: ClassVar[int] = 1


class Tokenize(Question, frozen=True, tag="tokenize"):
    """add_special: with the tokens that the tokenizer puts around a text; parse_special: markup in it counts as such."""

    text: str
    add_special: bool
    parse_special: bool


class Measure(Question, frozen=True, tag="measure"):
    """How many tokens would this request's prompt have?"""

    request: GenerationRequest


class Detokenize(Question, frozen=True, tag="detokenize"):
    ids: tuple[int, ...]


class RenderChat(Question, frozen=True, tag="render_chat"):
    """What does the chat template make of these messages?"""

    prompt: ChatPrompt


class Embed(Question, frozen=True, tag="embed"):
    """A vector for each input, of all dimensions or of the first so many."""

    inputs: tuple[TextPrompt | TokenPrompt, ...]
    dimensions: int | None = None


Work = GenerationRequest | Measure | Tokenize | Detokenize | RenderChat | Embed


class Alternative(Struct, frozen=True, array_like=True):
    """A token and its natural-log probability. `token` is its bytes: a token may hold part of a character."""

    token: bytes
    logprob: float


class TokenLogprob(Struct, frozen=True, array_like=True):
    """The chosen token's log-probability with the most likely alternatives, best first."""

    token: bytes
    logprob: float
    top: tuple[Alternative, ...] = ()


class ModelInfo(Struct, frozen=True, kw_only=True):
    """What a worker tells about the model that it has loaded.

    context_length: tokens, prompt and output together. weights_bytes: what the parameters take.
    chat_template: the Jinja source; None: there is none. chats: it can render messages all the same or by it.
    special_tokens: the tokens that are markup, not text, with their ids.
    """

    model_type: str
    context_length: int
    vocab_size: int
    weights_bytes: int
    chat_template: str | None
    chats: bool
    special_tokens: dict[str, int]
    batchable: bool
