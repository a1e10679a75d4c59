"""The engine loop: continuous batching on one thread, the only one that touches MLX.

A turn: take in what came; settle the batch and launch every group's forward pass; only then read the tokens of the last
step, which the device has finished by now; sample; work on prompts within the budget; post what there is to say. So the
device always has a step to run while the host looks at the last one's tokens and computes the masks of grammars."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_server_nano.errors import Failure, GenerationError, ServerError, log_fault
from mlx_server_nano.protocol import Cancel, Delta, Echo, Event, Failed, LoadOptions, Started, Step, Unload
from mlx_server_nano.types import FinishReason, TextPrompt, TokenLogprob
from mlx_server_nano.worker import memory, slots
from mlx_server_nano.worker.channel import Channel, Inbox
from mlx_server_nano.worker.costs import Shape
from mlx_server_nano.worker.detokenizer import make_detokenizer
from mlx_server_nano.worker.disk import Fetched, Written, disk_tier
from mlx_server_nano.worker.drafts import Drafts
from mlx_server_nano.worker.embedder import Embedder, EmbeddingTask
from mlx_server_nano.worker.grammar import Masks
from mlx_server_nano.worker.group import Batch, Group, Row
from mlx_server_nano.worker.loader import LoadedModel
from mlx_server_nano.worker.logprobs import LogprobReader
from mlx_server_nano.worker.ngram import PromptIndex
from mlx_server_nano.worker.questions import Outcome
from mlx_server_nano.worker.reuse import Reuse
from mlx_server_nano.worker.scheduler import Prefill, Prepared, Scheduler
from mlx_server_nano.worker.sequence import Sequence, joined
from mlx_server_nano.worker.speculate import Speculator

_LOG = logging.getLogger(__name__)

_PADDING_BYTES = 256 << 20
_CLEAR_EVERY = 256
_SCORED_LOGITS = 1 << 25  # of a prompt, at a time: 128 MB in single precision

Incoming = Outcome | Cancel | Unload | Written | Fetched


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """A step on its way: tokens `[rows]`, lazy, for these sequences; `[rows, width]` where it verifies drafts. before: the
    length of each row's output when it was launched."""

    group: Group
    tokens: mx.array
    sequences: list[Sequence]
    logprobs: LogprobReader | None
    drafts: Drafts | None
    before: list[int]

    @property
    def shape(self) -> Shape:
        return Shape(len(self.sequences), self.drafts.width if self.drafts else 1)


@dataclass(frozen=True, slots=True)
class _Pass:
    """A forward pass on its way; its step waits for the last tokens if a grammar does."""

    group: Group
    logits: mx.array
    drafts: Drafts | None
    step: _Step | None


