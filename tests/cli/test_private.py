"""How a command looks for its own server's address. tests/e2e/test_chat.py has one that runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import click
import pytest

from mlx_server_nano.cli.private import _url


def url(written: str) -> tuple[str, int]:
    """What comes of a process that has written this and ended, and where the next would write."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, "-c", "pass"], stderr=log)
        process.wait()
        os.write(log.fileno(), written.encode())
        os.lseek(log.fileno(), 3, os.SEEK_SET)
        return _url(process, log), os.lseek(log.fileno(), 0, os.SEEK_CUR)


def test_looking_does_not_move_what_is_written_next() -> None:
    assert url("INFO Ready at http://127.0.0.1:8123\nINFO Try it\n") == ("http://127.0.0.1:8123", 3)


@pytest.mark.parametrize(
    ("written", "told"), [("INFO a\nno\n", "start: no$"), ("Ready at http://127.0.0.1:81", "Ready at")]
)
def test_last_words_and_half_a_line_are_no_address(written: str, told: str) -> None:
    with pytest.raises(click.ClickException, match=told):
        url(written)
