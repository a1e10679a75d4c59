"""One row: what goes out with which token, how it ends, and which log-probabilities belong to what was sent."""

from __future__ import annotations

import codecs
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_server_nano.protocol import Delta
from mlx_server_nano.types import FinishReason, TokenLogprob
from mlx_server_nano.worker.sequence import RowSampling, Sequence

EOS = 99
GREEDY = RowSampling(
    temperature=0,
    top_p=1,
    top_k=0,
    min_p=0,
    repetition_penalty=1,
    presence_penalty=0,
    frequency_penalty=0,
    logit_bias={},
    seed=None,
)


class Bytes:
    """Token i is `tokens[i]`."""

    def __init__(self, tokens: list[bytes]) -> None:
        self._tokens = tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token_id: int) -> str:
        return self._decoder.decode(self._tokens[token_id])

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)

    @property
    def pending(self) -> bool:
        return bool(self._decoder.getstate()[0])


def run(
    tokens: list[bytes], *, end: bool = True, logprobs: bool = True, **options: Any
) -> tuple[Sequence, list[Delta]]:
    """Feed all tokens, then end of sequence, until the row is done."""
    options.setdefault("max_tokens", 1000)
    sequence = Sequence(
        request_id=5,
        choice=1,
        prompt=[1, 2, 3],
        sampling=GREEDY,
        eos_ids=frozenset({EOS}),
        detokenizer=Bytes(tokens),
        stops=options.pop("stops", ()),
        logprobs=0 if logprobs else None,
        **options,
    )
    deltas = []
    for token_id in [*range(len(tokens)), *([EOS] if end else [])]:
        value = TokenLogprob(tokens[token_id] if token_id != EOS else b"<eos>", -1.0) if logprobs else None
        delta = sequence.accept(token_id, value)
        if delta is not None:
            deltas.append(delta)
        if sequence.done:
            break
    return sequence, deltas


def text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def logprob_bytes(deltas: list[Delta]) -> bytes:
    return b"".join(value.token for delta in deltas for value in delta.logprobs)


def test_text_goes_out_with_its_token():
    _, deltas = run([b"Hello", b" world"], logprobs=False)
    assert [(d.text, d.tokens, d.finish) for d in deltas] == [
        ("Hello", 1, None),
        (" world", 1, None),
        ("", 1, FinishReason.STOP),
    ]
    assert {(d.request_id, d.choice) for d in deltas} == {(5, 1)}


def test_a_character_in_pieces_goes_out_whole_with_all_its_tokens():
    _, deltas = run([b"a", b"\xf0\x9f", b"\xa6", b"\xab", b"b"], end=False)
    assert [(d.text, d.tokens) for d in deltas] == [("a", 1), ("\U0001f9ab", 3), ("b", 1)]
    assert [[value.token for value in d.logprobs] for d in deltas] == [[b"a"], [b"\xf0\x9f", b"\xa6", b"\xab"], [b"b"]]


def test_an_unfinished_character_goes_out_at_the_end():
    _, deltas = run([b"a", b"\xf0\x9f"])
    assert text(deltas) == "a\ufffd"
    assert logprob_bytes(deltas) == b"a\xf0\x9f"


def test_the_token_limit():
    sequence, deltas = run([b"a", b"b", b"c"], max_tokens=2)
    assert text(deltas) == "ab"
    assert deltas[-1].finish is FinishReason.LENGTH
    assert sequence.output == [0, 1]


def test_the_token_limit_gives_out_what_was_held_back():
    _, deltas = run([b"a", b"EN"], max_tokens=2, stops=("END",))
    assert text(deltas) == "aEN"
    assert deltas[-1].finish is FinishReason.LENGTH and deltas[-1].stop is None


def test_a_stop_string_with_the_last_token_allowed_is_a_stop():
    _, deltas = run([b"a", b"END"], max_tokens=2, stops=("END",))
    assert text(deltas) == "a"
    assert (deltas[-1].finish, deltas[-1].stop) == (FinishReason.STOP, "END")


def test_end_of_sequence_with_the_last_token_allowed_is_a_stop():
    _, deltas = run([b"a"], max_tokens=2)
    assert deltas[-1].finish is FinishReason.STOP


