"""Which model is loaded to draft for which."""

from __future__ import annotations

import pytest

from mlx_server_nano.config.models import Loading, ModelOptions
from mlx_server_nano.errors import ModelNotFoundError, OutOfMemoryError
from tests.models.bench import Bench

pytestmark = pytest.mark.anyio

SIZE = 600 << 20


async def test_one_for_all_but_itself_and_those_with_their_own(bench: Bench) -> None:
    for name in ("large", "small", "other", "tiny"):
        bench.model(name)
    models = [("other", ModelOptions(loading=Loading(draft_model="tiny")))]
    async with bench.managed("large", "small", "other", "tiny", draft_model="small", models=models):
        for name in ("large", "small", "other"):
            await bench.use(name)
    assert bench.notes("draft") == ["draft small", "draft tiny required"]
    assert bench.notes("load") == ["load large", "load small", "load other"]


async def test_none_without_speculation(bench: Bench) -> None:
    bench.model("large"), bench.model("small")
    async with bench.managed("large", "small", draft_model="small", speculation=False):
        await bench.use("large")
    assert not bench.notes("draft")


async def test_its_own_code_runs_only_if_it_is_trusted_itself(bench: Bench) -> None:
    for name in ("large", "other", "small", "tiny"):
        bench.model(name)
    models = [
        ("large", ModelOptions(loading=Loading(draft_model="small", trust_remote_code=True))),
        ("other", ModelOptions(loading=Loading(draft_model="tiny"))),
        ("tiny", ModelOptions(loading=Loading(trust_remote_code=True))),
    ]
    async with bench.managed("large", "other", "small", "tiny", models=models):
        for name in ("large", "other"):
            await bench.use(name)
    assert bench.notes("draft") == ["draft small required", "draft tiny required trusted"]


async def test_its_weights_count(bench: Bench) -> None:
    bench.model("large", weights_bytes=SIZE), bench.model("small", weights_bytes=SIZE)
    async with bench.managed("large", "small", draft_model="small", max_memory=2 * SIZE):
        with pytest.raises(OutOfMemoryError, match=r"large needs about 1\.5 GiB"):
            await bench.use("large")
        await bench.use("small")


async def test_one_that_is_not_there(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """The one for all is done without; a model whose own table names it is not loaded."""
    bench.model("large"), bench.model("other")
    models = [("other", ModelOptions(loading=Loading(draft_model="/nowhere/small")))]
    async with bench.managed("large", "other", draft_model="/nowhere/tiny", models=models):
        assert await bench.use("large") == "t0 t1 "
        with pytest.raises(ModelNotFoundError, match="small"):
            await bench.use("other")
    assert "No draft model for large" in caplog.text
