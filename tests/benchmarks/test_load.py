import pytest
from benchmarks.figures import TroubleError
from benchmarks.load import EventReader

ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
TEXT = b'data: {"choices":[{"delta":{"content":"hi"}}],"usage":null}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}\n\n'
DONE = b"data: [DONE]\n\n"


def test_only_text_counts_as_an_arrival():
    reader = EventReader()
    assert not reader.feed(ROLE)
    assert not reader.feed(b": keep-alive\n\n")
    assert reader.feed(TEXT)
    assert not reader.feed(USAGE)
    assert reader.usage is not None
    assert reader.usage.completion_tokens == 5
    assert not reader.ended
    assert "".join(reader.content) == "hi"
    reader.feed(DONE)
    assert reader.ended


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_pieces_of_any_size(size):
    body = (ROLE + TEXT + TEXT + USAGE + DONE).replace(b"\n", b"\r\n")
    reader = EventReader()
    assert sum(reader.feed(body[i : i + size]) for i in range(0, len(body), size)) == (1 if size == 1000 else 2)
    assert reader.ended


def test_reasoning_is_text():
    reader = EventReader()
    assert reader.feed(b'data: {"choices":[{"delta":{"reasoning":"hm"}}]}\n\n')
    assert "".join(reader.content) == ""


def test_an_error_in_the_stream_is_trouble():
    with pytest.raises(TroubleError):
        EventReader().feed(b'data: {"error": {"message": "no"}}\n\n')
