"""How fast this machine's memory is for MLX:

    python -m mlx_server_nano.worker.bandwidth

Decoding reads all weights for each token, so it can't be faster than this over their bytes. The best of several copies, which
read and write, and of several products of a matrix and a vector, which only read, as decoding does. Bytes a second on standard
output.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Final

_ROUNDS: Final = 8
_WIDTH: Final = 8192  # of the matrix
_BYTES: Final = 512 << 20  # more than any cache holds


def measure(size: int = _BYTES) -> float:
    """Bytes a second, over about `size` bytes at a time."""
    import mlx.core as mx

    matrix = mx.zeros((max(size // (4 * _WIDTH), 1), _WIDTH), dtype=mx.float32)
    vector = mx.ones((_WIDTH, 1), dtype=mx.float32)
    mx.eval(matrix, vector)
    copy = 2 * matrix.nbytes / _best(lambda: mx.eval(matrix + 1))
    product = matrix.nbytes / _best(lambda: mx.eval(matrix @ vector))
    return float(max(copy, product))


def _best(work: Callable[[], Any]) -> float:
    """Seconds of the fastest round, after one to warm up."""
    work()
    seconds = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main() -> None:
    from mlx_server_nano.worker.blas import prefer_openblas

    prefer_openblas()
    sys.stdout.write(f"{measure():.0f}\n")


if __name__ == "__main__":
    main()
