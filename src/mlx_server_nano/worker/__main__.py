"""A worker process: `python -m mlx_server_nano.worker --fd N`, started by the gateway with its socket as file
descriptor N."""

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
from mlx_server_nano.worker.preparer import Preparer

if TYPE_CHECKING:
    from mlx_server_nano.worker.engine import Incoming

_LOG = logging.getLogger("mlx_server_nano.worker")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--log-level", default="INFO")
    parser.add_argument("--log-format", default="text")
    arguments = parser.parse_args()
    # Ctrl-C reaches the whole process group; the gateway decides when a worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_logging(arguments.log_level, arguments.log_format, speaker="worker")
    channel = Channel(arguments.fd)
    loads: Inbox[Load] = Inbox()
    inbox: Inbox[Incoming] = Inbox()
    preparer = Preparer(inbox.put)

    def deliver(message: ToWorker) -> None:
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
    prefer_openblas()
    # These take seconds; a spare worker has done them before a model is asked for.
    from mlx_server_nano.worker import draft_loader, loader, memory
    from mlx_server_nano.worker.engine import Engine
    from mlx_server_nano.worker.prompts import Tokenizing
    from mlx_server_nano.worker.questions import Questions

    channel.send(Ready(memory.device()))
    (load,) = loads.take(wait=True)
    memory.wire()
    try:
        loaded = loader.load(Path(load.path), load.options, lambda fraction: channel.send(LoadProgress(fraction)))
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
        find_branches=not loaded.cuttable,
    )
    preparer.start(Questions(tokenizing, loaded.tokenizer, loaded.vocabulary, loaded.embedding))
    channel.send(Loaded(loaded.info))
    Engine(loaded, load.options, channel, inbox, draft_model).run()
    os._exit(0)  # nothing is left to be put in order


if __name__ == "__main__":
    main()
