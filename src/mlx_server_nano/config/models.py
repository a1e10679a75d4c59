"""What the configuration file may say of one model: every key of a table `[models."NAME"]`, once. docs/configuration.md's
table is checked against `MODEL_KEYS` by a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, TypeVar

from msgspec import structs

from mlx_server_nano.config.hosts import Hosts, hostfile
from mlx_server_nano.config.values import Kind, boolean, integer, number, one_of, table, text
from mlx_server_nano.types import RESERVED_TEMPLATE_KWARGS, Sampling


@dataclass(frozen=True, slots=True)
class ModelKey:
    """name: in the file. example: a value, as the documentation shows it."""

    name: str
    kind: Kind
    example: str
    help: str


def _template_kwargs() -> Kind:
    kind = table()

    def parse(text: str) -> Any:
        values = kind.parse(text)
        if reserved := RESERVED_TEMPLATE_KWARGS & values.keys():
            raise ValueError(f"not usable: the server sets {min(reserved)!r} itself")
        return values

    return replace(kind, parse=parse)


def _key(name: str, kind: Kind, example: str, help: str) -> Any:
    return field(default=None, metadata={"key": ModelKey(name, kind, example, help)})


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDefaults:
    """For what a request leaves open. None: not configured."""

    temperature: float | None = _key("temperature", number(0, 2), "0.6", "0: always the most likely token.")
    top_p: float | None = _key("top_p", number(0, 1), "0.95", "Sample from the likeliest tokens of this share.")
    top_k: int | None = _key("top_k", integer(0, 2**31 - 1), "20", "Sample from so many tokens; 0: from all.")
    min_p: float | None = _key(
        "min_p", number(0, 1), "0.05", "Leave out what is less likely than this share of the best."
    )
    repetition_penalty: float | None = _key(
        "repetition_penalty", number(0.01, 2), "1.05", "Over prompt and answer; 1: none."
    )
    presence_penalty: float | None = _key("presence_penalty", number(-2, 2), "0.5", "Over the answer; 0: none.")
    frequency_penalty: float | None = _key("frequency_penalty", number(-2, 2), "0.5", "Over the answer; 0: none.")
    max_tokens: int | None = _key("max_tokens", integer(1), "4096", "Bound for an answer.")
    chat_template_kwargs: Mapping[str, Any] | None = _key(
        "chat_template_kwargs",
        _template_kwargs(),
        "{ enable_thinking = false }",
        "Variables of the chat template, one by one.",
    )
    tool_format: str | None = _key(
        "tool-format", text(), '"hermes"', "Format of tool calls and reasoning ([formats.md](formats.md))."
    )

    def fill(self, sampling: Sampling) -> Sampling:
        """A request's sampling, and these values where it has none."""
        missing = {
            name: value
            for name in sampling.__struct_fields__
            if getattr(sampling, name) is None and (value := getattr(self, name, None)) is not None
        }
        return structs.replace(sampling, **missing) if missing else sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """How a model is loaded and kept; None: as all are. Names of one model that agree in all of this share one worker."""

    adapter: str | None = _key(
        "adapter", text(), '"./adapters/poet"', "LoRA adapter in mlx-lm's layout: a folder or a Hub repository."
    )
    context_length: int | None = _key(
        "context-length", integer(1), "16384", "Tokens of prompt and answer together, if the model itself takes more."
    )
    kv_bits: int | None = _key("kv-bits", one_of(4, 8, 16), "8", "As `--kv-bits`; 16: as the model computes.")
    draft_model: str | None = _key(
        "draft-model", text(), '"mlx-community/Qwen3-0.6B-4bit"', "A small model that guesses for this one."
    )
    distributed: Hosts | None = _key(  # noqa: RUF009
        "distributed",
        hostfile(may_be_none=True),
        '"none"',
        "A host file, as `--distributed`; `none`: on this machine alone.",
    )
    idle_timeout: float | None = _key("idle-timeout", number(0), "0", "As `--idle-timeout`; 0: never.")
    pinned: bool | None = _key("pinned", boolean(), "true", "Loaded at the start, and never unloaded for time or room.")
    trust_remote_code: bool | None = _key(
        "trust-remote-code", boolean(), "true", "Run Python code that the model brings along, or never."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """One model's table. It travels with the model's name to where the model is loaded and asked."""

    requests: RequestDefaults = RequestDefaults()
    loading: Loading = Loading()

    def over(self, other: ModelOptions) -> ModelOptions:
        """These, and the other's where these say nothing."""
        return ModelOptions(requests=over(self.requests, other.requests), loading=over(self.loading, other.loading))


T = TypeVar("T", RequestDefaults, Loading)


def over(upper: T, lower: T) -> T:
    """The values of `upper`, and those of `lower` where it has none."""
    missing = {f.name: getattr(lower, f.name) for f in fields(upper) if getattr(upper, f.name) is None}
    return replace(upper, **missing)


def _keys(part: type[RequestDefaults | Loading]) -> dict[str, ModelKey]:
    """By the name of the field."""
    return {f.name: f.metadata["key"] for f in fields(part)}


MODEL_KEYS: Final = (*_keys(RequestDefaults).values(), *_keys(Loading).values())


def build(values: Mapping[str, Any]) -> ModelOptions:
    """From values by the names of their keys."""

    def part(cls: type[Any]) -> Any:
        return cls(**{name: values[key.name] for name, key in _keys(cls).items() if key.name in values})

    return ModelOptions(requests=part(RequestDefaults), loading=part(Loading))
