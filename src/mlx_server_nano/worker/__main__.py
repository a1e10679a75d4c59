"""A worker process: `python -m mlx_server_nano.worker --fd N`, started by the gateway with its socket as file
descriptor N. With `--leader` it is one of several ranks, which `launch` starts."""

from __future__ import annotations

import argparse
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_server_nano.errors import ModelLoadError, ServerError
from mlx_server_nano.logs import configure_logging
from mlx_server_nano.protocol import (
    Allow,
    Cancel,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    Ready,
    ToWorker,
    Unload,
)
from mlx_server_nano.worker.blas import prefer_openblas
from mlx_server_nano.worker.channel import Channel, Inbox
from mlx_server_nano.worker.imports import quick_imports
from mlx_server_nano.worker.preparer import Preparer
from mlx_server_nano.worker.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from mlx_server_nano.worker.distributed import Follower
    from mlx_server_nano.worker.engine import Incoming

_LOG = logging.getLogger("mlx_server_nano.worker")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int)
    parser.add_argument("--leader", help="an address of rank 0's machine")
    parser.add_argument("--handover", help="the Unix socket at which rank 0 gets its file descriptor")
    parser.add_argument("--log-level", default="INFO")
    parser.add_argument("--log-format", default="text")
    arguments = parser.parse_args()
    # Ctrl-C reaches the whole process group; the gateway decides when a worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_logging(arguments.log_level, arguments.log_format, speaker="worker")
    ranks, channel = _ranks(arguments)
    loads: Inbox[Load] = Inbox()
    inbox: Inbox[Incoming] = Inbox()
    preparer = Preparer(inbox.put)

    def deliver(message: ToWorker) -> None:
        ranks.forward(message)
        if isinstance(message, Load):
            loads.put(message)
        elif isinstance(message, Generate):
            preparer.submit(message)
        elif isinstance(message, Cancel):
            preparer.cancel(message.request_id)
            inbox.put(message)
        elif isinstance(message, Allow | Unload):
            inbox.put(message)

    # Before the imports, so that the end of the gateway is noticed during them too.
    channel.start(deliver)
    if not ranks.several:
        prefer_openblas()
    # These take a second or more; a spare worker has done them before a model is asked for.
    with quick_imports():
        from mlx_server_nano.worker import draft_loader, loader, memory
        from mlx_server_nano.worker.engine import Engine
        from mlx_server_nano.worker.prompts import Tokenizing
        from mlx_server_nano.worker.questions import Questions

    channel.send(Ready(memory.device()))
    (load,) = loads.take(wait=True)
    memory.wire()
    try:
        loaded = loader.load(
            Path(load.path),
            load.options,
            lambda fraction: channel.send(LoadProgress(fraction)),
            ranks,
        )
        draft_model = draft_loader.load(loaded, load.options)
    except ServerError as error:
        channel.send(LoadFailed(error.to_failure()))
        return
    except Exception as error:
        _LOG.exception("Loading failed")
        channel.send(LoadFailed(ModelLoadError(f"Loading failed: {error}").to_failure()))
        return
    tokenizing = Tokenizing(
        loaded.tokenizer,
        loaded.apply_template,
        loaded.grammars,
        context_length=loaded.info.context_length,
        vocab_size=loaded.info.vocab_size,
        find_branches=not ranks.everywhere(loaded.cuttable),
    )
    preparer.start(Questions(tokenizing, loaded.tokenizer, loaded.vocabulary, loaded.embedding))
    channel.send(Loaded(loaded.info))
    Engine(loaded, load.options, channel, inbox, draft_model, ranks=ranks).run()
    ranks.end()


def _ranks(arguments: argparse.Namespace) -> tuple[Ranks, Channel | Follower]:
    """The other ranks, if there are any, and the way to the gateway."""
    if arguments.leader is None:
        return ALONE, Channel(arguments.fd)
    # Nothing is to be read from it; see `launch`.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    prefer_openblas()
    from mlx_server_nano.worker import distributed

    return distributed.join(arguments.leader, arguments.handover)


if __name__ == "__main__":
    main()
