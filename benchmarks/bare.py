"""mlx-lm's own loops without a server: `stream_generate` for one sequence, `BatchGenerator` for a full batch.

`python -m benchmarks.bare` takes a `BareJob` and gives a `BareReport`; it runs in a process of its own, so that nothing
shares its interpreter lock."""

from __future__ import annotations

import copy
import time
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_map
from mlx_lm import load, stream_generate
from mlx_lm.generate import BatchGenerator

from benchmarks import jobs, prompts
from benchmarks.figures import Answer
from benchmarks.jobs import BareJob, BareReport

_WARM_UP_TOKENS = 8


def untouched(module: Any) -> Any:
    """A model with the same weights as one that the worker has loaded, in modules as mlx-lm makes them (see `worker.direct`)."""
    if not isinstance(module, nn.Module):
        return module
    twin = copy.copy(module)
    if vars(twin).pop("transposed", None) is not None:
        del vars(twin)["alone"]
        twin.__class__ = nn.Linear
    for name, part in module.items():
        vars(twin).pop(name, None)
        twin[name] = tree_map(untouched, part, is_leaf=nn.Module.is_module)
    return twin


def single(model: Any, tokenizer: Any, ids: list[int], output_tokens: int) -> Answer:
    sent = time.monotonic()
    arrivals = [time.monotonic() for _ in stream_generate(model, tokenizer, ids, max_tokens=output_tokens)]
    return Answer(sent=sent, arrivals=tuple(arrivals), tokens=len(arrivals), prompt_tokens=len(ids))


def batch(model: Any, prompt_ids: list[list[int]], output_tokens: int) -> list[Answer]:
    """All rows at once, greedy, with the generator's own defaults for prefill."""
    rows = len(prompt_ids)
    generator = BatchGenerator(model, max_tokens=output_tokens, completion_batch_size=rows)
    sent = time.monotonic()
    index = {uid: i for i, uid in enumerate(generator.insert(prompt_ids))}
    arrivals: list[list[float]] = [[] for _ in range(rows)]
    unfinished = rows
    while unfinished:
        _, responses = generator.next()
        now = time.monotonic()
        for response in responses:
            arrivals[index[response.uid]].append(now)
            unfinished -= response.finish_reason is not None
    generator.close()
    return [
        Answer(sent=sent, arrivals=tuple(times), tokens=len(times), prompt_tokens=len(ids))
        for times, ids in zip(arrivals, prompt_ids, strict=True)
    ]


def run(job: BareJob) -> BareReport:
    model, tokenizer, *_ = load(job.model)

    def ids(seed: int, words: int) -> list[int]:
        message = {"role": "user", "content": prompts.text(seed, words)}
        rendered: Any = tokenizer.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
        return list(tokenizer.encode(rendered, add_special_tokens=False))

    def measure(rows: int, seed: int, output_tokens: int) -> list[Answer]:
        count = rows if rows > 1 else job.repeats
        prompt_ids = [ids(seed + i, prompts.ragged(job.prompt_words, i)) for i in range(count)]
        if rows > 1:
            return batch(model, prompt_ids, output_tokens)
        return [single(model, tokenizer, row, output_tokens) for row in prompt_ids]

    answers, cpu_seconds = {}, {}
    for rows in job.rows:
        measure(rows, 0, _WARM_UP_TOKENS)
        started = time.process_time()
        answers[rows] = measure(rows, 1000, job.output_tokens)
        cpu_seconds[rows] = time.process_time() - started
    return BareReport(
        answers=answers,
        cpu_seconds=cpu_seconds,
        long=[single(model, tokenizer, ids(seed, job.long_words), _WARM_UP_TOKENS) for seed in (1, 2)][-1],
        memory_bytes=int(mx.get_peak_memory()),
    )


if __name__ == "__main__":
    jobs.answer(run(jobs.serve(BareJob)))
