"""Which model types mlx-lm can load, read from its files: importing it would cost the gateway seconds and MLX."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path


def known_model_types() -> frozenset[str]:
    """The values of `model_type` in config.json that the installed mlx-lm knows: its model modules and `MODEL_REMAPPING`.

    Empty where mlx-lm is not installed or looks different: then nothing can be said, and the worker judges.
    """
    spec = importlib.util.find_spec("mlx_lm")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    package = Path(spec.submodule_search_locations[0])
    modules = {file.stem for file in (package / "models").glob("*.py")}
    try:
        aliases = _remapping((package / "utils.py").read_text())
    except (OSError, ValueError, SyntaxError):
        return frozenset()
    return frozenset(modules | aliases)


def _remapping(source: str) -> set[str]:
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "MODEL_REMAPPING" for t in node.targets
        ):
            return set(ast.literal_eval(node.value))
    raise ValueError("no MODEL_REMAPPING")
