"""What tells an operating system to run the server for a user: a systemd unit and a launchd agent. Pure text.

Formats: systemd.service(5) and systemd.syntax(7); launchd.plist(5).
"""

from __future__ import annotations

import plistlib
from collections.abc import Sequence
from typing import Final

NAME: Final = "mlx-server-nano"
LABEL: Final = "io.github.mlx-server-nano"
# The server gives running requests --shutdown-timeout, 30 s if nobody says otherwise.
STOP_SECONDS: Final = 60


def systemd_unit(command: Sequence[str]) -> str:
    """A user unit that starts with the session, and again after a crash."""
    return f"""[Unit]
Description=MLX Server Nano
After=network-online.target

[Service]
ExecStart={" ".join(_quoted(word) for word in command)}
Restart=on-failure
RestartSec=2
TimeoutStopSec={STOP_SECONDS}

[Install]
WantedBy=default.target
"""


def _quoted(word: str) -> str:
    """One word of ExecStart, in which `%` and `$` stand for nothing but themselves."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$").replace("\n", "\\n")
    return f'"{escaped}"'


def launchd_agent(command: Sequence[str], log: str) -> bytes:
    """A property list. `log`: the file for what the server says."""
    return plistlib.dumps(
        {
            "Label": LABEL,
            "ProgramArguments": list(command),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ExitTimeOut": STOP_SECONDS,
            "ProcessType": "Interactive",  # background agents get less of the CPU and of the disk
            "StandardOutPath": log,
            "StandardErrorPath": log,
        },
        sort_keys=False,
    )