def test_end_of_sequence_gives_out_what_was_held_back():
    _, deltas = run([b"x E", b"N"], stops=("END",))
    assert text(deltas) == "x EN"
    assert logprob_bytes(deltas) == b"x EN"
    assert (deltas[-1].finish, deltas[-1].stop) == (FinishReason.STOP, None)


def test_a_stop_string_over_several_tokens():
    _, deltas = run([b"one E", b"N", b"D", b"never"], stops=("END", "zzz"))
    assert text(deltas) == "one "
    assert (deltas[-1].finish, deltas[-1].stop) == (FinishReason.STOP, "END")
    assert sum(d.tokens for d in deltas) == 3
    assert logprob_bytes(deltas) == b"one E", "the token that holds the last text that was sent, and none after it"


def test_a_stop_string_completed_by_what_the_end_gives_out():
    """U+FFFD, which an unfinished character becomes, may be part of a stop string."""
    _, deltas = run([b"ab", b"c\xf0"], stops=("c\ufffd",))
    assert text(deltas) == "ab"
    assert (deltas[-1].finish, deltas[-1].stop) == (FinishReason.STOP, "c\ufffd")
    assert logprob_bytes(deltas) == b"ab"


def test_text_sent_with_a_late_stop_string_keeps_its_log_probabilities():
    _, deltas = run([b"a", b"b\xf0"], stops=("ab-", "\ufffd"), max_tokens=2)
    assert text(deltas) == "ab"
    assert deltas[-1].stop == "\ufffd"
    assert logprob_bytes(deltas) == b"ab\xf0"


@given(
    letters=st.lists(st.sampled_from(["a", "b", "é", "漢", "\U0001f9ab", "EN", "END", "\n"]), max_size=12),
    cuts=st.lists(st.integers(0, 40), max_size=20),
    limit=st.integers(1, 30),
    stops=st.lists(st.sampled_from(["END", "aa", "é\n", "b\U0001f9ab"]), max_size=2).map(tuple),
)
def test_however_the_bytes_are_cut_into_tokens(letters, cuts, limit, stops):
    data = "".join(letters).encode()
    at = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    tokens = [data[a:b] for a, b in itertools.pairwise(at)]
    sequence, deltas = run(tokens, stops=stops, max_tokens=limit)
    seen = b"".join(tokens[:limit]).decode(errors="replace")
    ends = [(seen.find(stop) + len(stop), seen.find(stop)) for stop in stops if stop in seen]
    assert text(deltas) == (seen[: min(ends)[1]] if ends else seen)
    assert [d.finish is not None for d in deltas] == [False] * (len(deltas) - 1) + [True]
    assert sum(d.tokens for d in deltas) == len(sequence.output)
    assert sequence.done and not sequence.wants_step
    sent = logprob_bytes(deltas)
    if ends:
        assert text(deltas).startswith(sent.decode(errors="ignore")[: len(text(deltas))])
        assert sent.decode(errors="replace").startswith(text(deltas))
    else:
        assert sent == b"".join(tokens[:limit])


def test_no_log_probability_goes_out_before_its_text():
    tokens = [b"x", b"E", b"N", b"y", b"\xc3", b"\xa9"]
    _, deltas = run(tokens, stops=("END",))
    sent_text = b""
    sent_logprobs = b""
    for delta in deltas:
        sent_text += delta.text.encode()
        sent_logprobs += b"".join(value.token for value in delta.logprobs)
        assert sent_text.startswith(sent_logprobs)
    assert sent_text == sent_logprobs == b"".join(tokens)


@pytest.mark.parametrize("prompt", [1, 4])
def test_how_long_its_caches_are(prompt):
    sequence = Sequence(
        request_id=1,
        choice=0,
        prompt=[7] * prompt,
        sampling=GREEDY,
        max_tokens=3,
        eos_ids=frozenset(),
        detokenizer=Bytes([b"a", b"b", b"c"]),
        stops=(),
        logprobs=None,
    )
    assert len(sequence) == prompt - 1, "the prompt's last token is the first that is decoded"
    for launched in (1, 2, 3):
        assert sequence.wants_step
        sequence.launched += 1
        assert len(sequence) == prompt - 1 + launched
    assert not sequence.wants_step and not sequence.done
