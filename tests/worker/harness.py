"""An engine without processes: requests go in, turns are made by hand, events come out."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_server_nano.errors import Failure
from mlx_server_nano.protocol import Cancel, Delta, Event, Failed, LoadOptions, Started, Step
from mlx_server_nano.types import FinishReason, GenerationRequest, Sampling, TokenLogprob, TokenPrompt
from mlx_server_nano.worker import loader
from mlx_server_nano.worker.channel import Inbox
from mlx_server_nano.worker.compiled import CompiledStep
from mlx_server_nano.worker.draft_model import DraftModel
from mlx_server_nano.worker.engine import Engine, Incoming
from mlx_server_nano.worker.pace import Pace
from mlx_server_nano.worker.prompts import Tokenizing
from mlx_server_nano.worker.sequence import Sequence

GREEDY = Sampling(temperature=0)


@dataclass
class Answer:
    text: str = ""
    tokens: int = 0
    finish: FinishReason | None = None
    stop: str | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    deltas: list[str] = field(default_factory=list)
    output: list[int] = field(default_factory=list)  # the tokens, that of the end included


class Recorder:
    """Takes the place of the channel to the gateway."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.memory_bytes = 0
        self.kv_bytes = 0
        self.prefix_bytes = 0
        self.drafted = 0
        self.accepted = 0

    def send(self, message: Any) -> None:
        assert isinstance(message, Step)
        self.events += message.events
        self.memory_bytes = message.memory_bytes
        self.kv_bytes, self.prefix_bytes = message.kv_bytes, message.prefix_bytes
        self.drafted += message.drafted_tokens
        self.accepted += message.accepted_tokens


class Driver:
    """Without speculation unless it is asked for."""

    def __init__(
        self,
        loaded: loader.LoadedModel,
        draft_model: DraftModel | None = None,
        compiled: CompiledStep | None = None,
        pace: Pace | None = None,
        **options: Any,
    ) -> None:
        """pace: None: every row takes every step, however long they take."""
        self.loaded = loaded
        self.recorder = Recorder()
        self.inbox: Inbox[Incoming] = Inbox()
        settings = LoadOptions(log_name="test", **{"speculation": False, **options})
        self.engine = Engine(loaded, settings, self.recorder, self.inbox, draft_model, compiled=compiled)  # type: ignore[arg-type]
        self.engine._batch.pace = pace
        self._note_outputs()
        self.tokenizing = Tokenizing(
            loaded.tokenizer,
            loaded.apply_template,
            loaded.grammars,
            context_length=loaded.info.context_length,
            vocab_size=loaded.info.vocab_size,
            find_branches=not loaded.cuttable,
        )
        self._ids = iter(range(1, 1 << 30))

    def _note_outputs(self) -> None:
        """`outputs`: the tokens of every row that has begun to decode, by request and choice; they grow with the row."""
        self.outputs: dict[tuple[int, int], list[int]] = {}
        make = self.engine._prefiller._sequence

        def note(*args: Any) -> Sequence:
            row = make(*args)
            self.outputs[row.request_id, row.choice] = row.output
            return row

        self.engine._prefiller._sequence = note  # type: ignore[assignment, method-assign]

    def submit(self, request: GenerationRequest) -> int:
        request_id = next(self._ids)
        self.inbox.put(self.tokenizing.prepare(request_id, request))
        return request_id

    def tokens(self, ids: list[int], **fields: Any) -> int:
        fields.setdefault("sampling", GREEDY)
        return self.submit(GenerationRequest(prompt=TokenPrompt(ids=tuple(ids)), **fields))

    def cancel(self, request_id: int) -> None:
        self.inbox.put(Cancel(request_id))

    def turn(self, count: int = 1) -> None:
        for _ in range(count):
            self.engine.turn(wait=False)

    def run(self) -> None:
        """Until nothing is left to do."""
        for _ in range(100_000):
            self.turn()
            if self.engine.idle:
                return
        raise AssertionError("the engine does not come to rest")

    def answers(self) -> dict[tuple[int, int], Answer]:
        """By request and choice."""
        answers: dict[tuple[int, int], Answer] = defaultdict(Answer)
        for event in self.recorder.events:
            if isinstance(event, Delta):
                answer = answers[event.request_id, event.choice]
                assert answer.finish is None, "a delta after the last one"
                answer.text += event.text
                answer.deltas.append(event.text)
                answer.tokens += event.tokens
                answer.logprobs += event.logprobs
                answer.finish, answer.stop = event.finish, event.stop
                answer.output = self.outputs.get((event.request_id, event.choice), [])
        return dict(answers)

    def failures(self) -> dict[int, Failure]:
        return {event.request_id: event.failure for event in self.recorder.events if isinstance(event, Failed)}

    def started(self) -> dict[int, Started]:
        return {event.request_id: event for event in self.recorder.events if isinstance(event, Started)}


def load(folder: Path, **options: Any) -> loader.LoadedModel:
    return loader.load(folder, LoadOptions(log_name="test", **options), lambda fraction: None)
