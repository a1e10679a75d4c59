"""The models of this machine, as the settings give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from mlx_server_nano.config import SettingError, Settings, export_hub, resolve

if TYPE_CHECKING:
    from mlx_server_nano.models.catalog import Catalog

# Of the settings, those that say where models are and what they are called.
OPTIONS: Final = ("config", "model_cache_dir")


def catalog_of(settings: Settings, *, allow_local_paths: bool) -> Catalog:
    from mlx_server_nano.models.catalog import BUILT_IN, Catalog

    return Catalog(
        built_in=BUILT_IN,
        aliases=settings.alias,
        model_map=settings.model_map,
        allow_local_paths=allow_local_paths,
        trust_remote_code=settings.trust_remote_code,
        tables=settings.models,
    )


def local_catalog(flags: Mapping[str, Any]) -> Catalog:
    """For commands that need no server. Raises click.UsageError."""
    try:
        settings = resolve({name: flags.get(name) for name in (*OPTIONS, "trust_remote_code")})
    except SettingError as error:
        raise click.UsageError(str(error)) from None
    export_hub(settings)
    return catalog_of(settings, allow_local_paths=True)
