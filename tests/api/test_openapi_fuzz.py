"""Requests that are drawn from the OpenAPI document, the same at each run: no 5xx, no hang, and answers as it says.

`python -m benchmarks.fuzz` sends many more."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from benchmarks.fuzz.campaign import Campaign

from benchmarks import random_model
from mlx_server_nano.api.openapi.document import build_document
from mlx_server_nano.config import Settings
from mlx_server_nano.models.catalog import Catalog
from mlx_server_nano.models.manager import Manager
from tests.api.conftest import SOURCE, Serving

EXAMPLES = 2
LABELS = [f"{method.upper()} {path}" for path, methods in build_document()["paths"].items() for method in methods]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    """Against a small random model, which answers with few tokens."""
    folder = tmp_path_factory.mktemp("models") / "micro"
    random_model.make(folder, random_model.SHAPES["micro"], dtype="float32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(SOURCE))
        # Without keep-alives, so that a stream that hangs is a read that times out.
        settings = Settings(spare_worker=False, default_max_tokens=8, keepalive_interval=3600.0)
        catalog = Catalog(built_in={"micro": folder})
        serving = Serving(settings, Manager(settings, catalog), catalog)
        serving.start()
        httpx.post(f"{serving.url}/admin/load", json={"model": "micro"}, timeout=240).raise_for_status()
        campaign = Campaign(serving.url, "micro", build_document())
        yield campaign
        campaign.close()
        serving.stop()


@pytest.mark.parametrize("label", LABELS)
def test_drawn_requests(campaign: Campaign, label: str) -> None:
    campaign.run(label, EXAMPLES, seed=0)
    assert campaign.tally.statuses[label]
    assert not campaign.tally.findings
