"""The training loop: Muon and AdamW on bfloat16 passes over float32 weights, one compiled step, a budget in minutes.

The learning rate follows the time spent, not a number of steps, so the same command makes the most of a Mac, a CUDA machine
or a CPU. Stopped at any point, the same command goes on from the last checkpoint.

    python -m training.train --data DIR --tokenizer DIR --out DIR --minutes 12 [--stop-after 8]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from mlx_lm.utils import dequantize_model, load_model
from tokenizers import Tokenizer

from training import model as shape
from training.batches import CLASSES, Batches, Rows, fill
from training.data.mix import SHARES, held_out
from training.data.shards import samples
from training.tokenizer import PADDING, token_id

MUON: Final = 10.0  # times AdamW's rate, as its updates have singular values of about one
WARM_UP: Final = 0.02  # parts of the budget
DECAY_FROM: Final = 0.65
STOPPED: Final = 3  # exit code: the budget is not spent yet
BETWEEN_LINES: Final = 15  # seconds
BETWEEN_SAVES: Final = 120
COMPILING: Final = 3  # first steps of a process, whose time is not training


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`minutes`: of training, compilation apart. `positions`: of a step, padding included. `rate`: the highest one.

    `prompt_weight`: what a prompt's token counts against an answer's at the start; it sinks to zero. Prompts teach the
    language early on; later only answers matter.
    """

    minutes: float = 12.0
    positions: int = 131_072
    rate: float = 2e-3
    weight_decay: float = 0.1
    prompt_weight: float = 0.2
    clip: float = 1.0
    seed: int = 1


@dataclass(slots=True)
class Progress:
    """What a checkpoint remembers besides the arrays. `seconds`: of training. `position`: of the data."""

    step: int = 0
    seconds: float = 0.0
    position: int = 0
    tokens: int = 0


def rate_at(part: float, highest: float) -> float:
    """Warm-up, constant, then linearly down to zero; `part` of the budget is spent."""
    if part < WARM_UP:
        return highest * max(part / WARM_UP, 0.01)
    return highest * min(1.0, max(0.0, (1 - part) / (1 - DECAY_FROM)))


def losses(
    model: nn.Module, embedding: Any, rows: Mapping[str, Any], prompt_weight: Any, dtype: Any
) -> tuple[Any, Any]:
    """The weighted sum of the tokens' losses, and the sum of the weights.

    embedding: the table `[vocabulary, hidden]` in float32. Its gradient adds up all positions of a token, and GPUs add in
    place only where numbers have 32 bits: in 16, thousands of positions of one token would wait for each other.
    """
    tokens, prompts, lengths = rows["tokens"], rows["prompts"][:, None], rows["lengths"][:, None]
    logits = model(tokens[:, :-1], input_embeddings=embedding[tokens[:, :-1]].astype(dtype)).astype(mx.float32)
    place = mx.arange(1, tokens.shape[1])[None]  # of the token to be predicted
    weights = mx.where(place >= prompts, 1.0, prompt_weight) * (place < lengths)
    return (nn.losses.cross_entropy(logits, tokens[:, 1:]) * weights).sum(), weights.sum()


def arrays(batch: Sequence[Rows]) -> list[dict[str, Any]]:
    return [{name: mx.array(value) for name, value in asdict(rows).items()} for rows in batch]


