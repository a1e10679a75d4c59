import asyncio

import pytest

from mlx_server_nano.api.sse import EventStream


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_no_keep_alive_while_a_write_waits():
    """Encoders number their keep-alives, so one that is made must go out before anything that is made later."""
    sent: list[bytes] = []
    waiting, reading = asyncio.Event(), asyncio.Event()
    made: list[bytes] = []

    async def send(message):
        if message["type"] == "http.response.body":
            if message["body"] == b"first":
                waiting.set()
                await reading.wait()
            sent.append(message["body"])

    def keep_alive() -> bytes:
        made.append(b"%d" % len(made))
        return made[-1]

    stream = EventStream(send, 0.01, keep_alive)
    writing = asyncio.create_task(stream.write(b"first"))
    await waiting.wait()
    async with stream:
        await asyncio.sleep(0.05)
        assert made == []
        reading.set()
        await writing
        while not made:
            await asyncio.sleep(0.01)
    assert sent == [b"first", *made]
