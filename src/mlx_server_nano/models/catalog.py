"""Which models there are: built in, in the Hub's cache, in local folders; and what a name stands for.

A complete cached snapshot is used as it is, without asking the Hub whether there is a newer one: a cached model loads
without a network, and stays the same until somebody downloads it again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Final

from mlx_server_nano.config.aliases import follow
from mlx_server_nano.config.models import ModelOptions
from mlx_server_nano.errors import ModelNotFoundError, UnsupportedModelError
from mlx_server_nano.models import adapters, cache, names
from mlx_server_nano.models import folder as model_folder
from mlx_server_nano.models.architectures import known_model_types
from mlx_server_nano.models.names import ModelKind, ModelRef
from mlx_server_nano.models.tables import Tables

DEMO: Final = "demo"
BUILT_IN: Final[Mapping[str, Path]] = {DEMO: Path(__file__).parents[1] / "demo"}


@dataclass(frozen=True, slots=True)
class AvailableModel:
    """A model that can be named. created: when its files came, or, without files yet, when the server started; in Unix
    seconds. alias: the name by which it is listed, if that is not its own."""

    ref: ModelRef
    created: int
    alias: str | None = None


class Catalog:
    """Resolves names and lists what is there. Reads the disk, so call it off the event loop; never uses the network.

    cache_dir: the Hub's cache; None: where huggingface_hub keeps it. built_in: names of models that come with the server,
    with their folders. aliases: pairs of an exact name and what it stands for (see `config.aliases`). model_map: pairs of a
    pattern of shells' kind and the name that stands for all names that fit it. allow_local_paths: whether clients may name
    folders. trust_remote_code: patterns of the models whose own code may run. tables: what the
    configuration says of models, by their names or aliases.
    """

    def __init__(
        self,
        *,
        cache_dir: Path | None = None,
        built_in: Mapping[str, Path] | None = None,
        aliases: Sequence[tuple[str, str]] = (),
        model_map: Sequence[tuple[str, str]] = (),
        allow_local_paths: bool = True,
        trust_remote_code: Sequence[str] = (),
        tables: Sequence[tuple[str, ModelOptions]] = (),
    ) -> None:
        self._cache_dir = cache_dir
        self._built_in = dict(built_in or {})
        self._aliases = dict(aliases)
        self._model_map = tuple(model_map)
        self._started = int(time.time())
        self._allow_local_paths = allow_local_paths
        self._trust_remote_code = tuple(trust_remote_code)
        self._tables = Tables(tables)

    @cached_property
    def cache_dir(self) -> Path:
        if self._cache_dir is not None:
            return self._cache_dir
        from huggingface_hub.constants import HF_HUB_CACHE

        return Path(HF_HUB_CACHE)

    @cached_property
    def _model_types(self) -> frozenset[str]:
        return known_model_types()

    def trusts(self, model: str) -> bool:
        """Whether the operator lets code run that the model of this id brings along."""
        trusted = self._tables.of(model).loading.trust_remote_code
        if trusted is not None:
            return trusted
        return any(fnmatchcase(model, pattern) for pattern in self._trust_remote_code)

    def resolve(self, name: str) -> ModelRef:
        """The model that a name stands for.

        Raises ModelNotFoundError for what can be no model's name, a folder that is not there, an ambiguous short name and
        a built-in model whose files are missing; UnsupportedModelError for a folder or a cached repository that mlx-lm
        cannot load.
        """
        *aliases, own = self._follow(name)
        special = ModelOptions()
        for alias in aliases:
            special = special.over(self._tables.under(alias))
        ref = self._find(own, by_operator=own != name or own in self._tables)
        usual = self._tables.of(ref.id)
        options = special.over(usual)
        if options.loading == usual.loading:
            return replace(ref, options=options)
        return replace(ref, options=options, alias=next(alias for alias in aliases if alias in self._tables))

    def _find(self, name: str, *, by_operator: bool) -> ModelRef:
        """by_operator: the client has not chosen this name itself."""
        if (folder := self._built_in.get(name.casefold())) is not None:
            return self._ours(name.casefold(), folder)
        if names.is_path(name):
            if not by_operator and not self._allow_local_paths:
                raise ModelNotFoundError("This server does not load models by path.")
            return self._local(name)
        if not names.is_possible(name):
            raise ModelNotFoundError(f"{name!r} can be no model's name.")
        cached = cache.repositories(self.cache_dir)
        if names.is_repository(name):
            return self._repository(name, cached)
        ranked = [
            (rank, repository, folder)
            for repository, storage in sorted(cached.items())
            if (rank := names.rank(name, repository)) is not None and (folder := self._usable(storage))
        ]
        best = [item for item in ranked if item[0] == min(ranked)[0]]
        if len(best) > 1:
            fitting = ", ".join(repository for _, repository, _ in best)
            raise ModelNotFoundError(f"{name!r} may be any of {fitting}: give the full name.")
        if best:
            return ModelRef(best[0][1], ModelKind.HUB, best[0][2])
        return self._repository(f"{names.DEFAULT_OWNER}/{name}", cached)

    def _follow(self, name: str) -> tuple[str, ...]:
        """The aliases that lead from this name, or from what the first pattern gives that fits it, to a model's own; and that."""
        if name not in self._aliases:
            name = next((model for pattern, model in self._model_map if fnmatchcase(name, pattern)), name)
        return follow(name, self._aliases)

    def pinned(self) -> list[str]:
        """The names in the configuration whose models are never to be unloaded."""

        def is_pinned(name: str) -> bool | None:
            try:
                return self.resolve(name).options.loading.pinned
            except (ModelNotFoundError, UnsupportedModelError):
                return self._tables.under(name).loading.pinned  # whoever loads it learns why it can't be

        return list(filter(is_pinned, self._tables))

    def adapter(self, name: str) -> Path | None:
        """The folder of a LoRA adapter. None, ModelLoadError: as `adapters.find` says."""
        return adapters.find(name, self.cache_dir)

    def available(self) -> list[AvailableModel]:
        """All models that are usable without a download, local folders aside: built-in ones, then cached ones by name. Then
        the aliases, whether or not their models are there yet, but for those that stand for none."""
        found = [
            ModelRef(name, ModelKind.BUILT_IN, folder)
            for name, folder in self._built_in.items()
            if self._loadable(folder, name)
        ]
        cached = cache.repositories(self.cache_dir)
        found += [
            ModelRef(name, ModelKind.HUB, self._usable(cached[name])) for name in sorted(cached, key=str.casefold)
        ]
        models = []
        for ref in found:
            with contextlib.suppress(OSError):
                if ref.folder is not None:
                    models.append(AvailableModel(ref, int(ref.folder.stat().st_mtime)))
        for alias in self._aliases:
            with contextlib.suppress(OSError, ModelNotFoundError, UnsupportedModelError):
                models.append(self.find(alias))
        return models

    def find(self, name: str) -> AvailableModel:
        """One model, by any name. Raises ModelNotFoundError, also for what must be downloaded first and has no alias, and what
        `resolve` raises."""
        ref = self.resolve(name)
        alias = name if name in self._aliases else None
        if ref.folder is not None:
            return AvailableModel(ref, int(ref.folder.stat().st_mtime), alias)
        if alias is None:
            raise ModelNotFoundError(f"The model {name!r} is not on this machine.")
        return AvailableModel(ref, self._started, alias)

    def _ours(self, name: str, folder: Path) -> ModelRef:
        if not self._loadable(folder, name):
            raise ModelNotFoundError(
                f"The built-in model {name!r} is not in this installation: its files are missing from {folder}. "
                "Install the package again, or train the model (training/README.md in the source)."
            )
        return ModelRef(name, ModelKind.BUILT_IN, folder)

    def _local(self, name: str) -> ModelRef:
        try:
            folder = Path(name).expanduser().absolute()
            if not folder.is_dir():
                raise ModelNotFoundError(f"There is no folder {folder}.")
            self._check(folder, str(folder))
        except (OSError, RuntimeError) as error:
            raise ModelNotFoundError(f"The folder {name} can't be read: {error}") from error
        return ModelRef(str(folder), ModelKind.LOCAL, folder)

    def _repository(self, name: str, cached: Mapping[str, Path]) -> ModelRef:
        if name not in cached:
            name = next((known for known in cached if known.casefold() == name.casefold()), name)
        if name not in cached:
            return ModelRef(name, ModelKind.HUB, None)
        folder = self._usable(cached[name])
        if folder is None:
            self._refuse_unsupported(name, cached[name])
        return ModelRef(name, ModelKind.HUB, folder)

    def _refuse_unsupported(self, name: str, storage: Path) -> None:
        """A cached config.json may settle without the Hub that the model cannot be loaded; missing files settle nothing."""
        for snapshot in cache.snapshots(storage)[:1]:
            with contextlib.suppress(OSError):
                text = (snapshot / "config.json").read_bytes()
                model_folder.check_config(text, name, self._model_types, trust_remote_code=self.trusts(name))

    def _usable(self, storage: Path) -> Path | None:
        """The newest snapshot that is complete and loadable."""
        model = cache.repository_id(storage) or storage.name
        return next((snapshot for snapshot in cache.snapshots(storage) if self._loadable(snapshot, model)), None)

    def _loadable(self, folder: Path, model: str) -> bool:
        try:
            self._check(folder, model)
        except (OSError, UnsupportedModelError):
            return False
        return True

    def _check(self, folder: Path, model: str) -> None:
        model_folder.check_folder(folder, model, self._model_types, trust_remote_code=self.trusts(model))
