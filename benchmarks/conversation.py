"""What an agent's user waits for: rounds of a conversation that grows turn by turn, and of answers beside far longer prompts."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

from msgspec import Struct

from benchmarks import figures, load, prompts
from benchmarks.figures import Answer, TroubleError
from benchmarks.load import Message
from benchmarks.rounds import Round
from benchmarks.servers import Contestant, Server, running

_SECONDS: Final = 300.0
_FIRST_TOKENS: Final = 8
_UNDER_WAY: Final = 8
_RETRY_PAUSE: Final = 0.1


class Talk(Struct, frozen=True, kw_only=True):
    """A conversation, in tokens: its system prompt, what the user says at each turn, what is answered to it."""

    system: int
    message: int
    output: int
    turns: int


class Lengths(Struct, frozen=True, kw_only=True):
    """A long prompt, and short ones beside it, in tokens; output: of each answer."""

    long: int
    short: tuple[int, ...]
    output: int


class Disk(StrEnum):
    """The contestants of `RestartRound`: this server with `--prefix-cache-dir`, and without."""

    FILES = "files"
    NOTHING = "nothing"


class Conversation:
    """Every answer is sent back with what is said next. Texts are other ones for every seed, so nothing else can be reused."""

    def __init__(self, model: Path, talk: Talk, words: Callable[[int], int], seed: int) -> None:
        """words: how many of them make so many tokens."""
        self._model = model
        self._output = talk.output
        self._words = words(talk.message)
        self._seeds = itertools.count(1000 * seed)
        system = prompts.text(next(self._seeds), words(talk.system))
        self._messages: list[Message] = [{"role": "system", "content": system}]

    def say(self, server: Server) -> Answer:
        """One turn. Raises TroubleError."""
        self._messages.append(load.user(prompts.text(next(self._seeds), self._words)))
        answer = asyncio.run(ask(server, self._model, self._messages, self._output))
        self._messages.append({"role": "assistant", "content": answer.text})
        return answer


async def ask(
    server: Server, model: Path, messages: list[Message], tokens: int, on_text: load.OnText = lambda now: None
) -> Answer:
    """Tries again when it is refused, as clients do. Raises TroubleError."""
    try:
        async with asyncio.timeout(_SECONDS):
            while True:
                try:
                    return await load.ask(server.port, str(model), messages, tokens, on_text)
                except figures.RefusedError:
                    await asyncio.sleep(_RETRY_PAUSE)
    except TimeoutError:
        raise TroubleError(f"no answer within {_SECONDS:.0f} s") from None


class TalkRound(Round):
    """One conversation, after another of the same lengths as a warm-up: kernels of a GPU compile at their first use."""

    def __init__(self, model: Path, talk: Talk, contestant: str, seed: int) -> None:
        super().__init__(model)
        self._contestant = Contestant(contestant)
        self._talk = talk
        self._seed = seed

    def play(self) -> None:
        noted = self.record.figures
        with running(self._contestant, self._model) as server:
            _get_ready(server, self._model)
            for seed in (2 * self._seed, 2 * self._seed + 1):
                conversation = Conversation(self._model, self._talk, self.words, seed)
                answers: list[Answer] = []
                started = time.monotonic()
                for i in range(self._talk.turns):
                    answers.append(conversation.say(server))
                    noted[f"turn.{i + 1}"] = answers[-1].first
                _say(self._contestant, f"conversation of {self._talk.turns} turns", started)
            memory = server.memory()
        self.note_requests("turns", answers)
        later = answers[1:]
        noted["later_turns"] = figures.middle(answer.first for answer in later)
        noted["whole"] = sum(answer.arrivals[-1] - answer.sent for answer in answers)
        noted["rate"] = figures.middle(rate for answer in answers for rate in figures.rates_together([answer]) or [])
        if later:
            noted["cached"] = sum(a.cached_tokens for a in later) / sum(a.prompt_tokens for a in later)
            noted["uncached"] = figures.middle(float(a.prompt_tokens - a.cached_tokens) for a in later)
        noted["resident_bytes"], noted["device_bytes"] = memory.resident, memory.device


class RestartRound(Round):
    """A conversation goes on after the server was started anew, and once more after its model was unloaded."""

    def __init__(self, model: Path, talk: Talk, contestant: str, seed: int) -> None:
        super().__init__(model)
        self._contestant = Disk(contestant)
        self._talk = talk
        self._seed = seed

    def play(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            flags = ["--prefix-cache-dir", folder] if self._contestant is Disk.FILES else []
            conversation, other = (
                Conversation(self._model, self._talk, self.words, seed) for seed in (2 * self._seed, 2 * self._seed + 1)
            )
            started = time.monotonic()
            with running(Contestant.NANO, self._model, *flags) as server:
                _get_ready(server, self._model)
                conversation.say(server)
                stopping = time.monotonic()
            self.record.figures["stop"] = time.monotonic() - stopping
            _say(self._contestant, "first turn, and stopped", started)
            started = time.monotonic()
            with running(Contestant.NANO, self._model, *flags) as server:
                _get_ready(server, self._model)
                other.say(server)  # kernels of a GPU for such lengths are compiled
                self._note("restart", conversation.say(server))
                unloading = time.monotonic()
                _unload(server, self._model)
                self.record.figures["unload"] = time.monotonic() - unloading
                self._note("reload", conversation.say(server))
            _say(self._contestant, "next turns after a restart and after an unload", started)

    def _note(self, name: str, answer: Answer) -> None:
        self.record.figures[name] = answer.first
        self.record.figures[f"{name}_cached"] = answer.cached_tokens / answer.prompt_tokens
        self.note_requests(name, [answer])


class LengthsRound(Round):
    """Streams with short prompts, without and with one beside them whose prompt is long; all of them decode."""

    def __init__(self, model: Path, lengths: Lengths, contestant: str, seed: int) -> None:
        super().__init__(model)
        self._contestant = Contestant(contestant)
        self._lengths = lengths
        self._seeds = itertools.count(100 * seed)

    def play(self) -> None:
        noted, short, long = self.record.figures, self._lengths.short, (self._lengths.long,)
        with running(self._contestant, self._model) as server:
            _get_ready(server, self._model)
            for lengths in ((*long, *short), short):
                self._stream(server, "warm-up", lengths, self._lengths.output)
            apart, alone = (self._stream(server, "apart", lengths, self._lengths.output) for lengths in (short, long))
            before = server.memory()
            answers = self._stream(server, "together", (*long, *short), self._lengths.output)
            after = server.memory()
        rates = figures.rates_together(answers) or []
        noted["long"], noted["long_apart"] = _mean(rates[:1]), _mean(figures.rates_together(alone))
        noted["short"], noted["short_apart"] = _mean(rates[1:]), _mean(figures.rates_together(apart))
        for name in ("short", "long"):
            noted[f"{name}_kept"] = figures.ratio([noted[name]], [noted[f"{name}_apart"]])
        noted["first"] = figures.middle(answer.first for answer in answers[1:])
        noted["first_apart"] = figures.middle(answer.first for answer in apart)
        noted["device_bytes"], noted["resident_bytes"] = after.device, after.resident
        if before.device is not None and after.device is not None:
            noted["device_growth"] = after.device - before.device

    def _stream(self, server: Server, name: str, lengths: Sequence[int], tokens: int) -> list[Answer]:
        """Answers to prompts of these lengths, in their order. The first decodes when the others are sent, and gets twice
        as many tokens so as to outlast them."""
        started = time.monotonic()
        texts = [prompts.text(next(self._seeds), self.words(length)) for length in lengths]
        answers = asyncio.run(together(server, self._model, texts, tokens))
        self.note_requests(f"{name}.{len(texts)}", answers)
        _say(self._contestant, f"{name}, {'+'.join(map(str, lengths))} tokens", started)
        return answers


async def together(server: Server, model: Path, texts: list[str], tokens: int) -> list[Answer]:
    """The others are sent once the first is under way, or over. Raises TroubleError."""
    under_way, pieces = asyncio.Event(), itertools.count(1)

    def on_text(now: float) -> None:
        if next(pieces) == _UNDER_WAY:
            under_way.set()

    first, *others = ([load.user(text)] for text in texts)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(server, model, first, 2 * tokens if others else tokens, on_text))]
            tasks[0].add_done_callback(lambda task: under_way.set())
            await under_way.wait()
            tasks += [group.create_task(ask(server, model, other, tokens)) for other in others]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _get_ready(server: Server, model: Path) -> None:
    """With the model loaded, and whatever is done when it is first at rest."""
    server.wait_listening()
    asyncio.run(ask(server, model, [load.user("hello")], _FIRST_TOKENS))
    server.wait_idle()


def _mean(rates: Sequence[float] | None) -> float | None:
    return sum(rates) / len(rates) if rates else None


def _unload(server: Server, model: Path) -> None:
    """Raises RuntimeError if the server does not."""
    deadline = time.monotonic() + _SECONDS
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_SECONDS)
        body = json.dumps({"model": str(model)})
        connection.request("POST", "/admin/unload", body, {"Content-Type": "application/json"})
        status = connection.getresponse().status
        connection.close()
        if status == http.client.OK:
            return
        if status != http.client.CONFLICT or time.monotonic() > deadline:
            raise RuntimeError(f"unloading the model was answered with {status}")
        time.sleep(_RETRY_PAUSE)


def _say(contestant: str, what: str, started: float) -> None:
    print(f"  {contestant}: {what} ({time.monotonic() - started:.1f} s)", file=sys.stderr, flush=True)
