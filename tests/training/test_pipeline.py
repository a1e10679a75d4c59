"""All steps on a tiny model: from the generator to a folder that mlx-lm and transformers load."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map
from mlx_lm import load
from mlx_lm.generate import generate
from tokenizers import Tokenizer
from training.average import average
from training.batches import CLASSES, Batches, fill
from training.data import shards
from training.data.conversation import Conversation, Skill
from training.data.mix import conversation, held_out
from training.data.shards import Sample
from training.data.skills import small_talk
from training.data.source import Source, Split
from training.decode import Ends, greedy
from training.evaluate import Score, complete, score
from training.export import Form, choose, quantize, size
from training.render import split_last
from training.train import COMPILING, Log, Plan, Progress, Trainer, rate_at, train
from transformers import AutoTokenizer

from training import card, model, tokenizer


@pytest.fixture(scope="module", autouse=True)
def uncompiled() -> Iterator[None]:
    """On a CPU, MLX compiles through the system's C++ compiler, which takes minutes here."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def short(count: int = 60) -> Iterator[Conversation]:
    """Short conversations: reference BLAS is slow."""
    return (small_talk.draw(Source(str(number), Split.TRAIN)) for number in range(count))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> SimpleNamespace:
    """A tokenizer, a shard, a model of three steps, and its 8-bit form."""
    root: Path = tmp_path_factory.mktemp("demo")
    pieces = tokenizer.train(tokenizer.texts(120), size=900)
    tokenizer.save(pieces, root / "tokenizer", 4096)
    (root / "data").mkdir()
    shards.write(pieces, root / "data" / "00000.npz", short())
    settings = model.config(pieces, model.TINY)
    trainer = Trainer(settings, Plan(minutes=1, positions=600))
    batches = Batches(root / "data", 600, tokenizer.token_id(pieces, tokenizer.PADDING), seed=1)
    losses = [float(trainer.step(next(batches), part).item()) for part in (0.02, 0.02, 0.02)]
    trainer.save(root, Progress(step=3, seconds=1.5, position=batches.position, tokens=99))
    model.save(trainer.trained(), settings, root / "tokenizer", root / "model")
    quantize(root / "model", 8, root / "model-8bit")
    return SimpleNamespace(root=root, pieces=pieces, settings=settings, trainer=trainer, losses=losses)


def test_the_loss_sinks(made):
    assert made.losses[2] < made.losses[0]


def test_a_checkpoint_restores_weights_state_and_progress(made):
    fresh = Trainer(made.settings, Plan(minutes=1, seed=7))
    assert fresh.load(made.root) == Progress(step=3, seconds=1.5, position=1, tokens=99)
    rows = fill([Sample(np.arange(2, 40, dtype=np.uint16), 10)], 1, 64, 0)
    assert fresh.loss([rows]) == made.trainer.loss([rows])
    assert float(fresh.step([rows], 0.5).item()) == float(made.trainer.step([rows], 0.5).item())


def test_a_second_round_starts_from_the_first_ones_weights(made):
    fresh = Trainer(made.settings, Plan(minutes=1, seed=7))
    rows = fill([Sample(np.arange(2, 40, dtype=np.uint16), 10)], 1, 64, 0)
    before = fresh.loss([rows])
    fresh.start_from(made.root / "model")
    loaded, _ = load(str(made.root / "model"))
    assert mx.array_equal(fresh.weights["model"]["embed_tokens"]["weight"], loaded.model.embed_tokens.weight)
    assert fresh.loss([rows]) != before
    first = fresh.loss([rows])
    fresh.start_from(made.root / "model-8bit")
    assert fresh.loss([rows]) == pytest.approx(first, abs=0.02), "widened"


def test_rounds_are_averaged(made, tmp_path):
    one, _ = load(str(made.root / "model"))
    doubled = model.build(made.settings)
    doubled.update(tree_map(lambda weight: 3 * weight, one.parameters()))
    model.save(doubled, made.settings, made.root / "tokenizer", tmp_path / "other")
    average([made.root / "model-8bit", tmp_path / "other"], tmp_path / "mean" / "model")
    mean, _ = load(str(tmp_path / "mean" / "model"))
    weight, was = mean.model.layers[0].mlp.up_proj.weight, one.model.layers[0].mlp.up_proj.weight
    assert mx.allclose(weight, 2 * was, atol=0.01) and not mx.allclose(weight, was, atol=0.01)
    rounds = made.root / "log.jsonl", tmp_path / "mean" / "log.jsonl"
    rounds[0].write_text(json.dumps({"step": 3, "seconds": 60, "tokens": 9e6, "tokens_per_second": 9, "held_out": 0.1}))
    form = Form("8 bits", made.root / "model-8bit", 1, {Skill.MEMORY: Score(1, 1.0, 1.0, 1.0)})
    assert "mean of the last 2 rounds'" in card.text(form, [form], rounds)
    assert "mean of the last" not in card.text(form, [form], rounds[:1])


