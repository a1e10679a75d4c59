"""What shells ask for, and what they are told."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_server_nano.cli.app import COMMANDS, PROGRAM, commands
from tests.models.folders import cache_repository


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], list[str]]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cache_repository(tmp_path, "org/Tiny-4bit")

    def complete(line: str) -> list[str]:
        words = f"{PROGRAM} {line}"
        environment = {
            "_MLX_SERVER_NANO_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
            "MLX_ALIAS": "fast=tiny",
        }
        done = CliRunner().invoke(commands, [], prog_name=PROGRAM, env=environment)
        return [line.partition(",")[2] for line in done.output.splitlines()]

    return complete


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", list(COMMANDS)),
        ("p", ["pull", "ps"]),
        ("--po", ["--port"]),
        ("serve --po", ["--port"]),
        ("pull ", ["demo", "org/Tiny-4bit", "fast"]),
        ("rm --yes ORG", ["org/Tiny-4bit"]),
        ("completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_bash_is_told(complete: Callable[[str], list[str]], line: str, expected: list[str]) -> None:
    assert complete(line) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_a_shell_reads(shell: str) -> None:
    done = CliRunner().invoke(commands, ["completion", shell])
    assert done.exit_code == 0 and f"_MLX_SERVER_NANO_COMPLETE={shell}_complete" in done.output
    if (found := shutil.which(shell)) is not None:
        flag = "--no-execute" if shell == "fish" else "-n"
        subprocess.run([found, flag], input=done.output, text=True, check=True, env=dict(os.environ))
