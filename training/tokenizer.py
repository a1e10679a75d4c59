"""Trains the tokenizer: byte-level BPE whose pieces do not depend on what stands around a word.

A space is a piece of its own, digits stand alone, and letters never share a piece with punctuation. A name is therefore cut
the same way in a sentence and between JSON's quotes, so that copying it, which is most of what a tool call takes, means
repeating the same pieces. The price is about half as many pieces again for plain text.

    python -m training.tokenizer --out DIR
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from training.data.mix import conversation
from training.render import END_OF_TURN, TEMPLATE_FILE, split_last

VOCABULARY: Final = 4096
SEED: Final = 1_000_003  # far from the seeds of the training data

# Qwen3's names in Qwen3's order. Those marked special vanish from decoded text; the others stay, as markup to be parsed.
SPECIAL: Final = (
    "<|endoftext|>", "<|im_start|>", END_OF_TURN, "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
MARKUP: Final = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>",
    "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
PADDING: Final = "<|endoftext|>"

PIECES: Final = "|".join((
    r"\p{N}",
    r"\p{Lu}?\p{Ll}+",
    r"\p{Lu}+",
    r"[\p{L}\p{M}]+",
    r"\n+",
    r'["{}\[\]:, ]+',  # JSON's punctuation, with the spaces in it
    r"[^\p{L}\p{N}\p{M}\s]",
    r"\s",
))  # fmt: skip


def texts(count: int, seed: int = SEED) -> Iterator[str]:
    """Rendered conversations to learn the pieces from."""
    for number in range(count):
        drawn = conversation(seed, number)
        yield "".join(split_last(drawn.messages, drawn.tools, drawn.thinking))


def train(corpus: Iterator[str], size: int = VOCABULARY) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(SPECIAL) - len(MARKUP),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_without_markup(corpus), trainer)
    # A small corpus yields fewer pieces; the special tokens always follow the last one.
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in MARKUP])
    return tokenizer


def _without_markup(corpus: Iterator[str]) -> Iterator[str]:
    markup = re.compile("|".join(map(re.escape, (*SPECIAL, *MARKUP))))
    return (markup.sub("\n", text) for text in corpus)


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Raises KeyError for a token that is none."""
    return int(tokenizer.get_vocab(with_added_tokens=True)[token])


def save(tokenizer: Tokenizer, out: Path, context: int) -> None:
    """tokenizer.json, tokenizer_config.json and the chat template, as transformers' AutoTokenizer reads them."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.json").write_text(tokenizer.to_str(pretty=False))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "bos_token": None,
        "eos_token": END_OF_TURN,
        "pad_token": PADDING,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "additional_special_tokens": list(SPECIAL[1:]),
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "chat_template.jinja").write_text(TEMPLATE_FILE.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo model's tokenizer.")
    parser.add_argument("--out", type=Path, required=True, help="folder for tokenizer.json and its companions")
    parser.add_argument("--conversations", type=int, default=30_000, help="how many to learn from")
    parser.add_argument("--size", type=int, default=VOCABULARY, help="entries, special tokens included")
    parser.add_argument("--context", type=int, default=4096, help="the model's context length in tokens")
    options = parser.parse_args()
    tokenizer = train(texts(options.conversations), options.size)
    save(tokenizer, options.out, options.context)
    print(f"{tokenizer.get_vocab_size()} entries in {options.out}")


if __name__ == "__main__":
    main()
