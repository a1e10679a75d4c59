"""Scores a model folder on unseen conversations: per skill, the share of answers that are exactly right.

python -m training.evaluate --model DIR [--each 250] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import load_model
from tokenizers import Tokenizer

from training.data.checks import parse
from training.data.conversation import Conversation, Skill
from training.data.mix import held_out
from training.decode import Ends, greedy
from training.render import END_OF_TURN, prompt
from training.tokenizer import PADDING, token_id

SEED: Final = 0
EACH: Final = 250
LONGEST: Final = 400
TARGETS: Final[Mapping[Skill, float]] = {
    Skill.TOOL_CHOICE: 95,
    Skill.TOOL_STRUCTURE: 95,
    Skill.TOOL_PARALLEL: 95,
    Skill.EXTRACTION: 95,
}
TARGET: Final = 90.0


@dataclass(frozen=True, slots=True)
class Score:
    """Of one skill. `right`: exactly right and ended by the model itself; the other two only look at a part of that.

    `well_formed`: calls and extracted data are valid JSON. `ended`: the model stopped within the limit.
    """

    prompts: int
    right: float
    well_formed: float
    ended: float


def valid_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def score(conversations: Sequence[Conversation], completions: Sequence[str]) -> Score:
    """Shares in per cent."""
    answers = [parse(completion) for completion in completions]
    right = [c.check.passes(a) and a.ended for c, a in zip(conversations, answers, strict=True)]
    formed = [
        a.calls is not None and (c.skill is not Skill.EXTRACTION or valid_json(a.content))
        for c, a in zip(conversations, answers, strict=True)
    ]

    def share(flags: Sequence[bool]) -> float:
        return round(100 * sum(flags) / len(flags), 1)

    return Score(len(answers), share(right), share(formed), share([a.ended for a in answers]))


def complete(model: nn.Module, tokenizer: Tokenizer, conversations: Sequence[Conversation], rows: int) -> list[str]:
    """The model's own answers to the conversations' last turns."""
    texts = [prompt(c.messages[:-1], c.tools, c.thinking) for c in conversations]
    ids = [encoded.ids for encoded in tokenizer.encode_batch(texts, add_special_tokens=False)]
    ends = Ends(token_id(tokenizer, END_OF_TURN), token_id(tokenizer, PADDING))
    return [tokenizer.decode(made, skip_special_tokens=False) for made in greedy(model, ids, ends, LONGEST, rows)]


def evaluate(folder: Path, each: int, rows: int, misses: Path | None = None) -> dict[Skill, Score]:
    """Scores of all skills. `misses`: a file for the prompts and answers that were wrong."""
    model, _ = load_model(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    conversations = [c for skill in Skill for c in held_out(skill, each, SEED)]
    completions = complete(model, tokenizer, conversations, rows)
    found = {}
    for place, skill in enumerate(Skill):
        part = slice(place * each, (place + 1) * each)
        found[skill] = score(conversations[part], completions[part])
    if misses:
        with misses.open("w") as file:
            for c, made in zip(conversations, completions, strict=True):
                answer = parse(made)
                if not (c.check.passes(answer) and answer.ended):
                    asked = prompt(c.messages[:-1], c.tools, c.thinking)
                    print(
                        json.dumps({"skill": c.skill, "prompt": asked, "made": made, "check": repr(c.check)}), file=file
                    )
    return found


def mean(scores: Mapping[Any, Score]) -> float:
    return sum(score.right for score in scores.values()) / len(scores)


def table(scores: Mapping[Skill, Score]) -> str:
    """As Markdown."""
    lines = [
        "| Skill | Prompts | Right | Wanted | Well-formed | Ended |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for skill, s in scores.items():
        wanted = TARGETS.get(skill, TARGET)
        lines.append(
            f"| {skill} | {s.prompts} | {s.right:.1f} % | {wanted:.0f} % | {s.well_formed:.1f} % | {s.ended:.1f} % |"
        )
    return "\n".join(lines)


def as_json(scores: Mapping[Skill, Score]) -> dict[str, Any]:
    return {str(skill): asdict(each) for skill, each in scores.items()}


def default_rows() -> int:
    """How many prompts to decode at once."""
    return 256 if mx.default_device() == mx.gpu else 32


def main() -> None:
    parser = argparse.ArgumentParser(description="Score a model folder on unseen conversations.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--each", type=int, default=EACH, help="prompts for each skill")
    parser.add_argument("--rows", type=int, default=default_rows(), help="decoded at once")
    parser.add_argument("--out", type=Path, help="file for the scores as JSON")
    parser.add_argument("--misses", type=Path, help="file for the wrong answers, one JSON object a line")
    options = parser.parse_args()
    started = time.monotonic()
    scores = evaluate(options.model, options.each, options.rows, options.misses)
    print(table(scores))
    print(f"mean {mean(scores):.1f} %, {time.monotonic() - started:.0f} s")
    if options.out:
        options.out.write_text(json.dumps(as_json(scores), indent=2) + "\n")


if __name__ == "__main__":
    main()
