"""The configuration: flags over the environment over the defaults."""

from mlx_server_nano.config.client import Connection, connection
from mlx_server_nano.config.environment import WORKER_VARIABLES, export_hub, worker_environment
from mlx_server_nano.config.errors import SettingError
from mlx_server_nano.config.resolve import resolve
from mlx_server_nano.config.settings import SETTINGS, Setting, Settings

__all__ = [
    "SETTINGS",
    "WORKER_VARIABLES",
    "Connection",
    "Setting",
    "SettingError",
    "Settings",
    "connection",
    "export_hub",
    "resolve",
    "worker_environment",
]
