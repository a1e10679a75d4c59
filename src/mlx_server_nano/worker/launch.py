"""A worker of several ranks: `python -m mlx_server_nano.worker.launch --hostfile FILE --fd N`, started by the gateway with its
socket as file descriptor N.

This process is `mlx.launch`, which starts the ranks on their machines and ends them all if one fails. File descriptors don't
pass through it, so rank 0, which must run on this machine, fetches the gateway's socket from here."""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Final

from mlx._distributed_utils import launch
from mlx._distributed_utils.common import Hostfile

# Below the ports that systems give to outgoing connections: Linux from 32768 on, macOS from 49152 on.
_PORTS: Final = range(20000, 32000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hostfile", required=True)
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("--fd", type=int, required=True)
    arguments, passed_on = parser.parse_known_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hosts = Hostfile.from_file(arguments.hostfile).hosts
    with tempfile.TemporaryDirectory(prefix="mlx-server-nano-") as folder, contextlib.ExitStack() as claims:
        handover = Path(folder) / "handover"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(handover))
        listener.listen(1)
        # mlx.launch passes its standard input on to all ranks, and never pauses where that is at its end.
        read_end, write_end = os.pipe()
        os.dup2(read_end, 0)
        threading.Thread(target=_hand_over, args=(listener, arguments.fd, write_end), daemon=True).start()
        rank = [sys.executable, "-P", "-m", "mlx_server_nano.worker", "--leader", hosts[0].ips[0]]
        sys.argv = [
            "mlx.launch",
            *("--hostfile", arguments.hostfile),
            *("--starting-port", str(_free_ports(sum(len(host.ips) for host in hosts), claims))),
            *(f"--env={variable}" for variable in arguments.env),
            *("--", *rank, "--handover", str(handover), *passed_on),
        ]
        launch.main()
    # Whoever wanted this end does not ask how it came.
    sys.exit(1)


def _hand_over(listener: socket.socket, fd: int, standard_input: int) -> None:
    """Give the gateway's socket to rank 0 and keep nothing of it."""
    with listener, socket.socket(fileno=fd) as gateway:
        connection, _ = listener.accept()
        with connection:
            socket.send_fds(connection, [b"\0"], [gateway.fileno()])
    # Ranks on this machine have closed their standard input. mlx.launch polls it without a pause until it has tried to write.
    os.write(standard_input, b"\n")


def _free_ports(count: int, claims: contextlib.ExitStack) -> int:
    """The first of so many ports in a row that are free here. Two models may start at a time, and their ranks bind the ports
    later: until `claims` is closed, the UDP ports of the same numbers, which nothing here uses, keep another one off."""
    while True:
        first = random.choice(_PORTS)
        with contextlib.ExitStack() as probes, contextlib.ExitStack() as own:
            try:
                for port in range(first, first + count):
                    own.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).bind(("", port))
                    probes.enter_context(socket.create_server(("", port), reuse_port=False))
            except OSError:
                continue
            claims.enter_context(own.pop_all())
            return first


if __name__ == "__main__":
    main()
