"""Names of models on the command line, which shells complete."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import CompletionItem


class ModelName(click.types.StringParamType):
    name = "model"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What is on this machine, and aliases. A shell gets no error."""
        from mlx_server_nano.cli.catalogs import local_catalog

        try:
            models = local_catalog(ctx.params).available()
        except click.UsageError:
            return []
        names = [model.alias or model.ref.id for model in models]
        wanted = incomplete.casefold()
        return [CompletionItem(name) for name in names if name.casefold().startswith(wanted)]


MODEL: Final = ModelName()
