"""Downloads from the Hub, as the gateway sees them: a child process (see `fetch`) that reports progress."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

import msgspec

from mlx_server_nano.errors import HubUnavailableError, from_failure
from mlx_server_nano.models.fetch import Fetched, Message, Progress, Refused
from mlx_server_nano.models.process import spawn

END_GRACE: Final = 5.0  # seconds for the process to remove its partial files
LOG_INTERVAL: Final = 5.0  # seconds between two lines about one download

_log = logging.getLogger(__name__)


async def download(
    repository: str,
    cache_dir: Path,
    on_progress: Callable[[int, int], None],
    *,
    trust_remote_code: bool = False,
    adapter: bool = False,
) -> Fetched:
    """Bring a repository's model, or LoRA adapter, into the Hub's cache. `on_progress` gets the bytes of weights that are
    there and that there will be; what it raises ends the download.

    Raises ModelNotFoundError, ModelAccessError, UnsupportedModelError, HubUnavailableError or DiskFullError;
    ModelLoadError for a repository that is no adapter. When cancelled it
    stops the transfer and waits for the process.
    """
    command = [sys.executable, "-P", "-m", "mlx_server_nano.models.fetch", repository, str(cache_dir)]
    if trust_remote_code:
        command.append("--trust-remote-code")
    if adapter:
        command.append("--adapter")
    process = await spawn(*command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    try:
        return await _follow(process, repository, on_progress)
    finally:
        await _end(process)


async def _follow(
    process: asyncio.subprocess.Process, repository: str, on_progress: Callable[[int, int], None]
) -> Fetched:
    decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
    next_line = 0.0
    async for line in cast(asyncio.StreamReader, process.stdout):
        message = decoder.decode(line)
        if isinstance(message, Refused):
            raise from_failure(message.failure)
        if isinstance(message, Fetched):
            _log.info("Downloaded %s", message.repository)
            return message
        on_progress(message.done, message.total)
        if time.monotonic() >= next_line:
            next_line = time.monotonic() + LOG_INTERVAL
            _log.info("Downloading %s: %s", repository, _amount(message))
    code = await process.wait()
    raise HubUnavailableError(f"Downloading {repository} failed: its process ended with code {code}.")


def _amount(progress: Progress) -> str:
    percent = 100 * progress.done // max(progress.total, 1)
    return f"{progress.done / 1e9:.2f} of {progress.total / 1e9:.2f} GB ({percent} %)"


async def _end(process: asyncio.subprocess.Process) -> None:
    """End of input stops the child; it removes its partial files first."""
    cast(asyncio.StreamWriter, process.stdin).close()
    try:
        # Not wait_for: on Python 3.11 it swallows a cancellation that comes together with the end.
        async with asyncio.timeout(END_GRACE):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