class Trainer:
    """The weights, the optimizer and the compiled steps."""

    def __init__(self, settings: Mapping[str, Any], plan: Plan) -> None:
        self.plan = plan
        self.model = shape.build(settings)
        shape.initialise(self.model, settings["num_hidden_layers"], plan.seed)
        self.weights: Any = self.model.parameters()
        # Muon is for matrices between hidden states (https://kellerjordan.github.io/posts/muon/). Norms are not decayed: they
        # are scales, not directions.
        self.optimizer = optim.MultiOptimizer(
            [optim.Muon(plan.rate, weight_decay=0.0), self._adam(plan.weight_decay), self._adam(0.0)],
            [lambda path, weight: weight.ndim >= 2 and "embed" not in path, lambda _, weight: weight.ndim >= 2],
        )
        self.optimizer.init(self.weights)
        self.state: Any = self.optimizer.state
        # CPUs have no arithmetic for bfloat16.
        self._passes = mx.bfloat16 if mx.default_device() == mx.gpu else mx.float32
        self._step = mx.compile(self._update)
        self._loss = mx.compile(self._held_out)

    def _adam(self, decay: float) -> Any:
        return optim.AdamW(self.plan.rate, betas=[0.9, 0.95], weight_decay=decay, bias_correction=True)

    def _total(self, weights: Any, batch: Sequence[Mapping[str, Any]], prompt_weight: Any) -> Any:
        self.model.update(tree_map(lambda weight: weight.astype(self._passes), weights))
        embedding = weights["model"]["embed_tokens"]["weight"]
        parts = [losses(self.model, embedding, rows, prompt_weight, self._passes) for rows in batch]
        return sum(loss for loss, _ in parts) / sum(count for _, count in parts)

    def _update(self, weights: Any, state: Any, batch: Any, rate: Any, prompt_weight: Any) -> Any:
        loss, gradients = mx.value_and_grad(self._total)(weights, batch, prompt_weight)
        gradients, norm = optim.clip_grad_norm(gradients, self.plan.clip)
        self.optimizer.state = state
        for each in self.optimizer.optimizers:
            each._initialized = True  # its state is given; init would make it anew
        self.optimizer.learning_rate = rate
        self.optimizer.optimizers[0].learning_rate = rate * MUON
        return self.optimizer.apply_gradients(gradients, weights), self.optimizer.state, loss, norm

    def _held_out(self, weights: Any, batch: Any) -> Any:
        return self._total(weights, batch, mx.array(0.0))

    def step(self, batch: Sequence[Rows], part: float) -> Any:
        """Start one step; the loss is not computed yet. `part` of the budget is spent."""
        rate = mx.array(rate_at(part, self.plan.rate))
        prompt_weight = mx.array(self.plan.prompt_weight * max(0.0, 1 - part / DECAY_FROM))
        self.weights, self.state, loss, _ = self._step(self.weights, self.state, arrays(batch), rate, prompt_weight)
        mx.async_eval(loss, self.weights, self.state)  # type: ignore[no-untyped-call]
        return loss

    def loss(self, batch: Sequence[Rows]) -> float:
        return float(self._loss(self.weights, arrays(batch)).item())

    def trained(self) -> nn.Module:
        """The model with the weights as they are now, in float32."""
        self.model.update(self.weights)
        return self.model

    def start_from(self, folder: Path) -> None:
        """Take the weights of a trained folder of the same shape; quantized ones are widened."""
        self.model.update(dequantize_model(load_model(folder)[0]).parameters())
        self.weights = self.model.parameters()

    def save(self, folder: Path, progress: Progress) -> None:
        """One file for the arrays and the progress together, put in place by renaming."""
        held = dict(tree_flatten({"weights": self.weights, "state": self.state}))
        mx.save_safetensors(
            str(folder / "partial.safetensors"), held, metadata={"progress": json.dumps(asdict(progress))}
        )
        (folder / "partial.safetensors").rename(folder / "checkpoint.safetensors")

    def load(self, folder: Path) -> Progress:
        """The last checkpoint, or the beginning where there is none."""
        path = folder / "checkpoint.safetensors"
        if not path.exists():
            return Progress()
        loaded: Any = mx.load(str(path), return_metadata=True)
        held, metadata = loaded
        tree = tree_unflatten(list(held.items()))
        self.weights, self.state = tree["weights"], tree["state"]
        return Progress(**json.loads(metadata["progress"]))


def held_out_rows(tokenizer: Tokenizer, padding: int, each: int = 16) -> list[Rows]:
    """A fixed set of unseen conversations of every skill."""
    drawn = [conversation for skill in SHARES for conversation in held_out(skill, each, seed=99)]
    by_class: dict[int, list[Any]] = {length: [] for length in CLASSES}
    for sample in samples(tokenizer, iter(drawn)):
        by_class[next(length for length in CLASSES if length >= len(sample.tokens))].append(sample)
    return [fill(found, len(found), length, padding) for length, found in by_class.items() if found]


