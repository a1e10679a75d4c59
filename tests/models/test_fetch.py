from __future__ import annotations

import errno
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec
import pytest

from mlx_server_nano.models.fetch import Fetched, Meter, Progress, Refused, progress_bar
from mlx_server_nano.models.folder import small_files
from tests.hub_standin import HubStandin
from tests.models.folders import write_model


def test_the_meter_reports_at_intervals_and_never_more_than_all(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[Progress] = []
    now = 0.0
    monkeypatch.setattr("mlx_server_nano.models.fetch.time.monotonic", lambda: now)
    meter = Meter(reports.append)
    meter.add(500)  # the small files, before the weights are known
    meter.begin(100, 1000)
    meter.add(200)
    meter.add(200)
    now = 1.0
    meter.add(200)
    now = 2.0
    meter.add(5000)
    assert [(report.done, report.total) for report in reports] == [(100, 1000), (300, 1000), (700, 1000), (1000, 1000)]


def test_only_bytes_that_reach_the_disk_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_server_nano.models.fetch.REPORT_INTERVAL", 0)
    reports: list[Progress] = []
    meter = Meter(reports.append)
    meter.begin(0, 100)
    make = progress_bar(meter)
    make(name="huggingface_hub.snapshot_download.transfer", total=0, unit="B").update(30)
    make(total=7, desc="Fetching 7 files").update(1)
    make(name="huggingface_hub.snapshot_download", total=0, unit="B").update(40)
    assert reports[-1] == Progress(40, 100)


def refused(cache: Path, change: str) -> Refused:
    """What the process says that downloads a/b, with this change made to it."""
    code = f"import sys; {change}; from mlx_server_nano.models.fetch import main; main('a/b', sys.argv[1])"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(cache)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        (last,) = list(process.stdout)[-1:]
    return msgspec.json.decode(last, type=Refused)


def test_a_full_disk_is_noticed_before_the_weights(hub: HubStandin, tmp_path: Path) -> None:
    hub.add("a/b", write_model(tmp_path / "repo"))
    little = "import shutil, types; shutil.disk_usage = lambda path: types.SimpleNamespace(free=5000)"
    failure = refused(tmp_path / "cache", little).failure
    assert failure.kind == "DiskFullError"
    assert failure.message == "a/b needs 0.0 GB more on a disk with 0.0 GB free."
    assert not any(request.endswith("model.safetensors") for request in hub.requests)


def test_a_disk_that_fills_up_on_the_way(hub: HubStandin, tmp_path: Path) -> None:
    """Somebody else writes too. What has come goes again, so that the disk is not left full; with room, all is well."""
    hub.add("a/b", write_model(tmp_path / "repo", shards=2, weights=b"x" * 200_000))
    cache = tmp_path / "cache"
    failure = refused(cache, "from tests.models.test_fetch import fill_up; fill_up(100_000)").failure
    assert (failure.kind, failure.message) == ("DiskFullError", "No space is left on the disk to download a/b.")
    assert list(cache.rglob("*.incomplete")) == []
    assert not list(cache.rglob("snapshots/*/*.safetensors"))
    with subprocess.Popen(
        [sys.executable, "-m", "mlx_server_nano.models.fetch", "a/b", str(cache)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        (last,) = list(process.stdout)[-1:]
    assert len(list(Path(msgspec.json.decode(last, type=Fetched).folder).glob("*.safetensors"))) == 2


def fill_up(size: int) -> None:
    """In the process that downloads: no file of the Hub's client takes more than so many bytes."""
    from huggingface_hub import file_download

    plain = file_download.http_get

    def http_get(url: str, file: BinaryIO, **options: Any) -> None:
        write = file.write

        class Full:
            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

            def write(self, data: bytes) -> int:
                if file.tell() + len(data) > size:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return write(data)

        plain(url, cast(BinaryIO, Full()), **options)

    cast(Any, file_download).http_get = http_get


def test_a_hub_that_never_answers_is_given_up(hub: HubStandin, tmp_path: Path) -> None:
    hub.add("a/b", write_model(tmp_path / "repo"), silent=True)
    impatient = "from mlx_server_nano.models import fetch; fetch.HUB_TIMEOUT = 0.3"
    failure = refused(tmp_path / "cache", impatient).failure
    assert failure.kind == "HubUnavailableError" and "timed out" in failure.message


def test_it_ends_with_its_parent_and_removes_its_own_partial_files(hub: HubStandin, tmp_path: Path) -> None:
    hold = threading.Event()
    hub.add("a/b", write_model(tmp_path / "repo", weights=b"x" * 200_000), hold=hold)
    command = [sys.executable, "-m", "mlx_server_nano.models.fetch", "a/b", str(tmp_path / "cache")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        hub.holding.wait(60)
        (partial,) = (tmp_path / "cache").rglob("*.incomplete")
        others = partial.with_name("other.incomplete")
        others.touch()
        process.stdin.close()
        process.wait(60)
    assert list((tmp_path / "cache").rglob("*.incomplete")) == [others]


def test_which_small_files_come() -> None:
    wanted = ["config.json", "modules.json", "1_Pooling/config.json", "additional_chat_templates/a.jinja", "vocab.txt"]
    other = ["onnx/model.onnx", "onnx/config.json", "model.safetensors", "modeling.py", "1_Pooling/x/config.json"]
    assert small_files([*wanted, *other], code=False) == wanted
    assert small_files(other, code=True) == ["modeling.py"]
