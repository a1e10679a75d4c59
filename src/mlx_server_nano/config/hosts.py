"""The machines that run a model together: a file in mlx.launch's own format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlx_server_nano.config.values import Kind

_NONE: Final = "none"


@dataclass(frozen=True, slots=True)
class Hosts:
    """path: of the file. ranks: processes, one for each of its hosts; 1, without a file: this machine alone."""

    path: Path
    ranks: int


def hostfile(*, may_be_none: bool = False) -> Kind:
    """may_be_none: `none` stands for this machine alone."""

    def parse(text: str) -> Hosts:
        if may_be_none and text == _NONE:
            return Hosts(Path(), 1)
        path = Path(text).expanduser().absolute()
        try:
            content = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            raise ValueError("not a JSON file that can be read") from None
        return Hosts(path, _ranks(content))

    return Kind(parse)


def _ranks(content: Any) -> int:
    hosts = content.get("hosts") if isinstance(content, dict) else content
    if not isinstance(hosts, list) or not all(isinstance(host, dict) and host.get("ssh") for host in hosts):
        raise ValueError('not a host file of mlx.launch: a list of {"ssh": ..., "ips": [...]}')
    if len(hosts) < 2:
        raise ValueError("a host file that names fewer than two hosts")
    if not hosts[0].get("ips"):
        raise ValueError("a host file without an address in the first host's ips")
    return len(hosts)
