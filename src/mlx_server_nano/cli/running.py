"""`mlx-server-nano ps`, `load` and `stop`: the models of a server that runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from mlx_server_nano.cli.client import Client, RefusedError, connect
from mlx_server_nano.cli.names import MODEL
from mlx_server_nano.cli.options import server_options
from mlx_server_nano.cli.table import duration, size, table


def _ps(*, as_json: bool, **flags: Any) -> None:
    """Show the models that a server has loaded, what they do, and when they will be unloaded."""
    status = connect(flags).get("/admin/status")
    if as_json:
        click.echo(json.dumps(status, indent=2))
        return
    rows = [
        (
            model["id"],
            _state(model),
            size(model["memory_bytes"]) if model["memory_bytes"] else "",
            "" if model["context_length"] is None else f"{model['context_length']:,}",
            str(model["running"]),
            str(model["waiting"]),
            _left(model),
        )
        for model in status["models"]
    ]
    if rows:
        head = ("MODEL", "STATE", "MEMORY", "CONTEXT", "RUNNING", "WAITING", "UNLOADED IN")
        click.echo(table(head, rows, right=(2, 3, 4, 5)))
    else:
        click.echo("No model is loaded.")
    memory = status["memory"]
    click.echo(f"{size(memory['used_bytes'])} of {size(memory['limit_bytes'])} are in use.")
    if status["reason"] is not None:
        click.echo(f"{status['status']}: {status['reason']}")


def _state(model: Any) -> str:
    return model["state"] if model["progress"] == 1 else f"{model['state']} {model['progress']:.0%}"


def _left(model: Any) -> str:
    if model["state"] != "ready":
        return ""
    if model["pinned"]:
        return "never (pinned)"
    if model["running"] or model["waiting"]:
        return "in use"
    left = model["idle_seconds_left"]
    return "never" if left is None else duration(left)


def _load(*, model: str, **flags: Any) -> None:
    """Download a model if need be and load it, before the first request does."""
    load(connect(flags), model)
    click.echo(f"{model} is loaded.")


def load(client: Client, model: str) -> None:
    """With a bar for each state on a terminal. Raises click.ClickException."""
    with _bars() as show:
        for event in client.stream("/admin/load", {"model": model}):
            show(event["state"], event["progress"])


@contextmanager
def _bars() -> Iterator[Any]:
    """What is called with a state and its progress."""
    shown: dict[str, Any] = {}

    def show(state: str, progress: float) -> None:
        if state == "ready" or not sys.stderr.isatty():
            return
        if state not in shown:
            finish()
            shown[state] = bar = click.progressbar(length=1000, label=state.capitalize(), file=sys.stderr)
            bar.render_progress()
        bar = shown[state]
        bar.update(round(progress * 1000) - bar.pos)

    def finish() -> None:
        for bar in shown.values():
            if not bar.finished:
                bar.update(1000 - bar.pos)
                bar.render_finish()
                bar.finished = True

    yield show
    finish()


def _stop(*, models: tuple[str, ...], everything: bool, force: bool, **flags: Any) -> int:
    """Unload models. The server itself runs on: it ends with Ctrl-C in its terminal, or `service uninstall`."""
    client = connect(flags)
    if everything == bool(models):
        raise click.UsageError("name models, or say --all")
    if everything:
        models = tuple(model["id"] for model in client.get("/admin/status")["models"] if model["state"] != "unloading")
    failed = 0
    for model in models:
        try:
            client.post("/admin/unload", {"model": model, "force": force})
        except RefusedError as error:
            failed = 1
            message = error.message.replace("`force`", "--force") if error.status == 409 else error.message
            click.echo(message, err=True)
        else:
            click.echo(f"{model} is unloaded.")
    return failed


ps = click.Command(
    "ps",
    callback=_ps,
    params=[click.Option(["as_json", "--json"], is_flag=True, help="As the server tells it."), *server_options()],
    help=_ps.__doc__,
)
load_command = click.Command(
    "load", callback=_load, params=[click.Argument(["model"], type=MODEL), *server_options()], help=_load.__doc__
)
stop = click.Command(
    "stop",
    callback=_stop,
    params=[
        click.Argument(["models"], type=MODEL, nargs=-1),
        click.Option(["everything", "--all"], is_flag=True, help="All of them."),
        click.Option(["--force"], is_flag=True, help="Also one that is pinned or in use, and end its requests."),
        *server_options(),
    ],
    help=_stop.__doc__,
)
