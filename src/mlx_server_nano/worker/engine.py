"""The engine loop: continuous batching on one thread, the only one that touches MLX.

A turn: take in what came; settle the batch and launch every group's forward pass; only then read the tokens of the last
step, which the device has finished by now; sample; work on prompts within the budget; post what there is to say. So the
device always has a step to run while the host looks at the last one's tokens and computes the masks of grammars."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from collections.abc import Sequence as Rows
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from mlx_server_nano.errors import Failure, ServerError, log_fault
from mlx_server_nano.protocol import Allow, Cancel, Event, Failed, LoadOptions, Step, Unload
from mlx_server_nano.types import TokenLogprob
from mlx_server_nano.worker import memory
from mlx_server_nano.worker.admission import Admission
from mlx_server_nano.worker.batch import Batch
from mlx_server_nano.worker.channel import Channel, Inbox
from mlx_server_nano.worker.compiled import CompiledStep, Compiles
from mlx_server_nano.worker.disk import Fetched, Written, disk_tier
from mlx_server_nano.worker.draft_model import DraftModel
from mlx_server_nano.worker.drafts import Drafts
from mlx_server_nano.worker.embedder import Embedder, EmbeddingTask
from mlx_server_nano.worker.grammar import Masks
from mlx_server_nano.worker.group import Group, Row
from mlx_server_nano.worker.launched import LaunchedPass, LaunchedStep
from mlx_server_nano.worker.loader import LoadedModel
from mlx_server_nano.worker.logprobs import LogprobReader
from mlx_server_nano.worker.prefiller import Prefiller
from mlx_server_nano.worker.questions import Outcome
from mlx_server_nano.worker.ranks import ALONE, Ranks
from mlx_server_nano.worker.reuse import Reuse
from mlx_server_nano.worker.scheduler import Prefill, Prepared
from mlx_server_nano.worker.sequence import Sequence, joined
from mlx_server_nano.worker.speculate import Speculator
from mlx_server_nano.worker.trial import trial, tried_out

if TYPE_CHECKING:
    from mlx_server_nano.worker.distributed import Follower

_LOG = logging.getLogger(__name__)

_CLEAR_EVERY = 256
_WEIGH_EVERY = 16

Incoming = Outcome | Cancel | Allow | Unload | Written | Fetched


class Engine:
    def __init__(
        self,
        loaded: LoadedModel,
        options: LoadOptions,
        channel: Channel | Follower,
        inbox: Inbox[Incoming],
        draft_model: DraftModel | None = None,
        *,
        compiled: CompiledStep | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """compiled: how to compile steps, where that is not to be found out."""
        self._ranks = ranks
        self._loaded = loaded
        self._options = options
        self._channel = channel
        self._inbox = inbox
        disk = disk_tier(loaded, options, inbox.put)
        self._admission = Admission(loaded.row_cost, loaded.info.context_length, mx.get_active_memory, ranks)
        self._reuse = Reuse(loaded.new_caches, memory.prefix_budget(options.prefix_cache_bytes), disk, ranks)
        self._compiled = compiled or CompiledStep(loaded.model, Compiles())
        settled = compiled is not None or ranks.several  # what a trial measures differs between machines
        portions = trial(loaded.model, loaded.new_caches, batchable=loaded.info.batchable)
        self._trial = None if settled else tried_out(self._compiled, portions, self._admission)
        self._batch = Batch(
            loaded.model,
            self._reuse,
            self._admission,
            vocab_size=loaded.info.vocab_size,
            batchable=loaded.info.batchable,
            verifies=loaded.verifies,
            joins=loaded.joins,
            padding_limit=ranks.agree(loaded.padding_limit),
            compiled=self._compiled,
            ranks=ranks,
        )
        self._masks = Masks(loaded.grammars.vocab_size)
        self._speculator = Speculator(enabled=options.speculation, model=draft_model)
        self._prefiller = Prefiller(
            loaded, self._reuse, self._admission, options.max_rows, ranks, speculates=self._speculator.enabled
        )
        self._embedder = Embedder(
            loaded.model, loaded.full_caches, loaded.embedding, free_memory=self._reuse.free, ranks=ranks
        )
        self._joining: list[Row] = []
        self._interrupted: list[Sequence] = []
        self._launched: list[LaunchedStep] = []
        self._events: list[Event] = []
        self._turns = 0
        self._kv_bytes = 0
        self._quiet = 0
        self._unload: Unload | None = None

    def run(self) -> None:
        """Until the gateway unloads the model, or the process ends: see `Channel`."""
        while self._unload is None:
            # Nothing is tried out before the request that the model was loaded for.
            trying = self._trial is not None and self._turns > 0
            self.turn(wait=self.idle and not self._reuse.leaving and not trying)
        self._reuse.close(self._unload.seconds)

    @property
    def idle(self) -> bool:
        working = self._joining or self._launched or self._batch.rows
        return self._prefiller.idle and self._embedder.idle and not working

    def turn(self, *, wait: bool) -> None:
        for message in self._ranks.take(self._inbox, wait=wait):
            self._take_in(message)
        # Drafts go on from the last tokens, so these must be known before the next step is launched.
        first = [
            step for step in self._launched if step.drafts or self._speculator.reads_first(step.group, self._batch.rows)
        ]
        launched = self._launched
        self._launched = [step for step in launched if step not in first]
        self._read(first)
        passes = list(self._launch())
        self._read(self._launched)
        self._note_duration(launched if self._quiet > 1 else [], ahead=not first)
        del launched, first  # what they hold is to be free when this turn is the last
        self._launched = [step for launch in passes if (step := self._complete(launch)) is not None]
        self._resume_interrupted()
        # Before the prefill, which may take as long as several steps.
        self._post()
        decoding = self._decoding()
        budget = self._options.busy_prefill_chunk if decoding else self._options.prefill_chunk
        only_decoding = self._prefiller.idle and self._embedder.idle
        if not only_decoding:
            self._prefill(decoding, budget)
            self._events += self._embedder.step(budget)
        only_decoding &= not self._speculator.prepare(self._batch.groups, budget, self._has_room)
        self._quiet = self._quiet + 1 if only_decoding else 0
        self._reuse.step()
        if self.idle and self._trial is not None and next(self._trial, True):
            self._trial = None
        self._turns += 1
        if self.idle or self._turns % _CLEAR_EVERY == 0 or self._admission.short(mx.get_cache_memory()) > 0:
            mx.clear_cache()
        self._post(at_rest=self.idle)

    def _take_in(self, message: Incoming) -> None:
        if isinstance(message, Prepared):
            if not self._reuse.fetch(message):
                self._add(message)
        elif isinstance(message, Fetched):
            for prepared in self._reuse.take_in(message):
                self._add(prepared)
        elif isinstance(message, Unload):
            self._unload = message
        elif isinstance(message, Cancel):
            self._cancel(message.request_id)
        elif isinstance(message, Allow):
            self._admission.limit = message.memory_bytes
        elif isinstance(message, EmbeddingTask):
            self._embedder.add(message)
        elif isinstance(message, Written):
            pass  # it was to wake the loop
        elif isinstance(message, tuple):
            self._events.append(Failed(*message))
        else:
            self._events.append(message)

    def _add(self, prepared: Prepared) -> None:
        try:
            self._prefiller.add(prepared)
        except ServerError as error:
            self._events.append(Failed(prepared.request_id, error.to_failure()))

    def _cancel(self, request_id: int) -> None:
        self._embedder.cancel(request_id)
        self._reuse.cancel(request_id)
        self._prefiller.cancel(request_id)
        for sequence in self._sequences():
            if sequence.request_id == request_id:
                sequence.cancelled = True
        # A step in flight is read only for rows that are not done, so the cancelled ones get nothing more.
        self._events = [event for event in self._events if event.request_id != request_id]

    def _sequences(self) -> Iterator[Sequence]:
        yield from (row.sequence for row in self._joining)
        yield from self._interrupted
        for group in self._batch.groups:
            yield from group.sequences
        for launched in self._launched:
            yield from launched.sequences

    def _decoding(self) -> list[Sequence]:
        joined = [sequence for group in self._batch.groups for sequence in group.sequences]
        return [sequence for sequence in [*joined, *(row.sequence for row in self._joining)] if sequence.wants_step]

    def _launch(self) -> Iterator[LaunchedPass]:
        """A forward pass of every group, and its sampling too where no grammar waits for the last tokens."""
        joining, self._joining = self._joining, []
        self._settle(joining)
        self._make_room()
        plain = []
        for group in self._batch.due:
            try:
                drafts = self._speculator.drafts(group, self._batch.rows)
            except Exception as error:
                self._fail_groups([group], error)
                continue
            if drafts is None:
                plain.append(group)
            else:
                yield from self._launch_pass([group], drafts)
        for groups in self._batch.passes(plain):
            yield from self._launch_pass(groups, None)

    def _launch_pass(self, groups: list[Group], drafts: Drafts | None) -> Iterator[LaunchedPass]:
        try:
            outputs = self._batch.forward(groups, drafts)
        except Exception as error:
            self._fail_groups(groups, error)
            return
        for group, logits in zip(groups, outputs, strict=True):
            try:
                if group.held:
                    mx.async_eval(logits)
                    yield LaunchedPass(group, logits, drafts, None)
                else:
                    yield LaunchedPass(group, logits, drafts, self._sample(group, logits, drafts, None))
            except Exception as error:
                self._fail_groups([group], error)

    def _settle(self, joining: list[Row], *, tight: bool = False) -> None:
        """See `Batch.settle`. Where it fails, which rows' caches are whole is not known, so all are computed again."""
        groups = list(self._batch.groups)
        try:
            self._batch.settle(joining, tight=tight)
        except Exception as error:
            for row in joining:
                self._reuse.forget(row.lease)
            self._fail_groups([*groups, *self._batch.groups], error, [row.sequence for row in joining])

    def _make_room(self) -> None:
        """Before a step, memory being short: take it from the prefix cache, then from the youngest prompt or row, as long as
        there is an older one. A row alone is bounded by what fits."""
        if not self._admission.is_near(self._batch.rows):
            return
        while self._admission.short(self._growth) > 0:
            if self._reuse.evict() or self._speculator.shed():
                continue
            if self._launched:
                # With nothing on its way, what is given up is free at once.
                self._read(self._launched)
                self._launched = []
                self._settle([], tight=True)
                continue
            work: list[Sequence | Prefill] = [*self._decoding(), *self._prefiller.running]
            if len(work) < 2:
                return
            youngest = max(work, key=lambda item: item.order)
            if isinstance(youngest, Prefill):
                self._prefiller.put_back(youngest)
                continue
            _LOG.info("Memory is short: a row of %d tokens waits", len(youngest))
            youngest.paused = True
            self._settle([], tight=True)
            youngest.resume()
            self._prefiller.resume(youngest)

    @property
    def _growth(self) -> int:
        """Bytes that the next turn adds."""
        prompts = self._prefiller.growth(self._options.prefill_chunk)
        return self._batch.growth + prompts + self._speculator.growth

    def _has_room(self, need: int) -> bool:
        """Whether there is memory for this beside all that running requests have a claim on."""
        return self._admission.short(self._prefiller.owed(self._decoding()) + need) <= 0

    def _resume_interrupted(self) -> None:
        interrupted, self._interrupted = self._interrupted, []
        for sequence in interrupted:
            if not sequence.done:
                sequence.retry()
                self._prefiller.resume(sequence)

    def _complete(self, launch: LaunchedPass) -> LaunchedStep | None:
        group = launch.group
        if group not in self._batch.groups:
            return None  # its last step failed meanwhile
        if launch.step is not None:
            return launch.step
        try:
            allowed = mx.array(self._masks.fill(group.grammars, group.forced, launch.drafts))
            if launch.drafts is None:
                allowed = allowed[:, 0]
            return self._sample(group, launch.logits, launch.drafts, allowed)
        except Exception as error:
            self._fail_groups([group], error)
            return None

    def _sample(self, group: Group, logits: mx.array, drafts: Drafts | None, allowed: mx.array | None) -> LaunchedStep:
        before = [len(sequence.output) for sequence in group.sequences]
        tokens = group.sample(logits, allowed)
        logprobs = LogprobReader.of(group.sequences, logits, tokens)
        mx.async_eval(tokens, *(logprobs.arrays if logprobs else ()))
        return LaunchedStep(group, tokens, list(group.sequences), logprobs, drafts, before)

    def _read(self, steps: list[LaunchedStep]) -> None:
        for step in steps:
            try:
                if not all(sequence.done for sequence in step.sequences):
                    self._accept_step(step)
                if step.drafts is not None:
                    step.group.keep_read(step.before)
            except Exception as error:
                self._fail_groups([step.group], error, step.sequences)

    def _accept_step(self, step: LaunchedStep) -> None:
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

    def _note_duration(self, read: list[LaunchedStep], *, ahead: bool) -> None:
        """ahead: the next step was launched before these were read."""
        self._speculator.costs.mark(read[0].shape if len(read) == 1 else None, ahead=ahead)
        if self._batch.pace is not None:
            self._batch.pace.mark([step.group for step in read], ahead=ahead)

    def _prefill(self, decoding: list[Sequence], budget: int) -> None:
        self._events += self._prefiller.admit(decoding)
        for outcome in self._prefiller.work(budget, ahead=bool(self._launched)):
            if isinstance(outcome, Row):
                self._joining.append(outcome)
                continue
            if isinstance(outcome, Failed):
                self._cancel(outcome.request_id)
            self._events.append(outcome)

    def _fail_groups(self, groups: list[Group], error: Exception, sequences: Rows[Sequence] = ()) -> None:
        """A forward pass failed, or what comes between: its rows end, the others go on; if memory was short, they are computed
        again, once. Their caches may be half-written and are dropped, as is the prefix cache: it may hold arrays that hang
        on the failed pass, and if memory was short, it helps. sequences: more rows of it."""
        self._ranks.fail(error)
        held = dict.fromkeys([*sequences, *(sequence for group in groups for sequence in group.sequences)])
        # A lone row may have moved in with others since the pass was launched, and its half-written caches with it.
        moved = [other for other in self._batch.groups if not held.keys().isdisjoint(other.sequences)]
        for failed in dict.fromkeys([*groups, *moved]):
            self._batch.drop(failed)
            held |= dict.fromkeys(failed.sequences)
        rows = [sequence for sequence in held if not sequence.done and not sequence.paused]
        _LOG.error("A step of %d rows failed", len(rows), exc_info=error)
        lost = [row for row in rows if not memory.is_shortage(error) or not row.may_retry]
        # A row's next pass may have failed before this one was read.
        self._interrupted += [row for row in rows if row not in lost and row not in self._interrupted]
        self._reuse.free()
        for request_id in {row.request_id for row in lost}:
            self._fail(request_id, f"The model's forward pass failed: {error}")

    def _fail(self, request_id: int, message: str) -> None:
        self._cancel(request_id)
        self._events.append(Failed(request_id, Failure("GenerationError", message)))

    def _post(self, *, at_rest: bool = False) -> None:
        """At rest there may be nothing to say but how much memory is held now."""
        if self._events or at_rest:
            events, self._events = tuple(self._events), []
            drafted, accepted = self._speculator.take_counts()
            if at_rest or self._turns % _WEIGH_EVERY == 0:
                self._kv_bytes = self._batch.nbytes
            held, kept = memory.held_bytes(), self._reuse.nbytes
            self._channel.send(Step(events, held, drafted, accepted, self._kv_bytes, kept))
