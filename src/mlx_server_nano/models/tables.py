"""What the configuration says of a model, found by the names that it goes by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mlx_server_nano.config.models import ModelOptions
from mlx_server_nano.models import names


class Tables:
    """Of several tables that fit a model, the one under the most exact name counts, then the first."""

    def __init__(self, tables: Sequence[tuple[str, ModelOptions]]) -> None:
        self._tables = dict(tables)

    def __iter__(self) -> Iterator[str]:
        """The names that tables stand under."""
        return iter(self._tables)

    def __contains__(self, name: str) -> bool:
        return name in self._tables

    def under(self, name: str) -> ModelOptions:
        """The table under this very name."""
        return self._tables.get(name, ModelOptions())

    def of(self, model: str) -> ModelOptions:
        """The table of a model with this id. One under a short name is for every repository that the name fits."""
        fits = [(fit, options) for name, options in self._tables.items() if (fit := _fit(name, model)) is not None]
        return min(fits, key=lambda found: found[0])[1] if fits else ModelOptions()


def _fit(name: str, model: str) -> int | None:
    """How well a table's name fits a model's id: 0: it is the same; more: a short name for it; None: it is another's."""
    if name == model:
        return 0
    if names.is_path(name):
        return 0 if str(Path(name).expanduser().absolute()) == model else None
    if not names.is_repository(model):
        return None
    if names.is_repository(name):
        return 0 if name.casefold() == model.casefold() else None
    rank = names.rank(name, model)
    return None if rank is None else rank + 1
