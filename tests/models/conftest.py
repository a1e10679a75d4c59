from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_standin import HubStandin

SOURCE = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def child_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that a test starts find the package and the tests' helpers where they are not installed."""
    monkeypatch.setenv("PYTHONPATH", f"{SOURCE}:{SOURCE.parent}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, child_path: None) -> Iterator[HubStandin]:
    """A Hub for the processes that a test starts, with an empty cache in `tmp_path / "cache"`."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with HubStandin() as standin:
        monkeypatch.setenv("HF_ENDPOINT", standin.url)
        yield standin