class Log:
    """Lines of figures, on the terminal and in log.jsonl. Writing one takes a look at unseen conversations."""

    def __init__(self, trainer: Trainer, checks: Sequence[Rows], out: Path) -> None:
        self._trainer, self._checks, self._path = trainer, checks, out / "log.jsonl"
        self._tokens = 0
        self.at = time.monotonic()

    def restart(self, progress: Progress) -> None:
        """Count the rate from here."""
        self.at, self._tokens = time.monotonic(), progress.tokens

    def write(self, progress: Progress, loss: float) -> None:
        line = {
            "step": progress.step,
            "seconds": round(progress.seconds, 1),
            "loss": round(loss, 4),
            "held_out": round(self._trainer.loss(self._checks), 4),
            "tokens": progress.tokens,
            "tokens_per_second": round((progress.tokens - self._tokens) / (time.monotonic() - self.at)),
        }
        with self._path.open("a") as file:
            print(json.dumps(line), file=file)
        print(" ".join(f"{key}={value}" for key, value in line.items()), flush=True)
        self.restart(progress)


def train(trainer: Trainer, batches: Batches, progress: Progress, log: Log, out: Path, until: float) -> bool:
    """Train until the budget is spent (True) or the clock (time.monotonic) says `until` (False)."""
    budget = trainer.plan.minutes * 60
    first, loss, before = progress.step, None, None
    saved = mark = time.monotonic()
    while progress.seconds < budget and time.monotonic() < until:
        batch = next(batches)
        loss = trainer.step(batch, progress.seconds / budget)
        if before is not None:
            before.item()  # at most one step is under way while the next batch is made
        before = loss
        progress.step += 1
        progress.tokens += int(sum(rows.lengths.sum() for rows in batch))
        progress.position = batches.position
        if progress.step - first <= COMPILING:
            print(f"step {progress.step}: loss {loss.item():.3f}, {time.monotonic() - mark:.1f} s", flush=True)
            log.restart(progress)
        else:
            progress.seconds += time.monotonic() - mark
        mark = time.monotonic()
        if mark - log.at > BETWEEN_LINES:
            log.write(progress, loss.item())
            if mark - saved > BETWEEN_SAVES:
                trainer.save(out, progress)
                saved = time.monotonic()
            mark = time.monotonic()
    if loss is not None:
        log.write(progress, loss.item())
    trainer.save(out, progress)
    return progress.seconds >= budget


def main() -> None:
    started = time.monotonic()
    plan = Plan()
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--data", type=Path, required=True, help="folder of training.data; it may still be filling")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, log and the trained model")
    parser.add_argument("--minutes", type=float, default=plan.minutes, help="training time in all")
    parser.add_argument("--stop-after", type=float, help="save and leave this many minutes after the start")
    parser.add_argument("--positions", type=int, default=plan.positions, help="tokens of a step, padding included")
    parser.add_argument("--rate", type=float, default=plan.rate, help="the highest learning rate")
    parser.add_argument("--prompt-weight", type=float, default=plan.prompt_weight)
    parser.add_argument("--seed", type=int, default=plan.seed)
    parser.add_argument(
        "--init", type=Path, help="a folder trained before, whose weights to start from, as for a second round"
    )
    parser.add_argument("--tiny", action="store_true", help="a model of two narrow layers, to try the loop")
    options = parser.parse_args()
    plan = Plan(
        minutes=options.minutes,
        positions=options.positions,
        rate=options.rate,
        prompt_weight=options.prompt_weight,
        seed=options.seed,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(options.tokenizer / "tokenizer.json"))
    padding = token_id(tokenizer, PADDING)
    settings = shape.config(tokenizer, shape.TINY if options.tiny else shape.SHAPE)
    trainer = Trainer(settings, plan)
    if options.init:
        trainer.start_from(options.init)
    progress = trainer.load(options.out)
    print(f"{shape.parameters(trainer.model) / 1e6:.2f}M parameters, from step {progress.step}", flush=True)
    batches = Batches(options.data, plan.positions, padding, plan.seed, progress.position)
    until = started + 60 * options.stop_after if options.stop_after else float("inf")
    log = Log(trainer, held_out_rows(tokenizer, padding), options.out)
    done = train(trainer, batches, progress, log, options.out, until)
    shape.save(trainer.trained(), settings, options.tokenizer, options.out / "model")
    print(f"{'trained' if done else 'stopped: the same command goes on'}; {options.out / 'model'}", flush=True)
    sys.exit(0 if done else STOPPED)


if __name__ == "__main__":
    main()
