"""Every setting, once: its flag, its environment variable, its default and what it means.

A flag beats the environment, the environment beats the default. This module is the only reader of os.environ;
`export_hub` is the one place that writes it, for huggingface_hub and the worker processes. README's table of settings
is checked against `SETTINGS` by a test."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final


class SettingError(ValueError):
    """A setting's value is unusable. The message is one line that names the flag or variable."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the settings table. `parse` turns text to the value and raises ValueError with the reason. repeatable: the
    flag may come several times, which is the same as its values with commas between them."""

    name: str
    flag: str
    env: str | None
    parse: Callable[[str], Any]
    metavar: str
    help: str
    repeatable: bool = False

    @property
    def default(self) -> Any:
        return Settings.__dataclass_fields__[self.name].default

    @property
    def default_text(self) -> str:
        """As the help and the documentation show it; empty: unset."""
        default = self.default
        if default is None or default == ():
            return ""
        if isinstance(default, bool):
            return "on" if default else "off"
        if self.metavar == "SIZE":
            return f"{default >> 20}M"
        return f"{default:g}" if isinstance(default, float) else str(default)


def _integer(low: int, high: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError("not a whole number") from None
        if value < low or (high is not None and value > high):
            raise ValueError(f"not in {low}..{high}" if high is not None else f"less than {low}")
        return value

    return parse


def _number(low: float, high: float | None = None) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError("not a number") from None
        if not value >= low or value == float("inf") or (high is not None and value > high):
            raise ValueError(f"not in {low:g}..{high:g}" if high is not None else f"not a number of {low:g} or more")
        return value

    return parse


def _choice(*values: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.upper() in values:
            return text.upper()
        raise ValueError(f"not one of {', '.join(values)}")

    return parse


def _boolean(text: str) -> bool:
    lowered = text.lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("not a boolean (true or false)")


_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def _memory(text: str) -> int:
    """Bytes from `24G`, `512M`, `1.5GB`, `1.5GiB`, `1000000`; binary units."""
    cleaned = text.strip().upper().removesuffix("IB").removesuffix("B")
    number, unit = (cleaned[:-1], cleaned[-1]) if cleaned[-1:].isalpha() else (cleaned, "")
    try:
        value = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        raise ValueError("not a size such as 24G or 512M") from None
    if not 0 < value < (1 << 60):
        raise ValueError("not a size such as 24G or 512M")
    return int(value)


def _directory(text: str) -> Path:
    if not text:
        raise ValueError("empty")
    path = Path(text).expanduser()
    if path.exists() and not path.is_dir():
        raise ValueError("not a folder")
    return path.absolute()


def _host(text: str) -> str:
    if not text or any(c.isspace() for c in text):
        raise ValueError("not a host name or address")
    return text


def _optional(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """An empty text means: not set."""

    def parse_optional(text: str) -> Any:
        return parse(text) if text else None

    return parse_optional


def _count_or_unset(text: str) -> int | None:
    return (_integer(0)(text) or None) if text else None


def _memory_or_none(text: str) -> int | None:
    if not text:
        return None
    return 0 if text == "0" else _memory(text)


def _pairs(example: str) -> Callable[[str], tuple[tuple[str, str], ...]]:
    """Pairs of a pattern and what it stands for, from a list such as the example."""

    def parse(text: str) -> tuple[tuple[str, str], ...]:
        pairs = []
        for item in filter(None, (item.strip() for item in text.split(","))):
            pattern, _, value = item.partition("=")
            if not pattern or not value:
                raise ValueError(f"not a list such as {example}")
            pairs.append((pattern, value))
        return tuple(pairs)

    return parse


LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")

SETTINGS: Final = (
    Setting("host", "--host", "MLX_SERVER_HOST", _host, "ADDRESS", "Address to listen on."),
    Setting("port", "--port", "MLX_SERVER_PORT", _integer(0, 65535), "PORT", "Port to listen on; 0: any free one."),
    Setting(
        "log_level", "--log-level", "MLX_LOG_LEVEL", _choice(*LOG_LEVELS), "LEVEL", "DEBUG, INFO, WARNING or ERROR."
    ),
    Setting("reload", "--reload", None, _boolean, "", "Restart when the source changes (development)."),
    Setting(
        "model_cache_dir",
        "--model-cache-dir",
        None,
        _directory,
        "PATH",
        "The Hub cache to use; else HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE or HF_HOME decide.",
    ),
    Setting(
        "api_key", "--api-key", "MLX_API_KEY", _optional(str), "KEY", "Key that clients must send as a bearer token."
    ),
    Setting(
        "idle_timeout",
        "--idle-timeout",
        "MLX_MODEL_IDLE_TIMEOUT",
        _number(0),
        "SECONDS",
        "Unload a model after this long without a request; 0: never.",
    ),
    Setting(
        "default_max_tokens",
        "--default-max-tokens",
        "MLX_DEFAULT_MAX_TOKENS",
        _count_or_unset,
        "N",
        "Bound for requests that name none; unset or 0: until the context is full.",
    ),
    Setting(
        "default_temperature",
        "--default-temperature",
        "MLX_DEFAULT_TEMPERATURE",
        _optional(_number(0, 2)),
        "T",
        "For requests that name none; unset: the model's generation_config.json, else 0.7.",
    ),
    Setting(
        "max_memory",
        "--max-memory",
        "MLX_MAX_MEMORY",
        _optional(_memory),
        "SIZE",
        "Memory for all loaded models together, as 24G; unset: three quarters of what the machine allows.",
    ),
    Setting(
        "max_batch_size",
        "--max-batch-size",
        "MLX_MAX_BATCH_SIZE",
        _integer(1, 256),
        "N",
        "Sequences of one model that decode together.",
    ),
    Setting(
        "max_queue",
        "--max-queue",
        "MLX_MAX_QUEUE",
        _integer(0),
        "N",
        "Requests of one model that may wait; more get 429.",
    ),
    Setting(
        "prefill_chunk",
        "--prefill-chunk",
        "MLX_PREFILL_CHUNK",
        _integer(16, 65536),
        "TOKENS",
        "Prompt tokens per engine step while nothing decodes.",
    ),
    Setting(
        "busy_prefill_chunk",
        "--busy-prefill-chunk",
        "MLX_BUSY_PREFILL_CHUNK",
        _integer(16, 65536),
        "TOKENS",
        "Prompt tokens per engine step while other sequences decode.",
    ),
    Setting(
        "prefix_cache_memory",
        "--prefix-cache-memory",
        "MLX_PREFIX_CACHE_MEMORY",
        _memory_or_none,
        "SIZE",
        "For each model, KV caches of earlier prompts and answers, as 4G; 0: none; unset: a tenth of the memory.",
    ),
    Setting("max_body", "--max-body", "MLX_MAX_BODY", _memory, "SIZE", "Largest request body."),
    Setting(
        "keepalive_interval",
        "--keepalive-interval",
        "MLX_KEEPALIVE_INTERVAL",
        _number(0.05, 3600),
        "SECONDS",
        "Silence after which a stream gets a keep-alive comment.",
    ),
    Setting(
        "shutdown_timeout",
        "--shutdown-timeout",
        "MLX_SHUTDOWN_TIMEOUT",
        _number(0),
        "SECONDS",
        "How long SIGTERM lets running requests finish.",
    ),
    Setting(
        "spare_worker",
        "--spare-worker/--no-spare-worker",
        "MLX_SPARE_WORKER",
        _boolean,
        "",
        "Keep one worker process warm, so that a model loads seconds sooner.",
    ),
    Setting(
        "model_map",
        "--model-map",
        "MLX_MODEL_MAP",
        _pairs("claude-*=qwen3-8b,gpt-4o=qwen3-4b"),
        "PATTERN=MODEL",
        "Use a model for names that fit a pattern, as claude-*=qwen3-8b; several with commas, the first that fits counts.",
        repeatable=True,
    ),
    Setting(
        "tool_format",
        "--tool-format",
        "MLX_TOOL_FORMAT",
        _pairs("*/Hermes-*=hermes,*/mine=qwen-xml"),
        "PATTERN=FORMAT",
        "Format of tool calls and reasoning (docs/formats.md) for models that fit a pattern, whatever their template tells.",
        repeatable=True,
    ),
    Setting(
        "local_paths",
        "--local-paths/--no-local-paths",
        "MLX_LOCAL_PATHS",
        _boolean,
        "",
        "Let clients name a folder of this machine as the model.",
    ),
    Setting(
        "trust_remote_code",
        "--trust-remote-code",
        "MLX_TRUST_REMOTE_CODE",
        _boolean,
        "",
        "Run Python code that a model's repository brings along.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The resolved settings; the fields are those of `SETTINGS`. Sizes in bytes, times in seconds."""

    host: str = "0.0.0.0"  # noqa: S104
    port: int = 8000
    log_level: str = "INFO"
    reload: bool = False
    model_cache_dir: Path | None = None
    api_key: str | None = None
    idle_timeout: float = 300.0
    default_max_tokens: int | None = None
    default_temperature: float | None = None
    max_memory: int | None = None
    max_batch_size: int = 32
    max_queue: int = 512
    prefill_chunk: int = 2048
    busy_prefill_chunk: int = 512
    prefix_cache_memory: int | None = None
    max_body: int = 64 << 20
    keepalive_interval: float = 5.0
    shutdown_timeout: float = 30.0
    spare_worker: bool = True
    model_map: tuple[tuple[str, str], ...] = ()
    tool_format: tuple[tuple[str, str], ...] = ()
    local_paths: bool = True
    trust_remote_code: bool = False


