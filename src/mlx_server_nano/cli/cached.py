"""`mlx-server-nano pull`, `list` and `rm`: the models of this machine."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from mlx_server_nano.cli.catalogs import OPTIONS, local_catalog
from mlx_server_nano.cli.client import UnreachableError, connect
from mlx_server_nano.cli.names import MODEL
from mlx_server_nano.cli.options import server_options, some_options
from mlx_server_nano.cli.table import duration, size, table

if TYPE_CHECKING:
    from mlx_server_nano.models.catalog import AvailableModel, Catalog


def _pull(*, model: str, **flags: Any) -> None:
    """Download a model into the Hub's cache, or its newest files if it is there already.

    What is complete is not downloaded again, so after an interruption the same command goes on. No server is needed.
    """
    import asyncio

    from mlx_server_nano.errors import ServerError
    from mlx_server_nano.models.download import download
    from mlx_server_nano.models.names import ModelKind

    catalog = local_catalog(flags)
    try:
        ref = catalog.resolve(model)
        if ref.kind is not ModelKind.HUB:
            raise click.ClickException(f"{ref.id} is on this machine and needs no download")
        with _Transfer(ref.id) as transfer:
            trusted = catalog.trusts(ref.id)
            fetched = asyncio.run(download(ref.id, catalog.cache_dir, transfer.show, trust_remote_code=trusted))
    except ServerError as error:
        raise click.ClickException(error.message) from None
    click.echo(f"{fetched.repository} is in {fetched.folder}.")


class _Transfer(contextlib.ExitStack):
    """A bar on stderr for bytes that come; without a terminal there is none."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self._label = label
        self._bar: Any = None
        self._begun = (0.0, 0)

    def show(self, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            self._begun = (time.monotonic(), done)
            self._bar = self.enter_context(
                click.progressbar(
                    length=max(total, 1), label=self._label, file=sys.stderr, item_show_func=lambda _: self._text(total)
                )
            )
        self._bar.update(done - self._bar.pos)

    def _text(self, total: int) -> str:
        began, had = self._begun
        done = 0 if self._bar is None else self._bar.pos
        rate = (done - had) / max(time.monotonic() - began, 0.001)
        return f"{size(done)} of {size(total)}, {size(rate)}/s"


def _list(*, as_json: bool, **flags: Any) -> None:
    """List the models that are on this machine, and aliases."""
    catalog = local_catalog(flags)
    models = [entry for model in catalog.available() if (entry := _entry(catalog, model)) is not None]
    if as_json:
        click.echo(json.dumps(models, indent=2))
        return
    now = time.time()
    rows = [
        (
            model["id"],
            f"= {model['alias_of']}" if model["alias_of"] else size(model["size_bytes"]),
            model["quantization"],
            model["tool_format"],
            f"{model['context_length']:,}" if model["context_length"] else "",
            f"{duration(max(now - model['last_used'], 0))} ago" if model["last_used"] else "",
        )
        for model in models
    ]
    click.echo(table(("MODEL", "SIZE", "WEIGHTS", "FORMAT", "CONTEXT", "LAST USED"), rows, right=(4,)))


def _entry(catalog: Catalog, model: AvailableModel) -> dict[str, Any] | None:
    """None if its files went away meanwhile."""
    from mlx_server_nano.errors import ServerError
    from mlx_server_nano.models.facts import read_facts

    ref = model.ref
    told: dict[str, Any] = {"id": model.alias or ref.id, "alias_of": ref.id if model.alias else None}
    if ref.folder is None or model.alias:
        return {
            **told,
            "size_bytes": 0,
            "quantization": "",
            "tool_format": "",
            "context_length": None,
            "last_used": None,
        }
    try:
        facts = read_facts(ref.folder, catalog.resolve(ref.id).options.requests.tool_format)
    except (OSError, ServerError):
        return None
    return {
        **told,
        "size_bytes": facts.size,
        "quantization": facts.quantization,
        "tool_format": facts.tool_format,
        "context_length": facts.context_length,
        "last_used": facts.last_used,
    }


def _rm(*, models: tuple[str, ...], yes: bool, **flags: Any) -> int:
    """Delete models from the Hub's cache. Asks first; a model that a server has loaded stays."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    catalog = local_catalog(flags)
    wanted = {_repository(catalog, name) for name in models}
    _refuse_loaded(catalog, wanted, flags)
    try:
        cached = scan_cache_dir(catalog.cache_dir)
    except CacheNotFound:
        raise click.ClickException(f"there is no cache at {catalog.cache_dir}") from None
    repositories = [repo for repo in cached.repos if repo.repo_type == "model" and repo.repo_id in wanted]
    if broken := wanted - {repo.repo_id for repo in repositories}:
        folder = catalog.cache_dir / f"models--{min(broken).replace('/', '--')}"
        raise click.ClickException(
            f"{min(broken)} is not complete enough to be deleted by the Hub's rules: delete {folder}"
        )
    strategy = cached.delete_revisions(*(revision.commit_hash for repo in repositories for revision in repo.revisions))
    freed = size(strategy.expected_freed_size)
    names = ", ".join(sorted(wanted))
    if not yes and not click.confirm(f"Delete {names} and free {freed}?", err=True):
        click.echo("Nothing is deleted.")
        return 1
    strategy.execute()
    click.echo(f"Deleted {names}: {freed} are free.")
    return 0


def _repository(catalog: Catalog, name: str) -> str:
    """The id of a cached repository, usable or not. Raises click.ClickException."""
    from mlx_server_nano.errors import ServerError
    from mlx_server_nano.models import cache
    from mlx_server_nano.models.names import ModelKind

    ids = {repository.casefold(): repository for repository in cache.repositories(catalog.cache_dir)}
    if name.casefold() in ids:
        return ids[name.casefold()]
    try:
        ref = catalog.resolve(name)
    except ServerError as error:
        raise click.ClickException(error.message) from None
    if ref.kind is ModelKind.BUILT_IN:
        raise click.ClickException(f"{ref.id} is part of the package")
    if ref.kind is ModelKind.LOCAL:
        raise click.ClickException(f"{ref.id} is a folder of yours: delete it yourself")
    if ref.id.casefold() not in ids:
        raise click.ClickException(f"{ref.id} is not in the cache ({catalog.cache_dir})")
    return ids[ref.id.casefold()]


def _refuse_loaded(catalog: Catalog, wanted: set[str], flags: dict[str, Any]) -> None:
    """Raises click.ClickException if a server runs and has one of them loaded, or does not tell."""
    from mlx_server_nano.errors import ServerError

    client = connect(flags)
    try:
        loaded = [model["id"] for model in client.get("/admin/status")["models"]]
    except UnreachableError:
        return
    for name in loaded:
        with contextlib.suppress(ServerError):
            if catalog.resolve(name).id in wanted:
                raise click.ClickException(f"the server at {client.url} has {name} loaded: mlx-server-nano stop {name}")


_AS_JSON = click.Option(
    ["as_json", "--json"], is_flag=True, help="As JSON, with sizes in bytes and times in Unix seconds."
)

pull = click.Command(
    "pull",
    callback=_pull,
    params=[click.Argument(["model"], type=MODEL), *some_options(*OPTIONS, "trust_remote_code")],
    help=_pull.__doc__,
)
list_command = click.Command("list", callback=_list, params=[_AS_JSON, *some_options(*OPTIONS)], help=_list.__doc__)
rm = click.Command(
    "rm",
    callback=_rm,
    params=[
        click.Argument(["models"], type=MODEL, nargs=-1, required=True),
        click.Option(["--yes", "-y"], is_flag=True, help="Do not ask."),
        *some_options(*OPTIONS),
        *server_options(),
    ],
    help=_rm.__doc__,
)
