"""What rows of different length cost each other, in memory and in time: without prompts, HTTP or processes.

    python -m benchmarks.memory --kv-bits 8,4

Rows get caches of random content, so that a row of 32,000 tokens takes no time to make."""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import mlx.core as mx

from benchmarks.random_model import Shape, make
from mlx_server_nano.protocol import LoadOptions
from mlx_server_nano.types import Sampling
from mlx_server_nano.worker import loader, slots
from mlx_server_nano.worker.admission import Admission
from mlx_server_nano.worker.batch import Batch
from mlx_server_nano.worker.detokenizer import make_detokenizer
from mlx_server_nano.worker.group import Row
from mlx_server_nano.worker.loader import LoadedModel
from mlx_server_nano.worker.reuse import Reuse
from mlx_server_nano.worker.sequence import Sequence

# Eight heads of keys and values: padding is expensive beside these weights, as it is with a large model's.
_SHAPE = Shape(128, 4, 384, 8, 8, 64, True, 1_024)
_STEPS = 40
_PACED_STEPS = 200


class Rows:
    """A batch as the engine runs it, without a prefix cache; every row decodes until it is told to leave."""

    def __init__(self, loaded: LoadedModel, room: int | None = None) -> None:
        """room: bytes that there are for the rows; None: plenty."""
        self._loaded = loaded
        mx.clear_cache()
        self._before = mx.get_active_memory()
        admission = Admission(loaded.row_cost, loaded.info.context_length, mx.get_active_memory)
        if room is not None:
            admission.limit = self._before + self._before // 16 + room
        self._batch = Batch(
            loaded.model,
            Reuse(loaded.new_caches, 0),
            admission,
            vocab_size=loaded.info.vocab_size,
            batchable=loaded.info.batchable,
            verifies=loaded.verifies,
            joins=loaded.joins,
            padding_limit=loaded.padding_limit,
        )

    def join(self, lengths: Iterable[int]) -> list[Sequence]:
        rows = [self._row(length) for length in lengths]
        self._batch.settle(rows)
        self.step()
        return [row.sequence for row in rows]

    def keep_pace(self) -> None:
        """From now on, every row takes every step."""
        self._batch.pace = None

    def leave(self, sequence: Sequence) -> None:
        sequence.cancelled = True
        self._batch.settle([])
        self.step()

    def step(self) -> None:
        due = self._batch.due
        for groups in self._batch.passes(due):
            outputs = self._batch.forward(groups)
            mx.eval([group.sample(logits) for group, logits in zip(groups, outputs, strict=True)])
        if self._batch.pace is not None:
            self._batch.pace.mark(due, ahead=True)

    def step_time(self, steps: int = _STEPS) -> float:
        """Median seconds of a step of all rows."""
        times = []
        for _ in range(steps):
            started = time.perf_counter()
            self.step()
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    @property
    def held(self) -> int:
        return mx.get_active_memory() - self._before

    def _row(self, length: int) -> Row:
        caches = self._loaded.new_caches()
        shape = (1, _SHAPE.kv_heads, length, _SHAPE.head_dim)
        dtype = self._loaded.model.model.embed_tokens.weight.dtype
        for cache in caches:
            cache.update_and_fetch(mx.random.normal(shape, dtype), mx.random.normal(shape, dtype))
            mx.eval(slots.arrays(cache))
        sequence = Sequence(
            request_id=0,
            choice=0,
            prompt=[5] * (length + 1),
            sampling=self._loaded.row_sampling(Sampling(temperature=0)),
            max_tokens=1 << 20,
            eos_ids=frozenset(),
            detokenizer=make_detokenizer(self._loaded.tokenizer, self._loaded.vocabulary, continues_text=True),
            stops=(),
            logprobs=None,
        )
        return Row(sequence, caches, mx.array([5], dtype=mx.uint32))


def held_ratio(loaded: LoadedModel, room: float | None = None) -> float:
    """KV memory of one row of 8,192 tokens and seven of 16, beside what their tokens take. room: memory for so many times
    that."""
    ideal = loaded.row_cost(8193) + 7 * loaded.row_cost(17)
    rows = Rows(loaded, None if room is None else int(room * ideal))
    rows.join([8192, *[16] * 7])
    return rows.held / ideal


def copied_ratio(loaded: LoadedModel) -> tuple[float, float]:
    """Memory that a join and a leave take for a moment, beside that of the five rows that are there."""
    rows = Rows(loaded)
    rows.join([2000] * 5)

    def taken(change: Callable[[], object]) -> float:
        held, before = rows.held, mx.get_active_memory()
        mx.reset_peak_memory()
        change()
        return (mx.get_peak_memory() - before) / held

    newcomers: list[Sequence] = []
    join = taken(lambda: newcomers.extend(rows.join([20])))
    return join, taken(lambda: rows.leave(newcomers[0]))


def shared_pass_ratio(loaded: LoadedModel) -> float:
    """Step time of one row of 8,192 tokens and seven of 16 in one pass, divided by what it takes where groups can't share one."""
    shared, apart = Rows(loaded), Rows(dataclasses.replace(loaded, joins=False))
    for rows in (shared, apart):
        rows.join([8192, *[16] * 7])
        rows.keep_pace()
    # In turn, as other work on the machine comes and goes.
    times = [(shared.step_time(1), apart.step_time(1)) for _ in range(_STEPS)]
    return statistics.median(one / other for one, other in times)


def speed_ratios(loaded: LoadedModel) -> tuple[float, float]:
    """Time per token of a row of 64 tokens beside one of 32,000, divided by its own alone; the same of the long one."""
    short, long, both = Rows(loaded), Rows(loaded), Rows(loaded)
    short.join([64])
    long.join([32_000])
    rows = both.join([64, 32_000])
    both.step_time()  # finds the pace
    before = [len(row) for row in rows]
    started = time.perf_counter()
    for _ in range(_PACED_STEPS):
        both.step()
    seconds = time.perf_counter() - started
    each = [seconds / (len(row) - length) for row, length in zip(rows, before, strict=True)]
    return each[0] / short.step_time(), each[1] / long.step_time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--kv-bits", default="8,4", type=lambda text: [int(n) for n in text.split(",")])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), _SHAPE, dtype=given.dtype)

        def load(bits: int | None) -> LoadedModel:
            return loader.load(Path(folder), LoadOptions(log_name="memory", kv_bits=bits), lambda fraction: None)

        full = load(None)
        print("| | ratio |\n|---|---:|")
        mixed = "KV memory of 8,192 and seven times 16 tokens ÷ the ideal"
        print(f"| {mixed}, memory being plenty | **{held_ratio(full):.2f}** |")
        print(f"| {mixed}, with room for twice the ideal | **{held_ratio(full, 2.0):.2f}** |")
        join, leave = copied_ratio(full)
        print(f"| memory that a join takes for a moment ÷ what the other rows hold | **{join:.2f}** |")
        print(f"| the same, a leave | **{leave:.2f}** |")
        print(
            f"| step of 8,192 and seven times 16 tokens ÷ without shared passes | **{shared_pass_ratio(full):.2f}** |"
        )
        short, long = speed_ratios(full)
        print(f"| time per token of 64 tokens beside 32,000 ÷ the short row's alone | **{short:.2f}** |")
        print(f"| the same of the long row | **{long:.2f}** |")
        for bits in given.kv_bits:
            ratio = load(bits).row_cost.per_token / full.row_cost.per_token
            print(f"| bytes of a token with `--kv-bits {bits}` ÷ {given.dtype} | **{ratio:.2f}** |")


if __name__ == "__main__":
    main()