def test_training_stops_at_the_clock_and_at_the_budget(made, tmp_path):
    trainer = Trainer(made.settings, Plan(minutes=1e-9, positions=200))
    batches = Batches(made.root / "data", 200, 0, seed=1)
    rows = fill([Sample(np.arange(2, 40, dtype=np.uint16), 10)], 1, 64, 0)
    log = Log(trainer, [rows], tmp_path)
    progress = Progress()
    assert train(trainer, batches, progress, log, tmp_path, 0.0) is False and progress.step == 0
    assert train(trainer, batches, progress, log, tmp_path, float("inf")) is True and progress.step == COMPILING + 1
    assert trainer.load(tmp_path) == progress
    line = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert line["step"] == progress.step and line["tokens"] == progress.tokens > 0


@pytest.mark.parametrize("form", ["model", "model-8bit"])
def test_the_folder_loads_and_decodes(made, form):
    loaded, wrapped = load(str(made.root / form))
    asked = wrapped.apply_chat_template([{"role": "user", "content": "Hello"}], add_generation_prompt=True)
    assert generate(loaded, wrapped, asked, max_tokens=4) is not None
    names = {path.name for path in (made.root / form).iterdir()}
    assert names == {"config.json", "model.safetensors", "generation_config.json", *model.TOKENIZER_FILES}


def test_the_tokenizer_is_the_same_through_transformers(made):
    theirs = AutoTokenizer.from_pretrained(made.root / "model")
    assert theirs.eos_token == "<|im_end|>"
    for number in range(20):
        drawn = conversation(3, number)
        given, written = split_last(drawn.messages, drawn.tools, drawn.thinking)
        text = theirs.apply_chat_template(
            list(drawn.messages[:-1]),
            tools=list(drawn.tools),
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=drawn.thinking,
        )
        assert text == given
        ids = made.pieces.encode(given + written).ids
        assert theirs.encode(given + written, add_special_tokens=False) == ids
        assert made.pieces.decode(ids, skip_special_tokens=False) == given + written


def test_pieces_do_not_depend_on_what_is_around(made):
    ids = made.pieces.encode("Kelmarodor").ids
    for text in ('{"a": "Kelmarodor"}', "to Kelmarodor, please", "Kelmarodor's", "x_Kelmarodor-7"):
        encoded = made.pieces.encode(text).ids
        assert any(encoded[place : place + len(ids)] == ids for place in range(len(encoded))), text


def test_digits_and_markup_are_single_tokens(made):
    assert len(made.pieces.encode("4096").ids) == 4
    for token in (*tokenizer.SPECIAL, *tokenizer.MARKUP):
        assert len(made.pieces.encode(token).ids) == 1
    markup = "<think>a</think><tool_call><|im_end|>"
    assert made.pieces.decode(made.pieces.encode(markup).ids, skip_special_tokens=True) == "<think>a</think><tool_call>"


def test_shards_are_deterministic_and_read_back(made, tmp_path):
    again = tmp_path / "again.npz"
    shards.write(made.pieces, again, short())
    one, two = shards.read(made.root / "data" / "00000.npz"), shards.read(again)
    assert [(s.tokens.tolist(), s.prompt) for s in one] == [(s.tokens.tolist(), s.prompt) for s in two]
    drawn = next(short())
    text = "".join(split_last(drawn.messages, drawn.tools, drawn.thinking))
    assert made.pieces.decode(one[0].tokens.tolist(), skip_special_tokens=False) == text


def test_batches_use_each_sample_once_and_pad_at_the_end(made):
    samples = shards.read(made.root / "data" / "00000.npz")
    batches = Batches(made.root / "data", 900, padding=5, seed=1)
    seen: list[tuple[int, ...]] = []
    while batches.position == 1:
        for rows in next(batches):
            assert rows.tokens.shape[1] in CLASSES
            for tokens, prompt, length in zip(rows.tokens, rows.prompts, rows.lengths, strict=True):
                assert (tokens[length:] == 5).all() and prompt <= length
                seen += [tuple(tokens[:length].tolist())] if length else []
    known = Counter(tuple(sample.tokens.tolist()) for sample in samples)
    assert len(seen) > len(samples) // 2
    assert all(times <= 2 * known[tokens] for tokens, times in Counter(seen).items())  # twice: the shard is read again


