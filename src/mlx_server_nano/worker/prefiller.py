"""Prompts on their way to decoding: admitted while there is memory for them, computed in portions."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import mlx.core as mx

from mlx_server_nano.errors import Failure
from mlx_server_nano.protocol import Delta, Echo, Event, Failed, Started
from mlx_server_nano.types import FinishReason, GenerationRequest, TextPrompt, TokenPrompt
from mlx_server_nano.worker import memory, slots
from mlx_server_nano.worker.admission import Admission
from mlx_server_nano.worker.attention import plans_shapes
from mlx_server_nano.worker.detokenizer import make_detokenizer
from mlx_server_nano.worker.drafts import Verifying
from mlx_server_nano.worker.group import Row
from mlx_server_nano.worker.loader import LoadedModel
from mlx_server_nano.worker.logprobs import LogprobReader
from mlx_server_nano.worker.ngram import PromptIndex
from mlx_server_nano.worker.ranks import ALONE, Ranks
from mlx_server_nano.worker.reuse import Found, Reuse
from mlx_server_nano.worker.scheduler import Prefill, Prepared, Scheduler
from mlx_server_nano.worker.sequence import Sequence

_LOG = logging.getLogger(__name__)

_WORTH_WAITING = 256  # tokens
_SCORED_LOGITS = 1 << 25  # of a prompt, at a time: 128 MB in single precision
# Free buffers that MLX may keep when a prompt is through, in bytes and as a share of the weights: allocating them anew for each
# of many short prompts holds up all that decode.
_MOST_SPARE = 1 << 30
_SPARE_SHARE = 4
# Tokens that a prompt may be padded by in any case, to share a pass; the same where a pass takes as long for hundreds more.
_PADDING = 16
_PADDING_OF_FEW_WIDTHS = 256
_MEASURE_EVERY = 8
# MLX's CUDA build makes a graph of a pass anew for every width that it has not seen, which takes as long as several passes: there
# prompts are padded to few widths.
_WIDTHS = ((512, 64), (1 << 62, 256))  # up to so many tokens, to a multiple of this


class Prefiller:
    def __init__(
        self,
        loaded: LoadedModel,
        reuse: Reuse,
        admission: Admission,
        max_rows: int,
        ranks: Ranks = ALONE,
        *,
        speculates: bool,
    ) -> None:
        self._loaded = loaded
        self._reuse = reuse
        self._admission = admission
        self._scheduler = Scheduler(max_rows)
        self._ranks = ranks
        self._speculates = speculates
        # Tokens that pad a prompt can be cut off again.
        self._shares = loaded.verifies is Verifying.ALL
        self._pads = self._shares and plans_shapes()
        self._measured = 0
        self._unmeasured = 0

    @property
    def idle(self) -> bool:
        return self._scheduler.idle

    @property
    def running(self) -> list[Prefill]:
        """The prompts that are worked on."""
        return self._scheduler.prefills

    def growth(self, budget: int) -> int:
        """Bytes that the next portions of the prompts at work need at most."""
        running = self.running
        return sum(self._admission.for_more(prefill.done, min(prefill.remaining, budget)) for prefill in running)

    def add(self, prepared: Prepared) -> None:
        """Raises ContextLengthError if memory never suffices for the prompt."""
        self._admission.check(len(prepared.ids))
        self._scheduler.add(prepared)

    def resume(self, row: Sequence) -> None:
        """Compute a row again that gave up its caches; it goes on decoding after that."""
        request = GenerationRequest(prompt=TokenPrompt(ids=()))
        ids = row.prompt + row.output
        prepared = Prepared(request_id=row.request_id, request=request, ids=ids, tail="", continues_text=True)
        self._scheduler.put_back(Prefill(prepared, row, announced=True))

    def put_back(self, prefill: Prefill) -> None:
        """Give the memory of a prompt back; it begins anew when there is room."""
        self._reuse.forget(prefill.lease)
        prefill.restart()
        self._scheduler.put_back(prefill)

    def cancel(self, request_id: int) -> None:
        for prefill in self._scheduler.cancel(request_id):
            done, caches = prefill.prepared.ids[: prefill.done], prefill.caches
            self._reuse.finish(prefill.lease, done, lambda caches=caches: caches)  # type: ignore[misc]

    def admit(self, decoding: list[Sequence]) -> Iterator[Event]:
        """Begin with prompts that there is room for beside these rows."""
        owed = self.owed(decoding)

        def fits(prefill: Prefill) -> bool:
            nonlocal owed
            found = self._found(prefill)
            owed += self._need(prefill, found.length if found is not None and found.moves else 0)
            return self._reuse.make_room(partial(self._admission.short, owed), found)

        for prefill in self._scheduler.admit(len(decoding), fits, self._begin, self._defers):
            if not prefill.announced:
                prefill.announced = True
                prepared = prefill.prepared
                yield Started(prepared.request_id, len(prepared.ids), prefill.done, prepared.tail)

    def owed(self, decoding: list[Sequence]) -> int:
        """Bytes that these rows and the prompts at work have a claim on beyond what they have."""
        rows = sum(self._admission.to_go_on(len(row), row.max_tokens - row.launched) for row in decoding)
        return rows + sum(self._need(prefill, prefill.done) for prefill in self.running)

    def _begin(self, prefill: Prefill) -> None:
        prepared = prefill.prepared
        start = self._reuse.fresh() if prepared.scored else self._reuse.start(prepared.ids)
        prefill.caches, prefill.done, prefill.lease = start.caches, start.length, start.lease

    def _found(self, prefill: Prefill) -> Found | None:
        return None if prefill.prepared.scored else self._reuse.find(prefill.prepared.ids)

    def _defers(self, prefill: Prefill) -> bool:
        """Whether a prompt at work has most of what this one would compute: then it is worth waiting for."""
        if prefill.behind not in self.running:
            prefill.behind = self._sparing(prefill)
        return prefill.behind is not None

    def _sparing(self, prefill: Prefill) -> Prefill | None:
        if prefill.prepared.scored or not self.running:
            return None
        found = self._found(prefill)
        held = found.length if found is not None else 0
        for other in self.running:
            spared = self._reuse.will_share(other.prepared, prefill.prepared.ids) - held
            if spared >= max(_WORTH_WAITING, other.remaining // 2):
                return other
        return None

    def _need(self, prefill: Prefill, held: int) -> int:
        prepared, request = prefill.prepared, prefill.prepared.request
        answer = request.max_tokens if prefill.row is None else prefill.row.max_tokens - prefill.row.launched
        return self._admission.to_begin(len(prepared.ids), answer, request.n, held)

    def work(self, budget: int, *, ahead: bool) -> Iterator[Event | Row]:
        """Compute portions, `budget` tokens together. Gives rows that are ready to decode, and Failed for what went wrong. ahead:
        a step is on its way, and is read before there are more portions: these need not be waited for here."""
        plan = [(prefill, prefill.done + count) for prefill, count in self._scheduler.plan(budget)]
        for portions in self._shared(plan):
            self._advance_together(portions, ahead)
        for prefill, end in plan:
            if prefill not in self.running:
                continue  # its request has just failed with another of its prompts, a row that is computed again
            try:
                yield from self._advance(prefill, end, ahead)
            except Exception as error:
                self._ranks.fail(error)
                self._reuse.forget(prefill.lease)
                self._reuse.clear()
                if memory.is_shortage(error) and not prefill.retried:
                    _LOG.warning("Memory ran out in a prefill, which begins anew: %s", error)
                    prefill.retried, prefill.lease = True, None
                    self.put_back(prefill)
                    mx.clear_cache()
                    continue
                _LOG.exception("A prefill failed")
                self._scheduler.remove(prefill)
                failure = Failure("GenerationError", f"The prompt could not be processed: {error}")
                yield Failed(prefill.prepared.request_id, failure)

    def _shared(self, plan: list[tuple[Prefill, int]]) -> Iterator[list[tuple[Prefill, int]]]:
        """Beginnings of prompts that go through the model in one pass: so its weights are read once, and the host builds one
        graph. They are of like length, as all are padded to the longest."""
        fresh = [
            (prefill, end)
            for prefill, end in plan
            if self._shares and prefill.done == 0 < end and not prefill.prepared.scored
        ]
        fresh.sort(key=lambda portion: -portion[1])
        padding = _PADDING_OF_FEW_WIDTHS if self._pads else _PADDING
        while fresh:
            width = fresh[0][1]
            portions = [(prefill, end) for prefill, end in fresh if width - end <= max(padding, end // 4)]
            fresh = fresh[len(portions) :]
            if len(portions) > 1:
                yield portions

    def _advance_together(self, portions: list[tuple[Prefill, int]], ahead: bool) -> None:
        """One pass; where it fails, each prompt is left to a pass of its own."""
        width = self._width(portions[0][1])
        shared = self._loaded.new_caches()
        ids = [[*prefill.prepared.ids[:end], *[0] * (width - end)] for prefill, end in portions]
        mx.reset_peak_memory()
        try:
            self._loaded.model(mx.array(ids), cache=shared)
            # Copied, as a part of an array holds all of it.
            own = [[slots.cut_copy(cache, end, row) for cache in shared] for row, (_, end) in enumerate(portions)]
            del shared
            self._evaluate([cache for caches in own for cache in caches], len(portions) * width**2, ahead)
        except Exception as error:
            self._ranks.fail(error)
            _LOG.warning("%d prompts take passes of their own, as one for all failed: %s", len(portions), error)
            return
        for (prefill, end), caches in zip(portions, own, strict=True):
            prefill.caches, prefill.done = caches, end

    def _width(self, count: int) -> int:
        """Of a pass over so many tokens of a prompt."""
        if not self._pads:
            return count
        step = next(step for most, step in _WIDTHS if count <= most)
        return -(-count // step) * step

    def _evaluate(self, caches: list[Any], size: int, ahead: bool) -> bool:
        """Have the pass computed that these caches come from. Gives whether it is through. size: key positions that its tokens
        read, by which the memory goes that it takes beside them. That is measured where the pass is larger than what has been,
        and now and then."""
        arrays = [array for cache in caches for array in slots.arrays(cache)]
        if ahead and size <= self._measured and self._unmeasured < _MEASURE_EVERY:
            self._unmeasured += 1
            mx.async_eval(arrays)
            return False
        mx.eval(arrays)
        self._admission.note_workspace(mx.get_peak_memory() - mx.get_active_memory())
        self._measured, self._unmeasured = max(size, self._measured // 2), 0
        return True

    def _advance(self, prefill: Prefill, end: int, ahead: bool) -> Iterator[Event | Row]:
        prepared = prefill.prepared
        while prefill.done < end:
            stop = min([end, *(at for at in prepared.branches if at > prefill.done)])
            if prepared.scored:
                stop = min(stop, prefill.done + max(1, _SCORED_LOGITS // self._loaded.info.vocab_size))
            mx.reset_peak_memory()
            began = time.perf_counter()
            count = stop - prefill.done
            padding = 0 if prepared.scored else self._width(count) - count
            chunk = mx.array([[*prepared.ids[prefill.done : stop], *[0] * padding]])
            logits = self._loaded.model(chunk, cache=prefill.caches)
            for cache in prefill.caches if padding else ():
                slots.cut(cache, stop)
            if prepared.scored:
                following = prepared.ids[prefill.done + 1 : stop + 1]
                reader = LogprobReader.of_prompt(logits[0], following, prepared.request.logprobs or 0)
                prefill.logprobs += reader.read(self._loaded.vocabulary).values()
            if self._evaluate(prefill.caches, count * stop, ahead):
                self._reuse.computed(prefill.done, stop, time.perf_counter() - began)
            prefill.done = stop
            if stop in prepared.branches:
                self._reuse.snapshot(prepared.ids[:stop], prefill.caches)
        if prefill.remaining == 0:
            yield from self._finish(prefill)
            self._scheduler.remove(prefill)
            if mx.get_cache_memory() > max(_MOST_SPARE, self._loaded.info.weights_bytes // _SPARE_SHARE):
                mx.clear_cache()

    def _finish(self, prefill: Prefill) -> Iterator[Event | Row]:
        """The rows of a prompt that is through."""
        prepared, request = prefill.prepared, prefill.prepared.request
        caches, held = prefill.caches, prepared.ids[: prefill.done]
        self._reuse.snapshot(held, caches)
        if request.echo:
            yield self._echo(prefill)
        if request.max_tokens == 0:
            self._reuse.finish(prefill.lease, held, lambda: caches)
            for choice in range(request.first_choice, request.first_choice + request.n):
                yield Delta(prepared.request_id, choice, "", 0, finish=FinishReason.LENGTH)
            return
        prefill.lease = self._reuse.share(prefill.lease, held, caches)
        if prefill.row is not None:
            sequences = [prefill.row]
        else:
            index = PromptIndex(prepared.ids) if self._speculates else None
            sequences = [self._sequence(prepared, choice, index) for choice in range(request.n)]
        for sequence in sequences:
            last = sequence is sequences[-1]
            own = caches if last else [slots.fork(cache) for cache in caches]
            token = mx.array(prepared.ids[-1:], dtype=mx.uint32)
            yield Row(sequence, own, token, prefill.lease if last else None)

    def _sequence(self, prepared: Prepared, choice: int, index: PromptIndex | None) -> Sequence:
        request = prepared.request
        room = max(1, self._admission.context_length - len(prepared.ids))
        return Sequence(
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

    def _echo(self, prefill: Prefill) -> Echo:
        prepared, request = prefill.prepared, prefill.prepared.request
        vocabulary = self._loaded.vocabulary
        text = request.prompt.text if isinstance(request.prompt, TextPrompt) else vocabulary.text_of(prepared.ids)
        first = vocabulary.bytes_of(prepared.ids[0]) if prepared.scored else b""
        return Echo(prepared.request_id, request.first_choice, text, first, tuple(prefill.logprobs))
