"""The kinds of values that settings have: as text, in flags and variables, and as what TOML has for them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Kind:
    """parse: text to the value; raises ValueError with the reason. types: what TOML may hold for it, in words: `what`. What is
    no string there, `parse` gets as JSON."""

    parse: Callable[[str], Any]
    types: tuple[type, ...] = (str,)
    what: str = "a string"

    def read(self, value: object) -> Any:
        """The value from one that TOML holds. Raises ValueError with the reason."""
        if type(value) not in self.types:
            raise ValueError(f"not {self.what}")
        return self.parse(value if isinstance(value, str) else json.dumps(value, default=_refuse))


def _refuse(value: object) -> None:
    raise ValueError(f"not made of strings, numbers, booleans, lists and tables only ({value})")


def integer(low: int, high: int | None = None) -> Kind:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError("not a whole number") from None
        if value < low or (high is not None and value > high):
            raise ValueError(f"not in {low}..{high}" if high is not None else f"less than {low}")
        return value

    return Kind(parse, (int,), "a whole number")


def one_of(*values: int) -> Kind:
    def parse(text: str) -> int:
        if text in map(str, values):
            return int(text)
        raise ValueError(f"not one of {', '.join(map(str, values))}")

    return Kind(parse, (int,), "a whole number")


def number(low: float, high: float | None = None) -> Kind:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError("not a number") from None
        if not value >= low or value == float("inf") or (high is not None and value > high):
            raise ValueError(f"not in {low:g}..{high:g}" if high is not None else f"not a number of {low:g} or more")
        return value

    return Kind(parse, (int, float), "a number")


def choice(*values: str) -> Kind:
    def parse(text: str) -> str:
        if text.upper() in values:
            return text.upper()
        raise ValueError(f"not one of {', '.join(values)}")

    return Kind(parse)


def boolean() -> Kind:
    def parse(text: str) -> bool:
        lowered = text.lower()
        if lowered in ("1", "true", "yes", "on"):
            return True
        if lowered in ("0", "false", "no", "off", ""):
            return False
        raise ValueError("not a boolean (true or false)")

    return Kind(parse, (bool,), "a boolean (true or false)")


_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def memory(*, zero: bool = False) -> Kind:
    """Bytes from `24G`, `512M`, `1.5GB`, `1.5GiB`, `1000000`; binary units. zero: 0 is a size as well."""

    def parse(text: str) -> int:
        cleaned = text.strip().upper().removesuffix("IB").removesuffix("B")
        amount, unit = (cleaned[:-1], cleaned[-1]) if cleaned[-1:].isalpha() else (cleaned, "")
        try:
            value = float(amount) * _UNITS[unit]
        except (ValueError, KeyError):
            raise ValueError("not a size such as 24G or 512M") from None
        if not value >= 0 or (value == 0 and not zero) or value >= 1 << 60:
            raise ValueError("not a size such as 24G or 512M")
        return int(value)

    return Kind(parse, (str, int), 'a size such as "24G" or "512M"')


def directory() -> Kind:
    def parse(text: str) -> Path:
        if not text:
            raise ValueError("empty")
        path = Path(text).expanduser()
        if path.exists() and not path.is_dir():
            raise ValueError("not a folder")
        return path.absolute()

    return Kind(parse)


def file() -> Kind:
    return Kind(lambda text: Path(text).expanduser().absolute())


def text() -> Kind:
    return Kind(str)


def matching(fits: str, what: str) -> Kind:
    """A text that the pattern matches as a whole."""

    def parse(text: str) -> str:
        if not re.fullmatch(fits, text):
            raise ValueError(f"not {what}")
        return text

    return Kind(parse)


def key() -> Kind:
    return matching(r"[^\s\x00-\x1f\x7f]+", "a key: it may have no spaces")


def key_file() -> Kind:
    """The keys in a file. One without any is refused: whoever names it wants the server closed."""

    def parse(text: str) -> tuple[str, ...]:
        if not text:
            return ()
        try:
            lines = [line.strip() for line in Path(text).expanduser().read_text("utf-8").splitlines()]
        except (OSError, ValueError):
            raise ValueError("not a text file that can be read") from None
        keys = tuple(key().parse(line) for line in lines if line and not line.startswith("#"))
        if not keys:
            raise ValueError("a file without keys")
        return keys

    return Kind(parse)


def origin() -> Kind:
    """A web page's origin as browsers send it: RFC 6454, 6.2."""
    return matching(
        r"\*|[a-z][a-z0-9+.-]*://[^\s/?#*A-Z]+", "an origin such as https://chat.example.org, in lower case"
    )


def host_name() -> Kind:
    return matching(r"[a-z0-9._*-]+", "a host name without a port, in lower case")


def pattern() -> Kind:
    return matching(r"\S.*", "a pattern")


def table() -> Kind:
    return Kind(json.loads, (dict,), "a table such as { name = true }")


def host() -> Kind:
    def parse(text: str) -> str:
        if not text or any(c.isspace() for c in text):
            raise ValueError("not a host name or address")
        return text

    return Kind(parse)


def optional(kind: Kind) -> Kind:
    """An empty text means: not set."""
    return replace(kind, parse=lambda text: kind.parse(text) if text else None)


def count_or_unset() -> Kind:
    """A count; an empty text and 0 mean: not set."""
    counted = integer(0)
    return replace(counted, parse=lambda text: (counted.parse(text) or None) if text else None)


def pair(example: str) -> Kind:
    """A name or a pattern and what it stands for, such as the example."""

    def parse(text: str) -> tuple[str, str]:
        name, _, value = (part.strip() for part in text.partition("="))
        if not name or not value:
            raise ValueError(f"not a pair such as {example}")
        return name, value

    return Kind(parse)
