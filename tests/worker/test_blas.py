"""Which BLAS the worker lets MLX find."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from functools import partial
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace
from typing import Any

import pytest

from mlx_server_nano.worker.blas import prefer_openblas


class Linker:
    """Libraries by name; notes which come into the global scope, and how many threads they are to have."""

    def __init__(self, threads: int = 1, **builds: bytes | None) -> None:
        self._builds = builds
        self.shared: list[str] = []
        self.threads = threads

    def __call__(self, name: str, mode: int = 0) -> Any:
        if (stem := name.split(".", maxsplit=1)[0]) not in self._builds or not name.endswith(".0"):
            raise OSError(name)
        if mode & ctypes.RTLD_GLOBAL:
            self.shared.append(name)
        build = self._builds[stem]
        if build is None:
            return SimpleNamespace(scipy_cblas_sgemm=1)

        def config() -> bytes:
            return build

        return SimpleNamespace(
            cblas_sgemm=1,
            cblas_cgemm=1,
            sgesdd_=1,
            openblas_get_config=config,
            openblas_get_num_threads=lambda: self.threads,
            openblas_set_num_threads=partial(setattr, self, "threads"),
        )


def cpu(name: str) -> str:
    return {"mlx-cpu": "1"}[name]


def no_cpu(name: str) -> str:
    raise PackageNotFoundError(name)


def test_an_openblas_is_shared_with_mlx():
    linker = Linker(libopenblas=b"OpenBLAS 0.3.21 Zen MAX_THREADS=64 ")
    assert prefer_openblas("linux", linker, cpu) == "OpenBLAS 0.3.21 Zen MAX_THREADS=64"
    assert linker.shared == ["libopenblas.so.0"]


@pytest.mark.parametrize(("before", "after"), [(4, 3), (2, 2), (8, 8)])
def test_one_core_is_left_to_others_unless_the_user_chose(before, after, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    linker = Linker(threads=before, libopenblas=b"OpenBLAS 0.3.21")
    assert prefer_openblas("linux", linker, cpu)
    assert linker.threads == after


def test_one_with_another_interface_is_passed_over():
    linker = Linker(libopenblas=b"OpenBLAS 0.3.21 USE64BITINT Zen", libopenblasp=b"OpenBLAS 0.3.29")
    assert prefer_openblas("linux", linker, cpu) == "OpenBLAS 0.3.29"
    assert linker.shared == ["libopenblasp.so.0"]
    linker = Linker(libopenblas=None)
    assert prefer_openblas("linux", linker, cpu) is None
    assert linker.shared == []


def test_without_one_it_is_said_which_package_helps(caplog):
    caplog.set_level("INFO")
    assert prefer_openblas("linux", Linker(), cpu) is None
    assert "libopenblas0" in caplog.text


@pytest.mark.parametrize(("platform", "version"), [("darwin", cpu), ("linux", no_cpu)])
def test_where_mlx_computes_elsewhere_nothing_is_loaded(platform, version, caplog):
    caplog.set_level("INFO")
    linker = Linker(libopenblas=b"OpenBLAS 0.3.21")
    assert prefer_openblas(platform, linker, version) is None
    assert linker.shared == [] and not caplog.text


PRODUCT = """
import ctypes
from mlx_server_nano.worker.blas import prefer_openblas
assert prefer_openblas()
import mlx.core as mx, numpy as np
def where(library):
    return ctypes.cast(library.cblas_sgemm, ctypes.c_void_p).value
assert where(ctypes.CDLL(None)) == where(ctypes.CDLL("libopenblas.so.0"))
a = np.random.default_rng(0).standard_normal((70, 90), np.float32)
np.testing.assert_allclose(np.array(mx.array(a) @ mx.array(a.T)), a @ a.T, rtol=1e-4, atol=1e-4)
np.testing.assert_allclose(np.array(mx.linalg.inv(mx.array(a @ a.T), stream=mx.cpu)) @ (a @ a.T), np.eye(70), atol=1e-2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_mlx_computes_with_the_systems_openblas():
    try:
        ctypes.CDLL("libopenblas.so.0")
    except OSError:
        pytest.skip("OpenBLAS is not installed")
    subprocess.run([sys.executable, "-c", PRODUCT], check=True, timeout=60)
