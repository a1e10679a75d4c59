from __future__ import annotations

from mlx_server_nano.worker.bandwidth import measure


def test_a_rate_comes_out() -> None:
    assert 0 < measure(1 << 20) < float("inf")
