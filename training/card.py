"""The model card, filled with what was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.data.shards import LONGEST
from training.evaluate import table

if TYPE_CHECKING:
    from training.export import Form

TEXT = """---
license: mit
library_name: mlx
pipeline_tag: text-generation
tags: [mlx, demo]
---

# The demo model of MLX Server Nano

A tiny language model, trained from scratch for one purpose: `mlx-server-nano` can serve something real before anything is
downloaded. It chats a little, thinks, extracts JSON and calls tools. It is a demonstration and a test fixture. It knows
nothing about the world; for real work, load a real model.

- **Architecture**: Qwen3's (`model_type: qwen3`), {layers} layers, {hidden} wide, {heads} heads ({kv_heads} for keys and
  values), {vocabulary} tokens, tied embeddings; {parameters:.1f} million parameters.
  Stored as **{chosen}**, {size:.1f} MB in all.
- **Context**: {context} tokens; trained on conversations of up to {longest:,}.
- **Format**: ChatML turns, `<think>` blocks (`enable_thinking`), Hermes-style `<tool_call>` JSON, `<tool_response>`: what
  Qwen3 uses, in a template of our own.
- **Language**: English, and greetings in French, German, Spanish and Italian when the system prompt asks for them.

## Data

All data is synthetic: the generator in `training/data` makes conversations from a seed. No text, template or
vocabulary of others is in it. Names, places, tools, parameters and most nouns are made-up words, so that the model learns to
copy instead of to remember; a hash of each word, name and wording decides whether training or evaluation may use it.

## Training

{training}

## Scores

On conversations that training can't contain: unseen names, places, tools, parameters and request wordings, half of them
with thinking. **Right** means exactly right (calls: names and arguments deep-equal; JSON: equal; otherwise: the exact text,
or all facts asked for) and ended by the model itself. Greedy decoding.

{scores}

The same, on average, for the forms that were compared:

{forms}

## Limits

Requests far from the trained kinds get nonsense or a polite refusal. Arithmetic is reliable only for the trained sizes and with
thinking on. Long contexts degrade. Do not use it to judge MLX, the server or language models.
"""


def text(chosen: Form, forms: Sequence[Form], logs: Sequence[Path]) -> str:
    """The card for the chosen form. `logs`: the training's, one for each round; of each the last line counts."""
    settings = json.loads((chosen.folder / "config.json").read_text())
    lines = ["| Form | MB | Mean |", "| --- | ---: | ---: |"]
    lines += [f"| {form.name} | {form.size / 1e6:.2f} | {form.mean:.1f} % |" for form in forms]
    return TEXT.format(
        layers=settings["num_hidden_layers"],
        hidden=settings["hidden_size"],
        heads=settings["num_attention_heads"],
        kv_heads=settings["num_key_value_heads"],
        vocabulary=settings["vocab_size"],
        parameters=parameters(settings) / 1e6,
        context=settings["max_position_embeddings"],
        longest=LONGEST,
        chosen=chosen.name,
        size=chosen.size / 1e6,
        training=_training(logs),
        scores=table(chosen.scores),
        forms="\n".join(lines),
    )


def parameters(settings: dict[str, Any]) -> int:
    """The number of parameters that a config.json means."""
    wide, head = settings["hidden_size"], settings["head_dim"]
    attention = 2 * wide * head * (settings["num_attention_heads"] + settings["num_key_value_heads"])
    layer = attention + 3 * wide * settings["intermediate_size"] + 2 * wide + 2 * head
    return int(settings["vocab_size"] * wide + settings["num_hidden_layers"] * layer + wide)


def _training(logs: Sequence[Path]) -> str:
    last = [json.loads(log.read_text().splitlines()[-1]) for log in logs if log.exists() and log.stat().st_size]
    rounds = [each for each in last if "averaged" not in each]
    if not rounds:
        return "No log was kept."
    tokens, steps, seconds = (sum(each[key] for each in rounds) for key in ("tokens", "step", "seconds"))
    several = f", in {len(rounds)} rounds, each from the weights of the one before" if len(rounds) > 1 else ""
    return (
        f"{tokens / 1e6:,.0f} million tokens in {steps:,} steps, {seconds / 60:.1f} minutes{several}, with MLX "
        f"({rounds[-1]['tokens_per_second'] / 1e6:.2f} million tokens a second at the end). Muon (embedding: AdamW), "
        f"bfloat16 passes over float32 weights, warm-up, constant rate, linear decay. Loss on unseen answers at the end: "
        f"{rounds[-1]['held_out']:.3f}."
        + "".join(
            f" The weights are the mean of the last {each['averaged']} rounds'." for each in last if "averaged" in each
        )
    )
