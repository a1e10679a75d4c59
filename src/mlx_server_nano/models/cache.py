"""The Hub's cache, as it lies on the disk: `models--owner--name/snapshots/COMMIT`, and the commit of a branch in `refs`."""

from __future__ import annotations

import contextlib
from pathlib import Path


def repositories(cache_dir: Path) -> dict[str, Path]:
    """Ids of the repositories in the cache, usable or not, with their `models--owner--name` folders."""
    found = {}
    with contextlib.suppress(OSError):
        for entry in cache_dir.iterdir():
            if (repository := repository_id(entry)) is not None:
                found[repository] = entry
    return found


def repository_id(storage: Path) -> str | None:
    """Of a `models--owner--name` folder."""
    kind, _, repository = storage.name.partition("--")
    owner, _, name = repository.partition("--")
    return f"{owner}/{name}" if kind == "models" and owner and name else None


def snapshots(storage: Path) -> list[Path]:
    """A cached repository's snapshots: the one that `main` points to first, then the newest."""
    main = ""
    with contextlib.suppress(OSError, ValueError):
        main = (storage / "refs" / "main").read_text().strip()
    try:
        newest = sorted((storage / "snapshots").iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:
        return []
    return sorted(newest, key=lambda path: path.name != main)