class Engine:
    def __init__(self, loaded: LoadedModel, options: LoadOptions, channel: Channel, inbox: Inbox[Incoming]) -> None:
        self._loaded = loaded
        self._options = options
        self._channel = channel
        self._inbox = inbox
        self._scheduler = Scheduler(options.max_rows)
        per_token = loaded.kv_bytes_per_token or 1
        disk = disk_tier(loaded, options, inbox.put)
        self._reuse = Reuse(loaded.new_caches, memory.prefix_budget(options.prefix_cache_bytes), disk)
        self._batch = Batch(
            loaded.model,
            self._reuse,
            vocab_size=loaded.info.vocab_size,
            batchable=loaded.info.batchable,
            verifies=loaded.verifies,
            padding_limit=max(loaded.info.weights_bytes, _PADDING_BYTES) // per_token,
        )
        self._masks = Masks(loaded.grammars.vocab_size)
        self._speculator = Speculator(enabled=options.speculation)
        self._embedder = Embedder(loaded.model, loaded.new_caches, loaded.embedding)
        self._joining: list[Row] = []
        self._launched: list[_Step] = []
        self._events: list[Event] = []
        self._turns = 0
        self._only_decoding = False
        self._unload: Unload | None = None

    def run(self) -> None:
        """Until the gateway unloads the model, or the process ends: see `Channel`."""
        while self._unload is None:
            self.turn(wait=self.idle and not self._reuse.leaving)
        self._reuse.close(self._unload.seconds)

    @property
    def idle(self) -> bool:
        working = self._joining or self._launched or self._batch.rows
        return self._scheduler.idle and self._embedder.idle and not working

    def turn(self, *, wait: bool) -> None:
        for message in self._inbox.take(wait=wait):
            self._take_in(message)
        # Drafts go on from the last tokens, so these must be known before the next step is launched.
        first = [step for step in self._launched if step.drafts is not None or self._hopes(step.group)]
        self._read(first)
        passes = list(self._launch())
        self._read([step for step in self._launched if step not in first])
        self._note_duration(ahead=not first)
        self._launched = [step for launch in passes if (step := self._complete(launch)) is not None]
        # Before the prefill, which may take as long as several steps.
        self._post()
        decoding = self._batch.rows + sum(1 for row in self._joining if row.sequence.wants_step)
        budget = self._options.busy_prefill_chunk if decoding else self._options.prefill_chunk
        self._only_decoding = self._scheduler.idle and self._embedder.idle
        self._prefill(decoding, budget)
        self._embed(budget)
        self._reuse.step()
        self._turns += 1
        if self.idle or self._turns % _CLEAR_EVERY == 0:
            mx.clear_cache()
        self._post(at_rest=self.idle)

    def _take_in(self, message: Incoming) -> None:
        if isinstance(message, Prepared):
            if not self._reuse.fetch(message):
                self._scheduler.add(message)
        elif isinstance(message, Fetched):
            for prepared in self._reuse.take_in(message):
                self._scheduler.add(prepared)
        elif isinstance(message, Unload):
            self._unload = message
        elif isinstance(message, Cancel):
            self._cancel(message.request_id)
        elif isinstance(message, EmbeddingTask):
            self._embedder.add(message)
        elif isinstance(message, Written):
            pass  # it was to wake the loop
        elif isinstance(message, tuple):
            self._events.append(Failed(*message))
        else:
            self._events.append(message)

    def _cancel(self, request_id: int) -> None:
        self._embedder.cancel(request_id)
        self._reuse.cancel(request_id)
        prefill = self._scheduler.cancel(request_id)
        if prefill is not None:
            done = prefill.prepared.ids[: prefill.done]
            self._reuse.finish(prefill.lease, done, lambda: prefill.caches)
        for sequence in self._sequences():
            if sequence.request_id == request_id:
                sequence.cancelled = True
        # A step in flight is read only for rows that are not done, so the cancelled ones get nothing more.
        self._events = [event for event in self._events if event.request_id != request_id]

    def _sequences(self) -> Iterator[Sequence]:
        yield from (row.sequence for row in self._joining)
        for group in self._batch.groups:
            yield from group.sequences
        for launched in self._launched:
            yield from launched.sequences

    def _launch(self) -> Iterator[_Pass]:
        """Every group's forward pass, and its sampling too where no grammar waits for the last tokens."""
        joining, self._joining = self._joining, []
        self._batch.settle(joining)
        for group in list(self._batch.groups):
            try:
                drafts = self._speculator.drafts(group, self._batch.rows)
                logits = group.forward(drafts)
                if group.held:
                    mx.async_eval(logits)
                    yield _Pass(group, logits, drafts, None)
                else:
                    yield _Pass(group, logits, drafts, self._sample(group, logits, drafts, None))
            except Exception as error:
                self._fail_group(group, group.sequences, error)

    def _complete(self, launch: _Pass) -> _Step | None:
        if launch.step is not None:
            return launch.step
        group = launch.group
        try:
            allowed = mx.array(self._masks.fill(group.grammars, group.forced, launch.drafts))
            if launch.drafts is None:
                allowed = allowed[:, 0]
            return self._sample(group, launch.logits, launch.drafts, allowed)
        except Exception as error:
            self._fail_group(group, group.sequences, error)
            return None

    def _sample(self, group: Group, logits: mx.array, drafts: Drafts | None, allowed: mx.array | None) -> _Step:
        before = [len(sequence.output) for sequence in group.sequences]
        tokens = group.sample(logits, allowed)
        logprobs = LogprobReader.of(group.sequences, logits, tokens)
        mx.async_eval(tokens, *(logprobs.arrays if logprobs else ()))
        return _Step(group, tokens, list(group.sequences), logprobs, drafts, before)

    def _read(self, steps: list[_Step]) -> None:
        for step in steps:
            if not all(sequence.done for sequence in step.sequences):
                try:
                    self._accept_step(step)
                except Exception as error:
                    self._fail_group(step.group, step.sequences, error)
                    continue
            if step.drafts is not None:
                step.group.keep_read(step.before)

    def _accept_step(self, step: _Step) -> None:
        read: Any = step.tokens.tolist()
        logprobs = step.logprobs.read(self._loaded.vocabulary) if step.logprobs else {}
        width = step.shape.width
        for row, sequence in enumerate(step.sequences):
            tokens = [read[row]] if step.drafts is None else self._speculator.accepted(step.drafts, row, read[row])
            if not sequence.done:
                self._accept(sequence, [(token, logprobs.get(row * width + at)) for at, token in enumerate(tokens)])

    def _accept(self, sequence: Sequence, tokens: list[tuple[int, TokenLogprob | None]]) -> None:
        deltas = []
        try:
            for token, logprob in tokens:
                if not sequence.done and (delta := sequence.accept(token, logprob)) is not None:
                    deltas.append(delta)
        except Exception as error:
            log_fault(_LOG, "The host-side work of a row failed", error)
            self._fail(sequence.request_id, f"The output could not be processed: {error}")
            return
        if deltas:
            self._events.append(joined(deltas))

    def _hopes(self, group: Group) -> bool:
        return self._speculator.reads_first(group, self._batch.rows)

    def _note_duration(self, *, ahead: bool) -> None:
        """ahead: the next step was launched before the last one was read."""
        only = self._launched[0].shape if len(self._launched) == 1 and self._only_decoding else None
        self._speculator.costs.mark(only, ahead=ahead)

    def _prefill(self, decoding: int, budget: int) -> None:
        for prefill in self._scheduler.admit(decoding):
            prepared = prefill.prepared
            start = self._reuse.fresh() if prepared.scored else self._reuse.start(prepared.ids)
            prefill.caches, prefill.done, prefill.lease = start.caches, start.length, start.lease
            self._events.append(Started(prepared.request_id, len(prepared.ids), start.length, prepared.tail))
        for prefill, count in self._scheduler.plan(budget):
            try:
                self._advance(prefill, count)
            except Exception as error:
                _LOG.exception("A prefill failed")
                self._scheduler.remove(prefill)
                self._reuse.forget(prefill.lease)
                self._reuse.clear()
                self._fail(prefill.prepared.request_id, f"The prompt could not be processed: {error}")

    def _embed(self, budget: int) -> None:
        try:
            self._events += self._embedder.step(budget)
        except Exception as error:
            if not isinstance(error, ServerError):
                _LOG.exception("Embedding failed")
                error = GenerationError(f"The input could not be processed: {error}")
            self._events += [Failed(request_id, error.to_failure()) for request_id in self._embedder.drop()]

    def _advance(self, prefill: Prefill, count: int) -> None:
        prepared = prefill.prepared
        end = prefill.done + count
        while prefill.done < end:
            stop = min([end, *(at for at in prepared.branches if at > prefill.done)])
            if prepared.scored:
                stop = min(stop, prefill.done + max(1, _SCORED_LOGITS // self._loaded.info.vocab_size))
            chunk = mx.array([prepared.ids[prefill.done : stop]])
            logits = self._loaded.model(chunk, cache=prefill.caches)
            if prepared.scored:
                following = prepared.ids[prefill.done + 1 : stop + 1]
                reader = LogprobReader.of_prompt(logits[0], following, prepared.request.logprobs or 0)
                prefill.logprobs += reader.read(self._loaded.vocabulary).values()
            mx.eval([array for cache in prefill.caches for array in slots.arrays(cache)])
            prefill.done = stop
            if stop in prepared.branches:
                self._reuse.snapshot(prepared.ids[:stop], prefill.caches)
        if prefill.remaining == 0:
            self._join(prefill)
            self._scheduler.remove(prefill)
            mx.clear_cache()

    def _join(self, prefill: Prefill) -> None:
        prepared, request = prefill.prepared, prefill.prepared.request
        room = self._loaded.info.context_length - len(prepared.ids)
        caches, held = prefill.caches, prepared.ids[: prefill.done]
        self._reuse.snapshot(held, caches)
        if request.echo:
            self._events.append(self._echo(prefill))
        if request.max_tokens == 0:
            self._reuse.finish(prefill.lease, held, lambda: caches)
            for choice in range(request.first_choice, request.first_choice + request.n):
                self._events.append(Delta(prepared.request_id, choice, "", 0, finish=FinishReason.LENGTH))
            return
        prefill.lease = self._reuse.share(prefill.lease, held, caches)
        index = PromptIndex(prepared.ids) if self._speculator.enabled else None
        for choice in range(request.n):
            last = choice == request.n - 1
            sequence = Sequence(
                request_id=prepared.request_id,
                choice=request.first_choice + choice,
                prompt=prepared.ids,
                sampling=self._loaded.row_sampling(request.sampling),
                max_tokens=room if request.max_tokens is None else min(room, request.max_tokens),
                eos_ids=self._loaded.eos_ids,
                detokenizer=make_detokenizer(
                    self._loaded.tokenizer, self._loaded.vocabulary, continues_text=prepared.continues_text
                ),
                stops=request.stop,
                logprobs=request.logprobs,
                grammar=prepared.grammar.fork() if prepared.grammar else None,
                thinking=prepared.thinking.fork() if prepared.thinking else None,
                index=index,
            )
            own = caches if last else [slots.fork(cache) for cache in caches]
            token = mx.array(prepared.ids[-1:], dtype=mx.uint32)
            self._joining.append(Row(sequence, own, token, prefill.lease if last else None))

    def _echo(self, prefill: Prefill) -> Echo:
        prepared, request = prefill.prepared, prefill.prepared.request
        vocabulary = self._loaded.vocabulary
        text = request.prompt.text if isinstance(request.prompt, TextPrompt) else vocabulary.text_of(prepared.ids)
        first = vocabulary.bytes_of(prepared.ids[0]) if prepared.scored else b""
        return Echo(prepared.request_id, request.first_choice, text, first, tuple(prefill.logprobs))

    def _fail_group(self, group: Group, sequences: list[Sequence], error: Exception) -> None:
        """A forward pass failed: its rows end, the others go on. Its caches may be half-written and are dropped, as is the
        prefix cache: it may hold arrays that hang on the failed pass, and if memory was short, it helps."""
        _LOG.error("A forward pass of %d rows failed", len(sequences), exc_info=error)
        self._batch.drop(group)
        self._reuse.clear()
        for request_id in {s.request_id for s in [*sequences, *group.sequences] if not s.done}:
            self._fail(request_id, f"The model's forward pass failed: {error}")

    def _fail(self, request_id: int, message: str) -> None:
        self._cancel(request_id)
        self._events.append(Failed(request_id, Failure("GenerationError", message)))

    def _post(self, *, at_rest: bool = False) -> None:
        """At rest there may be nothing to say but how much memory is held now."""
        if self._events or at_rest:
            events, self._events = tuple(self._events), []
            drafted, accepted = self._speculator.take_counts()
            self._channel.send(Step(events, memory.held_bytes(), drafted, accepted))
