"""Every setting, once: its flag, its environment variable, its default and what it means. README's table of settings is
checked against `SETTINGS` by a test."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mlx_server_nano.config.hosts import Hosts, hostfile
from mlx_server_nano.config.models import ModelOptions
from mlx_server_nano.config.values import (
    Kind,
    boolean,
    choice,
    count_or_unset,
    directory,
    file,
    host,
    host_name,
    integer,
    key,
    key_file,
    matching,
    memory,
    number,
    one_of,
    optional,
    origin,
    pair,
    pattern,
    text,
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the settings table. repeatable: the value is a tuple of what `kind` describes: the flag may come several
    times, which is the same as its values with commas between them; in the configuration file it is a list. Without a metavar
    it is a switch. secret: its value is never shown, nor given to workers."""

    name: str
    flag: str
    env: str | None
    kind: Kind
    metavar: str
    help: str
    repeatable: bool = False
    secret: bool = False

    def parse(self, text: str) -> Any:
        """The value of a flag or a variable. Raises ValueError with the reason."""
        if not self.repeatable:
            return self.kind.parse(text)
        return tuple(self.kind.parse(item) for item in map(str.strip, text.split(",")) if item)

    def read(self, value: Any) -> Any:
        """The value of a TOML key. Raises ValueError with the reason."""
        if not self.repeatable:
            return self.kind.read(value)
        if not isinstance(value, list):
            raise ValueError("not a list")
        return tuple(self.kind.read(item) for item in value)

    @property
    def key(self) -> str:
        """In the configuration file."""
        return self.flag.partition("/")[0].removeprefix("--")

    @property
    def in_file(self) -> bool:
        """Whether a configuration file may hold it: one can't name another."""
        return self.name != "config"

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


LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")