def test_the_loss_is_the_mean_over_the_answers_tokens(made):
    """Checked against log-probabilities read off one by one; padding and blank rows don't count."""
    tokens, prompt = np.arange(2, 34, dtype=np.uint16), 20
    logits = np.array(made.trainer.trained()(mx.array(tokens[None].astype(np.int32)))[0])
    shifted = logits - logits.max(axis=-1, keepdims=True)
    logprobs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    wanted = -np.mean([logprobs[place - 1, tokens[place]] for place in range(prompt, len(tokens))])
    sample = Sample(tokens, prompt)
    assert made.trainer.loss([fill([sample], 3, 64, 9)]) == pytest.approx(wanted, rel=1e-4)
    assert made.trainer.loss([fill([sample], 1, 64, 9), fill([sample], 1, 96, 9)]) == pytest.approx(wanted, rel=1e-4)


def test_batched_decoding_equals_decoding_alone(made):
    loaded, _ = load(str(made.root / "model"))
    prompts = [list(range(5, 5 + length)) for length in (3, 17, 9, 30)]
    ends = Ends(stop=made.settings["eos_token_id"], padding=made.settings["pad_token_id"])
    together = greedy(loaded, prompts, ends, longest=20, rows=4)
    assert together == [greedy(loaded, [prompt], ends, longest=20, rows=1)[0] for prompt in prompts]
    assert all(len(row) == 20 or row[-1] == ends.stop for row in together)


def test_finished_rows_leave_the_batch(made):
    loaded, _ = load(str(made.root / "model"))
    prompts = [list(range(5, 5 + length)) for length in (3, 17, 9, 30)]
    free = greedy(loaded, prompts, Ends(stop=-1, padding=0), longest=40, rows=4)
    stop = free[1][2]  # this row ends early, others later or never
    for row, unbounded in zip(greedy(loaded, prompts, Ends(stop, 0), longest=40, rows=4), free, strict=True):
        assert row == (unbounded[: unbounded.index(stop) + 1] if stop in unbounded else unbounded)


def test_scores_of_right_and_wrong_answers(made):
    drawn = list(held_out(Skill.EXTRACTION, 4))
    right = [split_last(c.messages, c.tools, c.thinking)[1] for c in drawn]
    assert score(drawn, right) == Score(4, 100.0, 100.0, 100.0)
    assert score(drawn, [right[0], right[1].removesuffix("<|im_end|>"), "no JSON<|im_end|>", right[0]]).right < 50
    loaded, _ = load(str(made.root / "model"))
    assert len(complete(loaded, made.pieces, drawn[:2], rows=2)) == 2


def test_the_smallest_form_that_keeps_the_skills_is_chosen(made):
    def form(name: str, size: int, right: float) -> Form:
        return Form(name, made.root / "model-8bit", size, {Skill.SMALL_TALK: Score(1, right, 100.0, 100.0)})

    four, six, eight = (
        form("4 bits", 6_000_000, 80.0),
        form("6 bits", 9_000_000, 94.5),
        form("8 bits", 11_000_000, 95.0),
    )
    assert choose([four, six, eight]) is six
    assert choose([four, form("8 bits", 13_000_000, 95.0)]) is four
    with pytest.raises(ValueError, match="bytes"):
        choose([form("8 bits", 13_000_000, 95.0)])
    log = made.root / "log.jsonl"
    log.write_text(
        json.dumps({"step": 3, "seconds": 60.0, "tokens": 5_000_000, "tokens_per_second": 1e6, "held_out": 0.5})
    )
    text = card.text(eight, [four, six, eight], [log])
    assert "8 bits" in text and "94.5 %" in text and "5 million tokens in 3 steps" in text
    assert "10 million tokens in 6 steps, 2.0 minutes, in 2 rounds" in card.text(eight, [eight], [log, log])


def test_the_published_shape_fits(made):
    pieces: Tokenizer = made.pieces
    settings = model.config(pieces) | {"vocab_size": tokenizer.VOCABULARY}
    count = card.parameters(settings)
    assert 5e6 < count < 15e6
    assert count * (8 + 1) / 8 < 11.6e6  # 8 bits, with a scale and an offset in float32 for each group of 64
    tiny = model.build(made.settings)
    assert model.parameters(tiny) == card.parameters(made.settings)
    assert size(made.root / "model-8bit") < size(made.root / "model")


def test_the_rate_warms_up_holds_and_sinks_to_zero():
    rates = [rate_at(part, 1.0) for part in (0.0, 0.01, 0.02, 0.5, 0.65, 0.825, 1.0, 1.1)]
    assert rates == pytest.approx([0.01, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0])
