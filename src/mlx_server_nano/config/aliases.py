"""Other names for models, as pure rules. An alias is an exact name; what it stands for may be an alias too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def follow(name: str, aliases: Mapping[str, str]) -> tuple[str, ...]:
    """The name, what it stands for, what that stands for, ... up to a name that is no alias. Raises ValueError for one that
    comes back to itself."""
    names = [name]
    while (target := aliases.get(names[-1])) is not None:
        names.append(target)
        if target in names[:-1]:
            raise ValueError(f"{' = '.join(names)} goes round in circles")
    return tuple(names)


def check(aliases: Sequence[tuple[str, str]], model_map: Sequence[tuple[str, str]]) -> None:
    """Raises ValueError for a name that stands for two models, or in the end for itself. A pattern that fits an alias is no
    clash unless it is that very name: the alias is the more exact one."""
    targets = dict(aliases)
    for pairs, where in ((aliases, ""), (model_map, " in --model-map")):
        for name, target in pairs:
            if targets.get(name, target) != target:
                raise ValueError(f"{name!r} stands for {targets[name]!r}, and for {target!r}{where}")
    for name in targets:
        follow(name, targets)
