"""`chat` with a server of its own, and the demo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import PATIENCE


def test_chat_without_a_server(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLX_")}
    script = Path(sys.executable).with_name("mlx-server-nano")
    done = subprocess.run(
        [str(script), "chat"],
        input="/think off\nWhat is 4 + 7?\n",
        env={**clean, "MLX_SERVER_PORT": "9", "MLX_SPARE_WORKER": "0", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "No server runs at http://127.0.0.1:9: starting one.\n")
    assert "11" in done.stdout
