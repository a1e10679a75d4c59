from __future__ import annotations

import asyncio
import io
import logging
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from mlx_server_nano.errors import (
    HubUnavailableError,
    ModelAccessError,
    ModelNotFoundError,
    ServerError,
    UnsupportedModelError,
)
from mlx_server_nano.models.catalog import Catalog
from mlx_server_nano.models.download import _end, download
from mlx_server_nano.models.fetch import Fetched
from tests.hub_standin import HubStandin
from tests.models.conftest import Children
from tests.models.folders import write_model

REPOSITORY = "mlx-community/Tiny-4bit"


def fetch(cache: Path, repository: str = REPOSITORY, progress: list[int] | None = None) -> Fetched:
    def on_progress(done: int, total: int) -> None:
        if progress is not None:
            progress.append(done)

    return asyncio.run(download(repository, cache, on_progress))


def test_brings_what_a_model_needs_and_no_more(
    hub: HubStandin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add(REPOSITORY, write_model(tmp_path / "repo", shards=3, files={"custom.py": "print()"}))
    progress: list[int] = []
    with caplog.at_level(logging.INFO):
        found = fetch(tmp_path / "cache", progress=progress)
    folder = Path(found.folder)
    assert found.repository == REPOSITORY
    assert sorted(path.name for path in folder.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (folder / "model-00002-of-00003.safetensors").read_bytes() == b"w" * 5000 + b"\2"
    assert progress[0] == 0 and progress == sorted(progress)
    assert caplog.records[0].message == f"Downloading {REPOSITORY}: 0.00 of 0.00 GB (0 %)"
    # In the standard layout, so that every other program finds it.
    assert (tmp_path / "cache" / "models--mlx-community--Tiny-4bit" / "refs" / "main").read_text() == folder.name
    assert Catalog(cache_dir=tmp_path / "cache").resolve("tiny").folder == folder


def test_finds_a_repository_written_in_another_case(hub: HubStandin, tmp_path: Path) -> None:
    hub.add(REPOSITORY, write_model(tmp_path / "repo"))
    assert fetch(tmp_path / "cache", REPOSITORY.lower()).repository == REPOSITORY
    assert [path.name for path in (tmp_path / "cache").glob("models--*")] == ["models--mlx-community--Tiny-4bit"]


@pytest.mark.parametrize("fault", ["cuts", "resets"])
def test_survives_a_connection_that_breaks_in_mid_body(hub: HubStandin, tmp_path: Path, fault: str) -> None:
    repository = hub.add(REPOSITORY, write_model(tmp_path / "repo", weights=b"x" * 200_000), **{fault: 1})
    folder = Path(fetch(tmp_path / "cache").folder)
    assert (folder / "model.safetensors").read_bytes() == b"x" * 200_000 + b"\1"
    assert (repository.fault.cuts, repository.fault.resets) == (0, 0)


def test_survives_a_hub_that_falls_silent(hub: HubStandin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    repository = hub.add(REPOSITORY, write_model(tmp_path / "repo", weights=b"x" * 200_000), stalls=1)
    folder = Path(fetch(tmp_path / "cache").folder)
    assert (folder / "model.safetensors").read_bytes() == b"x" * 200_000 + b"\1"
    assert repository.fault.stalls == 0


def test_waits_for_a_slow_hub(hub: HubStandin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as something comes, it goes on, however long it takes in all."""
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "4")  # between two pieces; a busy machine may take a second
    hub.add(REPOSITORY, write_model(tmp_path / "repo", weights=b"x" * 200_000), pause=0.045)
    assert Path(fetch(tmp_path / "cache").folder, "model.safetensors").stat().st_size == 200_001
    weights = [
        request for request in hub.requests if request.startswith("GET") and request.endswith("model.safetensors")
    ]
    assert len(weights) == 1


def test_gives_up_at_last_and_the_next_download_goes_on(hub: HubStandin, tmp_path: Path) -> None:
    repository = hub.add(REPOSITORY, write_model(tmp_path / "repo", shards=2, weights=b"x" * 200_000), resets=1000)
    with pytest.raises(HubUnavailableError, match="reset"):
        fetch(tmp_path / "cache")
    assert Catalog(cache_dir=tmp_path / "cache").available() == []
    repository.fault.resets = 0
    assert Path(fetch(tmp_path / "cache").folder, "model-00002-of-00002.safetensors").stat().st_size == 200_001


@pytest.mark.parametrize(
    ("fault", "expected", "says"),
    [
        ({"status": 403, "code": "GatedRepo", "files_only": True}, ModelAccessError, "HF_TOKEN"),
        ({"status": 401, "message": "Invalid credentials in Authorization header"}, ModelAccessError, "HF_TOKEN"),
        ({"status": 403}, ModelAccessError, "refuses access"),
        ({"status": 404, "code": "RepoNotFound"}, ModelNotFoundError, REPOSITORY),
        ({"status": 429}, HubUnavailableError, "429"),
        ({"status": 500}, HubUnavailableError, "500"),
    ],
)
def test_says_why_the_hub_does_not_serve_it(
    hub: HubStandin, tmp_path: Path, fault: dict[str, object], expected: type[ServerError], says: str
) -> None:
    hub.add(REPOSITORY, write_model(tmp_path / "repo"), **fault)
    with pytest.raises(expected, match=says) as caught:
        fetch(tmp_path / "cache")
    assert type(caught.value) is expected


def test_an_unknown_repository_is_not_found(hub: HubStandin, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="There is no model nobody/nothing on the Hub"):
        fetch(tmp_path / "cache", "nobody/nothing")


def test_offline_is_said(hub: HubStandin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubUnavailableError, match="HF_HUB_OFFLINE"):
        fetch(tmp_path / "cache")
    assert hub.requests == []


def test_no_network_is_said(hub: HubStandin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubUnavailableError, match=r"failed: .*[Cc]onnection refused"):
        fetch(tmp_path / "cache")


@pytest.mark.parametrize(
    ("files", "remove", "says"),
    [
        ({"model.gguf": "x"}, "*.safetensors", "GGUF"),
        ({"pytorch_model.bin": "x"}, "*.safetensors", "PyTorch"),
        ({"model_index.json": "{}"}, None, "diffusion"),
        ({}, "config.json", "config.json"),
        ({"config.json": "{}"}, None, "model_type"),
        ({"config.json": '{"model_type": "bert"}'}, None, "bert"),
        ({"config.json": '{"model_type": "mine", "model_file": "mine.py"}'}, None, "--trust-remote-code"),
        ({"model.safetensors.index.json": '{"weight_map": {"a": "model-7.safetensors"}}'}, None, "model-7"),
    ],
)
def test_refuses_before_the_weights_what_cannot_be_loaded(
    hub: HubStandin, tmp_path: Path, files: dict[str, str], remove: str | None, says: str
) -> None:
    folder = write_model(tmp_path / "repo", files=files)
    for path in folder.glob(remove) if remove else ():
        path.unlink()
    hub.add(REPOSITORY, folder)
    with pytest.raises(UnsupportedModelError, match=says):
        fetch(tmp_path / "cache")
    assert not any("GET" in request and "safetensors" in request and "index" not in request for request in hub.requests)


@pytest.mark.anyio
async def test_cancelling_stops_the_transfer_and_leaves_no_partial_file(hub: HubStandin, tmp_path: Path) -> None:
    hold = threading.Event()
    hub.add(REPOSITORY, write_model(tmp_path / "repo", weights=b"x" * 200_000), hold=hold)
    task = asyncio.create_task(download(REPOSITORY, tmp_path / "cache", lambda *_: None))
    await asyncio.to_thread(hub.holding.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list((tmp_path / "cache").rglob("*.incomplete")) == []
    assert not list((tmp_path / "cache").rglob("snapshots/*/model.safetensors"))


@pytest.mark.anyio
async def test_a_download_that_is_called_off_as_its_process_ends() -> None:
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    ended.add_done_callback(lambda _: ending.cancel())

    class Process:
        stdin = io.BytesIO()

        async def wait(self) -> int:
            return await ended

    ending = asyncio.create_task(_end(cast(Any, Process())))
    asyncio.get_running_loop().call_later(0.01, ended.set_result, 0)
    with pytest.raises(asyncio.CancelledError):
        await ending


@pytest.mark.anyio
async def test_a_process_that_is_killed_is_said_and_the_next_download_works(
    hub: HubStandin, tmp_path: Path, children: Children
) -> None:
    hold = threading.Event()
    hub.add(REPOSITORY, write_model(tmp_path / "repo", weights=b"x" * 200_000), hold=hold)
    task = asyncio.create_task(download(REPOSITORY, tmp_path / "cache", lambda *_: None))
    await asyncio.to_thread(hub.holding.wait, 60)
    (process,) = children()
    process.kill()
    with pytest.raises(HubUnavailableError, match="ended with code -9"):
        await task
    hold.set()
    found = await download(REPOSITORY, tmp_path / "cache", lambda *_: None)
    assert Path(found.folder, "model.safetensors").stat().st_size == 200_001
