"""`mlx-server-nano [serve]`."""

from __future__ import annotations

import functools
import logging
import os
import socket
from pathlib import Path

import click

from mlx_server_nano.cli.catalogs import catalog_of
from mlx_server_nano.cli.checks import check
from mlx_server_nano.cli.options import setting_options
from mlx_server_nano.config import SettingError, Settings, export_hub, resolve
from mlx_server_nano.logs import configure_logging

logger = logging.getLogger(__name__)


def start(**flags: str | bool | None) -> None:
    """Serve models over HTTP (the default command)."""
    try:
        settings = resolve(flags)
        check(settings)
    except SettingError as error:
        raise click.UsageError(str(error)) from None
    export_hub(settings)
    configure_logging(settings.log_level, settings.log_format)

    from mlx_server_nano.cli.server import is_loopback, listen

    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise click.ClickException(f"cannot listen on {settings.host}:{settings.port}: {reason}") from None
    if not settings.keys and not is_loopback(listener):
        logger.warning(
            "Listening on %s without an API key: anyone who reaches this port can use the server (--api-key-file, --host)",
            settings.host,
        )
    if not settings.keys and "*" in settings.cors_origin:
        logger.warning(
            "Without an API key, any web page can use the server from its visitors' browsers (--cors-origin *)"
        )
    from mlx_server_nano.models.preflight import installation_problem

    if (problem := installation_problem()) is not None:
        logger.error("%s", problem)
    if settings.reload:
        _serve_and_reload(settings, listener)
    else:
        run(settings, [listener])


def run(settings: Settings, sockets: list[socket.socket]) -> None:
    """Serve until a signal comes."""
    configure_logging(settings.log_level, settings.log_format)

    from mlx_server_nano.api.app import build_app
    from mlx_server_nano.api.gate import Gate
    from mlx_server_nano.cli.examples import examples
    from mlx_server_nano.cli.server import Server, is_loopback, url
    from mlx_server_nano.models.catalog import BUILT_IN, DEMO
    from mlx_server_nano.models.manager import Manager

    greeting = examples(url(sockets[0]), DEMO, key=bool(settings.keys))
    if not (folder := BUILT_IN[DEMO]).is_dir():
        greeting = ""
        logger.warning(
            "The model %r is missing from this installation (%s): install the package again, or train it as "
            "training/README.md says. All other models can be used.",
            DEMO,
            folder,
        )
    gate = Gate()
    on_loopback = all(is_loopback(listener) for listener in sockets)
    allowed = on_loopback if settings.local_paths is None else settings.local_paths
    catalog = catalog_of(settings, allow_local_paths=allowed)
    app = build_app(settings, Manager(settings, catalog), catalog, gate)
    Server(app, settings, gate, greeting).run(sockets)


def _serve_and_reload(settings: Settings, listener: socket.socket) -> None:
    """`run` in a child process, started again when a source file changes. The listener is the parent's, so no connection
    is refused between two children."""
    import uvicorn
    from uvicorn.supervisors import ChangeReload

    package = Path(__file__).resolve().parents[1]
    config = uvicorn.Config(__name__, reload=True, reload_dirs=[str(package)], log_config=None)
    ChangeReload(config, target=functools.partial(run, settings), sockets=[listener]).run()


serve = click.Command("serve", callback=start, params=list(setting_options()), help=start.__doc__)
