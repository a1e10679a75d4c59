"""The process that downloads a model or an adapter:

    python -m mlx_server_nano.models.fetch REPOSITORY CACHE_DIR [--trust-remote-code | --adapter]

A process of its own, because a download in the gateway's would compete with its event loop for the interpreter, could not be
stopped, and would keep huggingface_hub and its transfer libraries in memory.

It writes one JSON message per line on standard output: `Progress`, and at the end `Fetched` or `Refused`. It stops when its
standard input ends, so it never outlives the gateway.

First come the small files, then a look at them, then the weights: what mlx-lm cannot load costs no gigabytes, and a
snapshot that has all its weights has everything.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import msgspec
from msgspec import Struct

from mlx_server_nano.errors import DiskFullError, Failure, HubUnavailableError, UnsupportedModelError
from mlx_server_nano.models import adapters
from mlx_server_nano.models import folder as model_folder
from mlx_server_nano.models.architectures import known_model_types

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

HUB_TIMEOUT: Final = 30.0  # seconds for the first question to the Hub
# Seconds before the weights are tried again. What is complete stays, and huggingface_hub does not survive every broken
# connection by itself.
RETRY_PAUSES: Final = (1.0, 3.0)
REPORT_INTERVAL: Final = 0.25  # seconds between two Progress messages


class Progress(Struct, frozen=True, tag="progress"):
    """Bytes of the model that are in the cache, and that there will be."""

    done: int
    total: int


class Fetched(Struct, frozen=True, tag="fetched"):
    """The snapshot's folder. repository: its id as the Hub writes it, which may differ from the one asked for."""

    repository: str
    folder: str


class Refused(Struct, frozen=True, tag="refused"):
    failure: Failure


Message = Progress | Fetched | Refused


class Meter:
    """Counts bytes for the parent. `add` is called by huggingface_hub's threads."""

    def __init__(self, report: Callable[[Progress], None]) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._done = 0
        self._total = 0
        self._next = 0.0

    def begin(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        self._report(Progress(done, total))

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._total and time.monotonic() >= self._next:
                self._next = time.monotonic() + REPORT_INTERVAL
                self._report(Progress(min(self._done, self._total), self._total))


def progress_bar(meter: Meter) -> type[Any]:
    """A class for snapshot_download's `tqdm_class`: draws nothing, and passes the bytes on."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Of the bars that snapshot_download makes, the one of this name counts bytes that reached the disk.
            self._counts = kwargs.get("name") == "huggingface_hub.snapshot_download"
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            if self._counts:
                meter.add(int(n or 0))

    return Bar


def fetch(repository: str, cache_dir: Path, meter: Meter, *, trust_remote_code: bool) -> Fetched:
    """Bring what a model needs into the cache. Raises ServerErrors and whatever huggingface_hub does."""
    from huggingface_hub import HfApi, snapshot_download

    info = HfApi().model_info(repository, files_metadata=True, timeout=HUB_TIMEOUT)
    files = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    model_folder.check_files(files, info.id)
    small = model_folder.small_files(files, code=trust_remote_code)
    bar = progress_bar(meter)
    folder = Path(snapshot_download(info.id, cache_dir=cache_dir, allow_patterns=small, tqdm_class=bar))

    model_folder.check_config(
        (folder / "config.json").read_bytes(), info.id, known_model_types(), trust_remote_code=trust_remote_code
    )
    index = folder / model_folder.INDEX
    weights = model_folder.weight_files(files, index.read_bytes() if index.is_file() else None)
    if absent := weights - files.keys():
        raise UnsupportedModelError(f"{info.id} is incomplete on the Hub: {min(absent)} is missing.")
    return _finish(info.id, folder, small, [files[name] for name in weights], cache_dir=cache_dir, meter=meter)


def fetch_adapter(repository: str, cache_dir: Path, meter: Meter) -> Fetched:
    """Bring a LoRA adapter into the cache. Raises as `fetch`, and ModelLoadError for what is none."""
    from huggingface_hub import HfApi, snapshot_download

    info = HfApi().model_info(repository, files_metadata=True, timeout=HUB_TIMEOUT)
    files = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    adapters.check_files(files, info.id)
    small = [adapters.CONFIG]
    folder = Path(snapshot_download(info.id, cache_dir=cache_dir, allow_patterns=small, tqdm_class=progress_bar(meter)))
    return _finish(info.id, folder, small, [files[adapters.WEIGHTS]], cache_dir=cache_dir, meter=meter)


def _finish(
    model: str, folder: Path, small: list[str], weights: list[RepoSibling], *, cache_dir: Path, meter: Meter
) -> Fetched:
    """Add the weights to a snapshot that has the small files."""
    from huggingface_hub import snapshot_download

    from mlx_server_nano.models.hub_errors import explain

    bar = progress_bar(meter)
    names = [file.rfilename for file in weights]
    for pause in (*RETRY_PAUSES, None):
        _measure(model, folder, weights, meter)
        try:
            folder = Path(
                snapshot_download(model, cache_dir=cache_dir, allow_patterns=[*small, *names], tqdm_class=bar)
            )
            break
        except Exception as error:
            if pause is None or type(explain(error, model)) is not HubUnavailableError:
                raise
            time.sleep(pause)
    if not all((folder / name).is_file() for name in names):
        raise HubUnavailableError(f"Downloading {model} from the Hub broke off.")
    return Fetched(model, str(folder))


def _measure(model: str, folder: Path, weights: list[RepoSibling], meter: Meter) -> None:
    """Start the meter. Raises DiskFullError if what is missing exceeds the free space: huggingface_hub would only warn."""
    total = sum(file.size or 0 for file in weights)
    missing = sum(file.size or 0 for file in weights if not (folder / file.rfilename).is_file())
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise DiskFullError(f"{model} needs {missing / 1e9:.1f} GB more on a disk with {free / 1e9:.1f} GB free.")
    meter.begin(total - missing, total)


def main(repository: str, cache_dir: str, *flags: str) -> None:
    # Whatever else prints in this process must not end up between the messages.
    messages = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    meter = Meter(lambda progress: _send(messages, progress))
    threading.Thread(target=_end_with_parent, args=(Path(cache_dir),), daemon=True).start()
    message: Message
    try:
        if "--adapter" in flags:
            message = fetch_adapter(repository, Path(cache_dir), meter)
        else:
            message = fetch(repository, Path(cache_dir), meter, trust_remote_code="--trust-remote-code" in flags)
    except Exception as error:
        from mlx_server_nano.models.hub_errors import explain

        message = Refused(explain(error, repository).to_failure())
    _send(messages, message)


def _send(messages: BinaryIO, message: Message) -> None:
    messages.write(msgspec.json.encode(message) + b"\n")


def _end_with_parent(cache_dir: Path) -> None:
    os.read(0, 1)  # not sys.stdin: the interpreter would wait a second for its lock at exit
    _remove_partial_files(cache_dir)
    os._exit(1)


def _remove_partial_files(cache_dir: Path) -> None:
    """Remove the unfinished files that this process has open; another one's look the same. Not those without a random part
    in their name: older releases of huggingface_hub go on with them."""
    opened = set()
    for descriptor in Path("/dev/fd").iterdir():  # Linux and macOS
        with contextlib.suppress(OSError):
            opened.add(_identity(os.fstat(int(descriptor.name))))
    for file in cache_dir.glob("models--*/blobs/*.*.incomplete"):
        with contextlib.suppress(OSError):
            if _identity(file.stat()) in opened:
                file.unlink()


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


if __name__ == "__main__":
    main(*sys.argv[1:])
