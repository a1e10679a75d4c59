"""The imports that take seconds, without most of what they do in vain.

transformers 5 finds out what its models export by going through their files line by line, 1,700 files in 560 folders, and all of
them twice, as it remembers the last 128 folders only. That is more than a third of the time. Imports nothing heavy."""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Final

_SCANNER: Final = "transformers.utils.import_utils"


@contextmanager
def quick_imports() -> Iterator[None]:
    """While it lasts, transformers is imported so that it looks at each file once and only at its end, with the same outcome. A
    version that has other functions for it is imported as it is. What has been imported is never searched for garbage."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    gc.disable()
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        gc.freeze()
        gc.enable()


class _Finder:
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname == _SCANNER else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def then_change(module: ModuleType) -> None:
                execute(module)
                _change(vars(module))

            vars(spec.loader)["exec_module"] = then_change
        return spec


def _change(functions: dict[str, Any]) -> None:
    scan = getattr(functions.get("create_import_structure_from_path"), "__wrapped__", None)
    if scan is not None:
        functions["create_import_structure_from_path"] = functools.cache(scan)
    exported = functions.get("fetch__all__")
    if exported is not None:
        functions["fetch__all__"] = _from_last(exported)


def _from_last(exported: Callable[[str], Any]) -> Callable[[str], Any]:
    """`exported` looks for the last line of a file that begins with `__all__`; it gets what is left from that line on."""

    @functools.wraps(exported)
    def function(text: str) -> Any:
        return exported(text[text.rfind("\n__all__") + 1 :])

    return function
