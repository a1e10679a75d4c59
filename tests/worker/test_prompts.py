"""Prompts to token ids."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from mlx_server_nano.errors import ContextLengthError, InvalidRequestError
from mlx_server_nano.template import TemplateError
from mlx_server_nano.types import ChatPrompt, Constraint, GenerationRequest, Prompt, Sampling, TextPrompt, TokenPrompt
from mlx_server_nano.worker.loader import LoadedModel
from mlx_server_nano.worker.prompts import Tokenizing
from mlx_server_nano.worker.scheduler import Prepared
from tests.worker.conftest import Tiny

HELLO = ChatPrompt(messages=({"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}))


def tokenizing(loaded: LoadedModel, **options: Any) -> Tokenizing:
    return Tokenizing(
        loaded.tokenizer,
        options.pop("apply_template", loaded.apply_template),
        loaded.grammars,
        **{
            "context_length": loaded.info.context_length,
            "vocab_size": loaded.info.vocab_size,
            "find_branches": False,
            **options,
        },
    )


def prepare(loaded: LoadedModel, prompt: Prompt, *, options: dict[str, Any] | None = None, **fields: Any) -> Prepared:
    request = GenerationRequest(prompt=prompt, **fields)
    return tokenizing(loaded, **(options or {})).prepare(7, request)


@pytest.fixture
def qwen(tiny: Tiny) -> LoadedModel:
    return tiny("qwen3")


@pytest.fixture
def llama(tiny: Tiny) -> LoadedModel:
    """Its tokenizer puts a token at the beginning of each text."""
    return tiny("llama", tokenizer="mini-dense-llama-3.1")


def test_a_chat_is_rendered_with_the_models_template(qwen):
    prepared = prepare(qwen, HELLO)
    text = qwen.tokenizer.decode(prepared.ids)
    assert text == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prepared.tail == text[-256:] and not prepared.continues_text
    assert (prepared.request_id, prepared.branches, prepared.grammar) == (7, (), None)


def test_a_chat_has_one_token_at_its_beginning(llama):
    ids = prepare(llama, HELLO).ids
    assert ids.count(llama.tokenizer.bos_token_id) == 1 and ids[0] == llama.tokenizer.bos_token_id


@pytest.mark.parametrize("given", ["", "<|begin_of_text|>"])
def test_a_text_has_one_token_at_its_beginning(llama, given):
    prepared = prepare(llama, TextPrompt(text=given + "Once upon"))
    assert prepared.ids == llama.tokenizer.encode("Once upon")
    assert prepared.ids.count(llama.tokenizer.bos_token_id) == 1
    assert prepared.continues_text and prepared.tail == given + "Once upon"


def test_a_long_text_keeps_a_short_tail(qwen):
    assert prepare(qwen, TextPrompt(text="a" * 300 + "b" * 256)).tail == "b" * 256


def test_tokens_are_taken_as_they_are(qwen):
    prepared = prepare(qwen, TokenPrompt(ids=(5, 3281, 0)))
    assert prepared.ids == [5, 3281, 0] and prepared.tail == "" and prepared.continues_text


@pytest.mark.parametrize("ids", [(3282,), (-1,), (1, 2, 10**9)])
def test_tokens_that_are_none(qwen, ids):
    with pytest.raises(InvalidRequestError, match=r"0\.\.3281") as caught:
        prepare(qwen, TokenPrompt(ids=ids))
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("prompt", [TextPrompt(text=""), TokenPrompt(ids=())])
def test_an_empty_prompt(qwen, prompt):
    with pytest.raises(InvalidRequestError, match="empty") as caught:
        prepare(qwen, prompt)
    assert caught.value.param == "prompt"


def test_a_prompt_that_leaves_no_room(qwen):
    limits = {"context_length": 20}
    assert len(prepare(qwen, TokenPrompt(ids=(5,) * 19), options=limits).ids) == 19
    for prompt, param in (
        (TokenPrompt(ids=(5,) * 20), "prompt"),
        (TextPrompt(text="one two three " * 20), "prompt"),
        (ChatPrompt(messages=({"role": "user", "content": "one two three " * 20},)), "messages"),
    ):
        with pytest.raises(ContextLengthError) as caught:
            prepare(qwen, prompt, options=limits)
        assert caught.value.param == param
        assert "20 tokens" in str(caught.value)
    with pytest.raises(ContextLengthError, match=r"20 tokens, but the prompt has 21;"):
        prepare(qwen, TokenPrompt(ids=(5,) * 21), options=limits)


TALK = tuple(
    {"role": role, "content": f"{number} " + "word " * 20} for number in range(8) for role in ("user", "assistant")
)
LONG = ChatPrompt(messages=(HELLO.messages[0], *TALK, HELLO.messages[1]), droppable=tuple((i,) for i in range(1, 17)))


def test_a_long_chat_is_cut_where_it_may_be(qwen):
    """As little as gives the answer its room: one message more would be too many."""
    whole = len(prepare(qwen, LONG).ids)
    for context, max_tokens, room in ((whole + 1, 5, 1), (whole, 5, 5), (whole // 2, None, whole // 8), (200, 150, 50)):
        ids = prepare(qwen, LONG, options={"context_length": context}, max_tokens=max_tokens).ids
        text = qwen.tokenizer.decode(ids)
        assert text.startswith("<|im_start|>system\nBe kind.") and "Hello" in text
        assert len(ids) + room <= context
        kept = text.count("<|im_start|>") - 3
        assert text.count("word") == 20 * kept
        if kept < 16:
            more = tuple(range(1, 16 - kept))
            messages = tuple(message for i, message in enumerate(LONG.messages) if i not in more)
            assert len(prepare(qwen, ChatPrompt(messages=messages)).ids) + room > context


def test_a_chat_that_is_too_long_even_so(qwen):
    """The error tells of the whole chat."""
    with pytest.raises(ContextLengthError, match=f"the prompt has {len(prepare(qwen, LONG).ids)};"):
        prepare(qwen, LONG, options={"context_length": 20})


@pytest.mark.parametrize("token_id", [-1, 3282])
def test_a_bias_for_no_token(qwen, token_id):
    with pytest.raises(InvalidRequestError, match=r"0\.\.3281") as caught:
        prepare(qwen, HELLO, sampling=Sampling(logit_bias={token_id: 1.0}))
    assert caught.value.param == f"logit_bias.{token_id}"


def test_a_chat_without_a_template(qwen):
    with pytest.raises(InvalidRequestError, match="no chat template"):
        prepare(qwen, HELLO, options={"apply_template": None})


def test_a_template_that_refuses(qwen):
    def refuse(messages: Any, tools: Any, **variables: Any) -> str:
        raise TemplateError("roles must alternate")

    with pytest.raises(InvalidRequestError, match="roles must alternate") as caught:
        prepare(qwen, HELLO, options={"apply_template": refuse})
    assert caught.value.param == "messages"


def test_a_requests_own_template_is_never_used(qwen):
    """It would run on the server, and for as long as it likes."""
    own = ChatPrompt(messages=HELLO.messages, template_kwargs={"chat_template": "mine"})
    assert prepare(qwen, own).ids == prepare(qwen, HELLO).ids


def test_template_variables_reach_the_template(qwen):
    off = ChatPrompt(messages=HELLO.messages, template_kwargs={"enable_thinking": False})
    assert prepare(qwen, off).tail.endswith("<think>\n\n</think>\n\n")


def test_branches_are_where_other_requests_may_differ(qwen):
    """The end of what all conversations under a system prompt share, and of what this one's next turn shares."""
    turns = ChatPrompt(
        messages=(
            *HELLO.messages,
            {"role": "assistant", "content": "Hi!"},
            {"role": "user", "content": "How are you?"},
        )
    )
    prepared = prepare(qwen, turns, options={"find_branches": True})
    texts = [qwen.tokenizer.decode(prepared.ids[:at]) for at in prepared.branches]
    assert texts[0] == "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n"
    assert texts[1].endswith("Hi!<|im_end|>\n<|im_start|>user\n")
    assert len(texts) == 2
    # Here the answer's first words are in the prompt and not in the next turn's.
    prepared = prepare(
        qwen, structs.replace(turns, template_kwargs={"enable_thinking": False}), options={"find_branches": True}
    )
    texts = [qwen.tokenizer.decode(prepared.ids[:at]) for at in prepared.branches]
    assert texts[2].endswith("How are you?<|im_end|>\n<|im_start|>assistant\n") and len(texts) == 3


def test_a_grammar_that_does_not_compile(qwen):
    with pytest.raises(InvalidRequestError):
        prepare(qwen, HELLO, constraint=Constraint(grammar="start: ("))
    assert prepare(qwen, HELLO, constraint=Constraint(grammar='start: "yes" | "no"')).grammar is not None
