"""Written arithmetic: the steps that the model thinks through, digit by digit as its tokenizer sees them."""

from __future__ import annotations

from typing import Final

PLACES: Final = ("ones", "tens", "hundreds", "thousands", "ten thousands", "hundred thousands")


def _digits(number: int, count: int) -> list[int]:
    """Lowest first."""
    return [number // 10**place % 10 for place in range(count)]


def add(left: int, right: int) -> str:
    count = len(str(max(left, right)))
    steps, carry = [], 0
    for place, (a, b) in enumerate(zip(_digits(left, count), _digits(right, count), strict=True)):
        total = a + b + carry
        terms = f"{a} + {b} + {carry}" if carry else f"{a} + {b}"
        steps.append(f"{PLACES[place]}: {terms} = {total}")
        carry = total // 10
    return _lines(f"{left} + {right}", steps, left + right)


def subtract(left: int, right: int) -> str:
    """`left` is at least `right`."""
    count = len(str(left))
    steps, borrow = [], 0
    for place, (a, b) in enumerate(zip(_digits(left, count), _digits(right, count), strict=True)):
        lent = 10 if a - borrow < b else 0
        less = f" - {borrow}" if borrow else ""
        steps.append(f"{PLACES[place]}: {a + lent} - {b}{less} = {a + lent - b - borrow}")
        borrow = lent // 10
    return _lines(f"{left} - {right}", steps, left - right)


def multiply(left: int, right: int) -> str:
    """The factor with fewer digits is split; with two digits there, the parts are added, each worked out."""
    long, short = sorted((left, right), key=lambda n: len(str(n)), reverse=True)
    if short >= 10:
        tens, ones = short // 10, short % 10
        parts = [_steps(long, ones), _steps(long, tens)] if ones else [_steps(long, tens)]
        steps = [line for part in parts for line in part] + [f"{long} * {tens * 10} = {long * tens * 10}"]
        if ones:
            steps += add(long * ones, long * tens * 10).split("\n")[:-1]
        return _lines(f"{left} * {right}", steps, long * short)
    return _lines(f"{left} * {right}", _steps(long, short, task=False), long * short)


def _steps(long: int, digit: int, *, task: bool = True) -> list[str]:
    """A number times one digit, place by place; with the task in front and the result behind."""
    steps, carry = [], 0
    for place, each in enumerate(_digits(long, len(str(long)))):
        product = each * digit + carry
        plus = f" + {carry}" if carry else ""
        steps.append(f"{PLACES[place]}: {each} * {digit}{plus} = {product}")
        carry = product // 10
    return [f"{long} * {digit}", *steps, f"= {long * digit}"] if task else steps


def divide(left: int, right: int) -> str:
    """Long division by one digit, without a remainder."""
    steps, rest = [], 0
    for digit in map(int, str(left)):
        now = rest * 10 + digit
        steps.append(f"{now} / {right} = {now // right}, rest {now % right}")
        rest = now % right
    return _lines(f"{left} / {right}", steps, left // right)


def _lines(task: str, steps: list[str], result: int) -> str:
    return "\n".join([task, *steps, f"= {result}"])
