"""Models that several machines run together: each has a worker of several ranks, started by `mlx.launch`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from msgspec import structs

from mlx_server_nano.config import WORKER_VARIABLES, Settings, worker_environment
from mlx_server_nano.config.hosts import Hosts
from mlx_server_nano.errors import UnavailableError, UnsupportedModelError, WorkerDiedError
from mlx_server_nano.models.names import ModelRef
from mlx_server_nano.models.worker import Worker
from mlx_server_nano.protocol import LoadOptions

_LAUNCH: Final = (sys.executable, "-P", "-m", "mlx_server_nano.worker.launch")


def hosts_of(ref: ModelRef, settings: Settings) -> Hosts | None:
    """The machines that are to run a model; None: this one alone."""
    hosts = ref.options.loading.distributed or settings.distributed
    return hosts if hosts is not None and hosts.ranks > 1 else None


def ranks_of(ref: ModelRef, settings: Settings) -> int:
    """How many machines share a model's weights."""
    hosts = hosts_of(ref, settings)
    return 1 if hosts is None else hosts.ranks


def launch_command(hosts: Hosts, settings: Settings) -> tuple[str, ...]:
    """`--fd N` is added to it."""
    variables = (f"--env={name}={value}" for name, value in WORKER_VARIABLES.items())
    logs = ("--log-level", settings.log_level, "--log-format", settings.log_format)
    return (*_LAUNCH, "--hostfile", str(hosts.path), *variables, *logs)


async def start(command: Sequence[str]) -> Worker:
    """A worker of several ranks that can load a model. Raises UnavailableError."""
    worker = Worker()
    try:
        await worker.start(command, worker_environment())
    except (OSError, WorkerDiedError) as error:  # TimeoutError is an OSError
        reason = str(error) or "They have not found each other in time."
        raise UnavailableError(
            f"The machines of --distributed don't start a worker together. {reason} The server's log says more."
        ) from error
    return worker


def restricted(options: LoadOptions) -> LoadOptions:
    """Without what can't be the same on all ranks. Raises UnsupportedModelError for what was asked for by name."""
    for asked, what in ((options.adapter is not None, "adapter"), (options.draft_required, "draft-model")):
        if asked:
            raise UnsupportedModelError(f'With {what}, a model runs on one machine: set distributed = "none" for it.')
    return structs.replace(options, speculation=False, draft_folder=None, prefix_cache_dir=None)
