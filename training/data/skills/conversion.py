"""Unit conversion with whole factors, and temperatures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from training.data.checks import Says
from training.data.conversation import Conversation, Skill
from training.data.skills import sums
from training.data.skills.turns import casual, conversation
from training.data.source import Source


@dataclass(frozen=True, slots=True)
class Pair:
    """One `large` is `factor` of `small`."""

    large: str
    small: str
    factor: int
    symbols: tuple[str, str]


PAIRS: Final = (
    Pair("kilometres", "metres", 1000, ("km", "m")),
    Pair("metres", "centimetres", 100, ("m", "cm")),
    Pair("centimetres", "millimetres", 10, ("cm", "mm")),
    Pair("kilograms", "grams", 1000, ("kg", "g")),
    Pair("tonnes", "kilograms", 1000, ("t", "kg")),
    Pair("grams", "milligrams", 1000, ("g", "mg")),
    Pair("litres", "millilitres", 1000, ("l", "ml")),
    Pair("hours", "minutes", 60, ("h", "min")),
    Pair("minutes", "seconds", 60, ("min", "s")),
    Pair("days", "hours", 24, ("days", "h")),
    Pair("weeks", "days", 7, ("weeks", "days")),
    Pair("years", "months", 12, ("years", "months")),
    Pair("feet", "inches", 12, ("ft", "in")),
    Pair("yards", "feet", 3, ("yd", "ft")),
    Pair("dozens", "pieces", 12, ("dozen", "pieces")),
)
POWERS: Final = (10, 100, 1000)
SPLIT: Final = {60: 10, 24: 4, 12: 3}
ASKED: Final = (
    "[Convert|Please convert|Can you convert|Change|Turn] {value}{of} [to|into] {to}[|.| please| for me]",
    "[How many|What is the number of|Tell me how many] {to} [are|is|make up|are there in|do I get from] {value}{of}?",
    "[What is|What's|How much is|Give me|I need] {value}{of} in {to}[?|.| please]",
    "{value}{of} [in|to|into|as] {to}[|?|, please| please]",
    "{name} [has|needs|measured|wants] {value}{of}. [How many|How much is that in] {to}[| is that]?",
)


def _scaled(source: Source) -> tuple[int, str, int, str, tuple[str, str], str]:
    pair = source.choice(PAIRS)
    count = source.integer(1, 99 if pair.factor % 10 else 999)
    whole = count * pair.factor
    rule = f"1 {pair.symbols[0]} = {pair.factor} {pair.symbols[1]}\n"
    if source.chance(0.6):
        working = f"{count} * {pair.factor}\n= {whole}" if pair.factor in POWERS else sums.multiply(count, pair.factor)
        return count, pair.large, whole, pair.small, pair.symbols, rule + working
    working = f"{whole} / {pair.factor}\n= {count}" if pair.factor in POWERS else _divide(whole, pair.factor)
    return whole, pair.small, count, pair.large, (pair.symbols[1], pair.symbols[0]), rule + working


def _divide(whole: int, factor: int) -> str:
    """Long division by one digit after the other, as far as a factor of the table has several."""
    if factor < 10:
        return sums.divide(whole, factor)
    first = SPLIT[factor]
    between = f"{whole} / 10\n= {whole // 10}" if first == 10 else sums.divide(whole, first)
    return f"{factor} = {first} * {factor // first}\n{between}\n{sums.divide(whole // first, factor // first)}"


def _temperature(source: Source) -> tuple[int, str, int, str, tuple[str, str], str]:
    celsius = source.integer(0, 60) * 5
    part = celsius // 5 * 9
    fahrenheit = part + 32
    names, symbols = ("degrees Celsius", "degrees Fahrenheit"), ("°C", "°F")
    if source.chance(0.5):
        steps = sums.divide(celsius, 5), sums.multiply(celsius // 5, 9), sums.add(part, 32)
        working = "\n".join(("F = C / 5 * 9 + 32", *steps))
        return celsius, names[0], fahrenheit, names[1], symbols, working
    steps = sums.subtract(fahrenheit, 32), sums.divide(part, 9), sums.multiply(part // 9, 5)
    working = "\n".join(("C = (F - 32) / 9 * 5", *steps))
    return fahrenheit, names[1], celsius, names[0], (symbols[1], symbols[0]), working


def _shifted(one: int, other: int) -> tuple[int, ...]:
    """The smaller number with zeros behind it."""
    return tuple(min(one, other) * power for power in POWERS)


def draw(source: Source) -> Conversation:
    thinking = source.chance(0.85)
    kind = _temperature if thinking and source.chance(0.12) else _scaled
    value, of, result, to, symbols, working = source.until(
        lambda: kind(source),
        # Without thinking, only what takes no working.
        lambda t: source.ours(f"{t[0]} {t[1]} in {t[3]}") and (thinking or max(t[0], t[2]) in _shifted(t[0], t[2])),
    )
    short = source.chance(0.3)
    text = source.wording(
        ASKED, name=source.name(), value=value, of=f" {symbols[0] if short else of}", to=symbols[1] if short else to
    )
    if source.chance(0.5):
        text = text.replace("metre", "meter").replace("litre", "liter")
    answer = f"{value} {symbols[0]} = {result} {symbols[1]}"
    check = Says((f"= {result} ",))
    return conversation(source, Skill.CONVERSION, casual(source, text), answer, check, working, thinking=thinking)
