"""The worker's imports."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

from mlx_server_nano.worker.imports import quick_imports

ONCE = """
import functools, gc, os, sys
from mlx_server_nano.worker.imports import quick_imports
finders, lru_cache = list(sys.meta_path), functools.lru_cache
with quick_imports():
    import mlx_lm
assert sys.meta_path[: len(finders)] == finders and functools.lru_cache is lru_cache and gc.isenabled()
import transformers
from transformers.utils import import_utils
scan = import_utils.create_import_structure_from_path
models = os.path.dirname(transformers.models.__file__)
folders = sum("__pycache__" not in path for path, _, _ in os.walk(models))
# It is asked for all folders twice, but for those within folders that it knows, and for a few elsewhere.
asked = scan.cache_info()
assert asked.hits > 0.9 * folders and asked.misses < 1.1 * folders, asked
quick = scan(models)
scan.cache_clear()
read = []
import_utils.fetch__all__ = lambda text, original=import_utils.fetch__all__.__wrapped__: read.append(1) or original(text)
assert scan(models) == quick and len(read) > folders
"""


def test_transformers_looks_at_each_folder_once_and_finds_the_same():
    subprocess.run([sys.executable, "-c", ONCE], check=True, timeout=60)


def test_what_fails_leaves_nothing_behind():
    finders = list(sys.meta_path)
    try:
        with quick_imports():
            assert sys.meta_path != finders and not gc.isenabled()
            raise ImportError
    except ImportError:
        pass
    finally:
        gc.unfreeze()
    assert sys.meta_path == finders and gc.isenabled()


OTHER = """
from mlx_server_nano.worker.imports import quick_imports
with quick_imports():
    from transformers.utils import import_utils
assert import_utils.create_import_structure_from_path is import_utils.same
"""


def test_a_version_with_other_functions_is_imported_as_it_is(tmp_path):
    utils = tmp_path / "transformers" / "utils"
    utils.mkdir(parents=True)
    for folder in (utils, utils.parent):
        (folder / "__init__.py").touch()
    (utils / "import_utils.py").write_text("def same(path): ...\n\ncreate_import_structure_from_path = same\n")
    subprocess.run(
        [sys.executable, "-c", OTHER], check=True, timeout=60, env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
