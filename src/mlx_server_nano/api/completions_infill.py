"""Filling in the middle: how models want to be told what stands before and after the gap."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Infill:
    """`before` stands ahead of the text before the gap, `after` ahead of the text after it, `middle` at the end. `ends`: what
    a model writes at the end of the gap where that is not its usual end of text. suffix_first: the order of the two."""

    before: str
    after: str
    middle: str = ""
    ends: tuple[str, ...] = ()
    suffix_first: bool = False

    @property
    def markers(self) -> tuple[str, ...]:
        return (self.before, self.after, *([self.middle] if self.middle else []))

    def prompt(self, prefix: str, suffix: str) -> str:
        parts = [self.before + prefix, self.after + suffix]
        if self.suffix_first:
            parts.reverse()
        return "".join(parts) + self.middle


# As the models' cards and papers write them.
_KNOWN: Final = (
    # Qwen Coder, CodeGemma
    Infill("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", ("<|fim_pad|>", "<|file_sep|>", "<|repo_name|>")),
    # StarCoder, Granite
    Infill("<fim_prefix>", "<fim_suffix>", "<fim_middle>", ("<fim_pad>", "<file_sep>")),
    # SantaCoder
    Infill("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    # DeepSeek Coder
    Infill("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    # CodeLlama
    Infill("▁<PRE>", "▁<SUF>", "▁<MID>", ("▁<EOT>", " <EOT>")),
    # GLM-4
    Infill("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    # Seed Coder
    Infill("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>", suffix_first=True),
    # Codestral, Devstral
    Infill("[PREFIX]", "[SUFFIX]", suffix_first=True),
)


def infill_for(special_tokens: Collection[str]) -> Infill | None:
    """How a model with these tokens fills in; None: it can't."""
    return next((known for known in _KNOWN if all(marker in special_tokens for marker in known.markers)), None)
