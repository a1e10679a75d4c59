"""Child processes that are never lost."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any


async def spawn(*command: str, **options: Any) -> asyncio.subprocess.Process:
    """`asyncio.create_subprocess_exec`, but for a cancellation while the process starts: then it is killed and reaped,
    where asyncio would leave it to nobody. In a session of its own, so that Ctrl-C is for the gateway alone."""
    starting = asyncio.create_task(asyncio.create_subprocess_exec(*command, start_new_session=True, **options))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            process = await starting
            process.kill()
            await process.wait()
        raise
