"""Where an adapter is: in a folder, in the Hub's cache, on the Hub."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mlx_server_nano.config import Settings
from mlx_server_nano.config.models import Loading, ModelOptions
from mlx_server_nano.errors import ModelLoadError, ModelNotFoundError, OutOfMemoryError
from mlx_server_nano.models import adapters
from mlx_server_nano.models.download import download
from mlx_server_nano.models.loading import ModelFiles, load_options
from tests.hub_standin import HubStandin
from tests.models.bench import Bench

REPOSITORY = "someone/Poet-Adapter"


def write_adapter(folder: Path, weights_bytes: int = 1000) -> Path:
    folder.mkdir(parents=True)
    (folder / adapters.CONFIG).write_text("{}")
    with (folder / adapters.WEIGHTS).open("wb") as file:
        file.truncate(weights_bytes)
    (folder / "0000100_adapters.safetensors").write_bytes(b"checkpoint")
    return folder


def test_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_adapter(tmp_path / "poet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (str(folder), "./poet", "~/poet"):
        assert adapters.find(name, tmp_path / "cache") == folder
    assert adapters.weights_bytes(folder) == 1000
    with pytest.raises(ModelLoadError, match=r"adapter \./prose can't be read"):
        adapters.find("./prose", tmp_path)
    (folder / adapters.WEIGHTS).rename(folder / "adapter_model.safetensors")
    with pytest.raises(ModelLoadError, match=r"has no adapters\.safetensors \(that of PEFT"):
        adapters.find("./poet", tmp_path)


def test_a_repository(hub: HubStandin, tmp_path: Path) -> None:
    hub.add(REPOSITORY, write_adapter(tmp_path / "repository"))
    cache = tmp_path / "cache"
    assert adapters.find(REPOSITORY, cache) is None
    fetched = asyncio.run(download(REPOSITORY.lower(), cache, lambda done, total: None, adapter=True))
    folder = Path(fetched.folder)
    assert fetched.repository == REPOSITORY
    assert sorted(path.name for path in folder.iterdir()) == [adapters.CONFIG, adapters.WEIGHTS], "and no checkpoints"
    assert adapters.find("SOMEONE/poet-adapter", cache) == folder
    (folder / adapters.CONFIG).unlink()
    assert adapters.find(REPOSITORY, cache) is None


def test_a_repository_that_is_no_adapter(hub: HubStandin, tmp_path: Path) -> None:
    (write_adapter(tmp_path / "repository") / adapters.CONFIG).unlink()
    hub.add(REPOSITORY, tmp_path / "repository")
    with pytest.raises(ModelLoadError, match=r"Poet-Adapter has no adapter_config\.json\."):
        asyncio.run(download(REPOSITORY, tmp_path / "cache", lambda done, total: None, adapter=True))
    with pytest.raises(ModelNotFoundError):
        asyncio.run(download("no/body", tmp_path / "cache", lambda done, total: None, adapter=True))


@pytest.mark.anyio
async def test_models_with_adapters(bench: Bench, hub: HubStandin) -> None:
    """Each is a model of its own; its adapter is downloaded first and counts in its memory."""
    bench.model("a")
    hub.add(REPOSITORY, write_adapter(bench.folder / "repository", 64 << 20))
    big = write_adapter(bench.folder / "big", 1 << 30)
    wanted = {"poet": REPOSITORY, "big": str(big), "none": "./nowhere", "absent": "no/body"}
    models = [(name, ModelOptions(loading=Loading(adapter=adapter))) for name, adapter in wanted.items()]
    aliases = [(name, "a") for name in wanted]
    async with bench.managed("a", alias=aliases, models=models) as manager:
        await bench.use("a")
        await bench.use("poet")
        assert bench.states().keys() == {"a", "poet"}
        plain, poet = (status.memory_bytes for status in manager.status())
        assert poet - plain > 64 << 20
        refused = {"big": OutOfMemoryError, "none": ModelLoadError, "absent": ModelNotFoundError}
        for name, error in refused.items():
            with pytest.raises(error):
                await bench.use(name)
        assert bench.states().keys() == {"a", "poet"}
        (slot,) = (slot for slot in manager._slots.values() if slot.ref.name == "poet")
        folder = adapters.find(REPOSITORY, bench.folder / "cache")
        options = load_options(Settings(), slot.ref, ModelFiles(bench.folder / "a", folder, None), trusted=False)
        assert options.adapter == str(folder)