SETTINGS: Final = (
    Setting(
        "config",
        "--config",
        "MLX_CONFIG",
        optional(file()),
        "FILE",
        "TOML file with settings, and with more for each model (docs/configuration.md).",
    ),
    Setting("host", "--host", "MLX_SERVER_HOST", host(), "ADDRESS", "Address to listen on."),
    Setting("port", "--port", "MLX_SERVER_PORT", integer(0, 65535), "PORT", "Port to listen on; 0: any free one."),
    Setting(
        "log_level", "--log-level", "MLX_LOG_LEVEL", choice(*LOG_LEVELS), "LEVEL", "DEBUG, INFO, WARNING or ERROR."
    ),
    Setting(
        "log_format",
        "--log-format",
        "MLX_LOG_FORMAT",
        matching("text|json", "text or json"),
        "FORMAT",
        "Log lines as text, or as json: one object a line.",
    ),
    Setting("reload", "--reload", None, boolean(), "", "Restart when the source changes (development)."),
    Setting(
        "model_cache_dir",
        "--model-cache-dir",
        None,
        directory(),
        "PATH",
        "The Hub cache to use; else HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE or HF_HOME decide.",
    ),
    Setting(
        "api_key",
        "--api-key",
        "MLX_API_KEY",
        key(),
        "KEY",
        "Key that clients must send, as a bearer token or x-api-key; several with commas, of which any will do. "
        "Other users of the machine can read flags: better the variable or a file.",
        repeatable=True,
        secret=True,
    ),
    Setting(
        "api_key_file",
        "--api-key-file",
        "MLX_API_KEY_FILE",
        key_file(),
        "PATH",
        "A file with such keys, one a line; lines that begin with # are comments.",
    ),
    Setting(
        "cors_origin",
        "--cors-origin",
        "MLX_CORS_ORIGIN",
        origin(),
        "ORIGIN",
        "Let the web pages of an origin use the server, as https://chat.example.org; several with commas; *: all pages.",
        repeatable=True,
    ),
    Setting(
        "allowed_host",
        "--allowed-host",
        "MLX_ALLOWED_HOST",
        host_name(),
        "NAME",
        "A name by which proxies on this machine, or web pages, call this server, as llm.example.org or *.example.org; "
        "several with commas.",
        repeatable=True,
    ),
    Setting(
        "idle_timeout",
        "--idle-timeout",
        "MLX_MODEL_IDLE_TIMEOUT",
        number(0),
        "SECONDS",
        "Unload a model after this long without a request; 0: never.",
    ),
    Setting(
        "default_max_tokens",
        "--default-max-tokens",
        "MLX_DEFAULT_MAX_TOKENS",
        count_or_unset(),
        "N",
        "Bound for requests that name none; unset or 0: until the context is full.",
    ),
    Setting(
        "default_temperature",
        "--default-temperature",
        "MLX_DEFAULT_TEMPERATURE",
        optional(number(0, 2)),
        "T",
        "For requests that name none; unset: the model's generation_config.json, else 0.7.",
    ),
    Setting(
        "max_memory",
        "--max-memory",
        "MLX_MAX_MEMORY",
        optional(memory()),
        "SIZE",
        "Memory for all loaded models together, as 24G; unset: three quarters of what the machine allows.",
    ),
    Setting(
        "max_batch_size",
        "--max-batch-size",
        "MLX_MAX_BATCH_SIZE",
        integer(1, 256),
        "N",
        "Sequences of one model that decode together.",
    ),
    Setting(
        "max_queue",
        "--max-queue",
        "MLX_MAX_QUEUE",
        integer(0),
        "N",
        "Requests of one model that may wait; more get 429.",
    ),
    Setting(
        "prefill_chunk",
        "--prefill-chunk",
        "MLX_PREFILL_CHUNK",
        integer(16, 65536),
        "TOKENS",
        "Prompt tokens per engine step while nothing decodes.",
    ),
    Setting(
        "busy_prefill_chunk",
        "--busy-prefill-chunk",
        "MLX_BUSY_PREFILL_CHUNK",
        integer(16, 65536),
        "TOKENS",
        "Prompt tokens per engine step while other sequences decode.",
    ),
    Setting(
        "prefix_cache_memory",
        "--prefix-cache-memory",
        "MLX_PREFIX_CACHE_MEMORY",
        optional(memory(zero=True)),
        "SIZE",
        "For each model, KV caches of earlier prompts and answers, as 4G; 0: none; unset: a tenth of the memory.",
    ),
    Setting(
        "kv_bits",
        "--kv-bits",
        "MLX_KV_BITS",
        optional(one_of(4, 8, 16)),
        "BITS",
        "Quantize KV caches to 8 or 4 bits, where a model's attention can read them; 16 or unset: as the model computes.",
    ),
    Setting(
        "speculation",
        "--speculation/--no-speculation",
        "MLX_SPECULATION",
        boolean(),
        "",
        "Guess tokens from what was said before and verify several at once, where that is faster.",
    ),
    Setting(
        "draft_model",
        "--draft-model",
        "MLX_DRAFT_MODEL",
        optional(text()),
        "MODEL",
        "A small model that guesses for every model with the same vocabulary, which verifies.",
    ),
    Setting(
        "distributed",
        "--distributed",
        "MLX_DISTRIBUTED",
        optional(hostfile()),
        "HOSTFILE",
        "Run every model on several machines together: those of a host file of mlx.launch (docs/distributed.md).",
    ),
    Setting(
        "prefix_cache_dir",
        "--prefix-cache-dir",
        "MLX_PREFIX_CACHE_DIR",
        optional(directory()),
        "PATH",
        "Folder for KV caches that leave the memory, so that they outlive an unload and a restart; unset: none.",
    ),
    Setting(
        "prefix_cache_disk",
        "--prefix-cache-disk",
        "MLX_PREFIX_CACHE_DISK",
        memory(),
        "SIZE",
        "What that folder may hold, all models together; five times as much is written a day at most.",
    ),
    Setting("max_body", "--max-body", "MLX_MAX_BODY", memory(), "SIZE", "Largest request body."),
    Setting(
        "keepalive_interval",
        "--keepalive-interval",
        "MLX_KEEPALIVE_INTERVAL",
        number(0.05, 3600),
        "SECONDS",
        "Silence after which a stream gets a keep-alive comment.",
    ),
    Setting(
        "shutdown_timeout",
        "--shutdown-timeout",
        "MLX_SHUTDOWN_TIMEOUT",
        number(0),
        "SECONDS",
        "How long SIGTERM lets running requests finish.",
    ),
    Setting(
        "spare_worker",
        "--spare-worker/--no-spare-worker",
        "MLX_SPARE_WORKER",
        boolean(),
        "",
        "Keep one worker process warm, so that a model loads seconds sooner.",
    ),
    Setting(
        "alias",
        "--alias",
        "MLX_ALIAS",
        pair("fast=qwen3-4b"),
        "NAME=MODEL",
        "Another name for a model, as fast=qwen3-4b, listed beside it; several with commas.",
        repeatable=True,
    ),
    Setting(
        "model_map",
        "--model-map",
        "MLX_MODEL_MAP",
        pair("claude-*=qwen3-8b"),
        "PATTERN=MODEL",
        "Use a model for names that fit a pattern, as claude-*=qwen3-8b; several with commas, the first that fits counts.",
        repeatable=True,
    ),
    Setting(
        "tool_format",
        "--tool-format",
        "MLX_TOOL_FORMAT",
        pair("*/Hermes-*=hermes"),
        "PATTERN=FORMAT",
        "Format of tool calls and reasoning (docs/formats.md) for models that fit a pattern, whatever their template tells.",
        repeatable=True,
    ),
    Setting(
        "local_paths",
        "--local-paths/--no-local-paths",
        "MLX_LOCAL_PATHS",
        optional(boolean()),
        "",
        "Let clients name a folder of this machine as the model; unset: only while the server listens on loopback alone.",
    ),
    Setting(
        "trust_remote_code",
        "--trust-remote-code",
        "MLX_TRUST_REMOTE_CODE",
        pattern(),
        "PATTERN",
        "Run Python code that a model brings along, for models that fit a pattern, as org/model; several with commas.",
        repeatable=True,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The resolved settings; the fields are those of `SETTINGS`, and the configuration file's tables for models with the names
    that they stand under. Sizes in bytes, times in seconds."""

    config: Path | None = None
    host: str = "0.0.0.0"  # noqa: S104
    port: int = 8000
    log_level: str = "INFO"
    log_format: str = "text"
    reload: bool = False
    model_cache_dir: Path | None = None
    api_key: tuple[str, ...] = field(default=(), repr=False)
    api_key_file: tuple[str, ...] = field(default=(), repr=False)
    cors_origin: tuple[str, ...] = ()
    allowed_host: tuple[str, ...] = ()
    idle_timeout: float = 300.0
    default_max_tokens: int | None = None
    default_temperature: float | None = None
    max_memory: int | None = None
    max_batch_size: int = 32
    max_queue: int = 512
    prefill_chunk: int = 2048
    busy_prefill_chunk: int = 512
    prefix_cache_memory: int | None = None
    kv_bits: int | None = None
    speculation: bool = True
    draft_model: str | None = None
    distributed: Hosts | None = None
    prefix_cache_dir: Path | None = None
    prefix_cache_disk: int = 20 << 30
    max_body: int = 64 << 20
    keepalive_interval: float = 5.0
    shutdown_timeout: float = 30.0
    spare_worker: bool = True
    alias: tuple[tuple[str, str], ...] = ()
    model_map: tuple[tuple[str, str], ...] = ()
    tool_format: tuple[tuple[str, str], ...] = ()
    local_paths: bool | None = None
    trust_remote_code: tuple[str, ...] = ()
    models: tuple[tuple[str, ModelOptions], ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """Any of them opens the server; none: it is open."""
        return (*self.api_key, *self.api_key_file)
