"""Logging, configured once for each process: plain lines on stderr."""

from __future__ import annotations

import logging
import sys
from typing import Final

# They tell their inner life at INFO.
_CHATTY: Final = ("uvicorn", "uvicorn.error", "httpx", "httpcore", "huggingface_hub", "filelock", "urllib3", "asyncio")


def configure_logging(level: str) -> None:
    """`level` is a name that `logging` knows. Libraries speak from WARNING on, unless it is DEBUG."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        force=True,
    )
    for name in _CHATTY:
        logging.getLogger(name).setLevel(
            logging.DEBUG if level == "DEBUG" else max(logging.WARNING, logging.root.level)
        )
