from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.hub_standin import HubStandin
from tests.models.bench import Bench

Children = Callable[[], list[psutil.Process]]
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
    # Tests look at what a download leaves behind: one on a busy machine is not to be killed while it cleans up.
    monkeypatch.setattr("mlx_server_nano.models.download.END_GRACE", 60.0)
    with HubStandin() as standin:
        monkeypatch.setenv("HF_ENDPOINT", standin.url)
        yield standin


@pytest.fixture
def children() -> Children:
    """The processes that the test has started and that still run; a fixture of other tests may hold a server meanwhile."""
    others = set(psutil.Process().children(recursive=True))
    return lambda: [child for child in psutil.Process().children(recursive=True) if child not in others]


@pytest.fixture
def no_orphans(children: Children) -> Iterator[None]:
    yield
    assert children() == []


@pytest.fixture
def bench(tmp_path: Path, child_path: None, no_orphans: None) -> Bench:
    return Bench(tmp_path)
