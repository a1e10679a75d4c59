"""Logging, configured once for each process: lines on stderr, plain or as JSON."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Final

import msgspec

# They tell their inner life at INFO; uvicorn's own access log has neither ids nor tokens.
_CHATTY: Final = ("uvicorn", "uvicorn.error", "httpx", "httpcore", "huggingface_hub", "filelock", "urllib3", "asyncio")


def configure_logging(level: str, log_format: str = "text", *, speaker: str = "%(name)s") -> None:
    """`level` is a name that `logging` knows, log_format `text` or `json`. Libraries speak from WARNING on, unless it is
    DEBUG. speaker: what text lines call the one who speaks."""
    logging.basicConfig(stream=sys.stderr, level=level, force=True)
    text = logging.Formatter(f"%(asctime)s %(levelname)s {speaker}: %(message)s", "%Y-%m-%d %H:%M:%S")
    logging.root.handlers[0].setFormatter(JsonFormatter() if log_format == "json" else text)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(
            logging.DEBUG if level == "DEBUG" else max(logging.WARNING, logging.root.level)
        )


class JsonFormatter(logging.Formatter):
    """One object a line: time (RFC 3339, UTC), level, logger, pid, and either a message or the `fields` that a record
    carries; a traceback as `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": time,
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
        }
        fields = record.__dict__.get("fields")
        line |= fields if fields is not None else {"message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()
