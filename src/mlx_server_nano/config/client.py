"""How commands find a server that runs: flags over the environment over the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from mlx_server_nano.config.environment import environment
from mlx_server_nano.config.errors import SettingError
from mlx_server_nano.config.resolve import given
from mlx_server_nano.config.settings import SETTINGS

URL_VARIABLE: Final = "MLX_SERVER_URL"
_PORT: Final = "port"
_KEYS: Final = ("api_key", "api_key_file")


@dataclass(frozen=True, slots=True)
class Connection:
    """url: of a server, without a slash at its end. key: None: send none. named: somebody has chosen the URL."""

    url: str
    key: str | None = field(default=None, repr=False)
    named: bool = False


def connection(flags: Mapping[str, str | None], variables: Mapping[str, str] | None = None) -> Connection:
    """From the flags `url`, `api_key` and `api_key_file`. Without a URL it is this machine, at the port that the environment
    gives the server. Of several keys the first one is sent. Raises SettingError."""
    variables = environment() if variables is None else variables
    settings = [setting for setting in SETTINGS if setting.name in (_PORT, *_KEYS)]
    values = given(flags, variables, settings)
    keys = [key for name in _KEYS for key in values.get(name, ())]
    url, source = flags.get("url"), "--url"
    if url is None:
        url, source = variables.get(URL_VARIABLE) or None, URL_VARIABLE
    if url is None:
        port = values.get(_PORT) or next(setting.default for setting in settings if setting.name == _PORT)
        return Connection(f"http://127.0.0.1:{port}", keys[0] if keys else None)
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise SettingError(f"{source}: {url!r} is not a server's URL such as http://127.0.0.1:8000")
    return Connection(url.rstrip("/").removesuffix("/v1"), keys[0] if keys else None, named=True)
