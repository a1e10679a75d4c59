"""A server process with a scripted manager: `python -m tests.cli.fake_server SHUTDOWN_TIMEOUT FOLDER`.

The model `held` waits in mid-answer for SIGUSR1; `forever` never ends.
"""

import signal
import sys
import threading
from pathlib import Path
from typing import Any

from mlx_server_nano.api.app import build_app
from mlx_server_nano.api.gate import Gate
from mlx_server_nano.cli.server import Server, listen
from mlx_server_nano.config import Settings
from mlx_server_nano.logs import configure_logging
from tests.api.fakes import FakeCatalog, FakeManager, Forever, Script, started, text


class TellingManager(FakeManager):
    async def close(self) -> None:
        await super().close()
        sys.stderr.write("manager closed\n")


def main() -> None:
    settings = Settings(host="127.0.0.1", port=0, shutdown_timeout=float(sys.argv[1]))
    go_on = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: go_on.set())
    manager = TellingManager()
    manager.scripts["held"] = Script(lambda request: [started(), *text("Hel", finish=None), go_on, *text("lo")])
    manager.scripts["forever"] = Script(lambda request: [started(), *text("Hel", finish=None), Forever])
    anything: Any = manager
    catalog: Any = FakeCatalog(Path(sys.argv[2]))
    gate = Gate()
    configure_logging(settings.log_level)
    app = build_app(settings, anything, catalog, gate)
    Server(app, settings, gate).run([listen(settings.host, settings.port)])


if __name__ == "__main__":
    main()