def resolve(flags: Mapping[str, str | bool | None], environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from flags (by setting name; None: not given) over the environment over the defaults.

    Raises SettingError for an unusable value.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        raw = flags.get(setting.name)
        source = setting.flag
        if raw is None and setting.env is not None and setting.env in environment:
            raw, source = environment[setting.env], setting.env
        if raw is None:
            continue
        if isinstance(raw, bool):
            values[setting.name] = raw
            continue
        try:
            values[setting.name] = setting.parse(raw)
        except ValueError as error:
            raise SettingError(f"{source}: {raw!r} is {error}") from None
    return Settings(**values)


def export_hub(settings: Settings) -> None:
    """Put the Hub cache where huggingface_hub looks. Must run before huggingface_hub is imported: it reads the
    environment at import. HUGGINGFACE_HUB_CACHE, the older name, is honoured here whatever the library's version does
    with it."""
    if settings.model_cache_dir is not None:
        os.environ["HF_HUB_CACHE"] = str(settings.model_cache_dir)
    elif "HF_HUB_CACHE" not in os.environ and "HUGGINGFACE_HUB_CACHE" in os.environ:
        os.environ["HF_HUB_CACHE"] = os.environ["HUGGINGFACE_HUB_CACHE"]


def worker_environment() -> dict[str, str]:
    """The environment of a worker process: ours, without the Hub's network. A worker reads only local files."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true", "TRANSFORMERS_VERBOSITY": "error"}
