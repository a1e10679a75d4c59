from __future__ import annotations

from pathlib import Path

import pytest

from mlx_server_nano.config import Connection, SettingError, connection


@pytest.mark.parametrize(
    ("flags", "variables", "expected"),
    [
        ({}, {}, Connection("http://127.0.0.1:8000")),
        ({}, {"MLX_SERVER_PORT": "81", "MLX_API_KEY": "a,b"}, Connection("http://127.0.0.1:81", "a")),
        ({}, {"MLX_SERVER_URL": "https://x.example/llm/v1/"}, Connection("https://x.example/llm", None, named=True)),
        ({"url": "http://a:1"}, {"MLX_SERVER_URL": "http://b:2"}, Connection("http://a:1", None, named=True)),
        (
            {"url": None, "api_key": "k"},
            {"MLX_SERVER_URL": "", "MLX_API_KEY": "a"},
            Connection("http://127.0.0.1:8000", "k"),
        ),
        # Settings of the server's that do not concern its clients are not looked at.
        ({}, {"MLX_KV_BITS": "no"}, Connection("http://127.0.0.1:8000")),
    ],
)
def test_where_and_with_which_key(flags, variables, expected) -> None:
    assert connection(flags, variables) == expected


def test_a_key_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# mine\nsecret\n")
    assert connection({"api_key_file": str(tmp_path / "keys")}, {}).key == "secret"
    assert "secret" not in repr(connection({"api_key_file": str(tmp_path / "keys")}, {}))


@pytest.mark.parametrize(
    ("flags", "variables", "named"),
    [
        ({"url": "127.0.0.1:8000"}, {}, "--url"),
        ({"url": "ftp://a"}, {}, "--url"),
        ({}, {"MLX_SERVER_URL": "http://:x"}, "MLX_SERVER_URL"),
        ({}, {"MLX_API_KEY_FILE": "/nowhere"}, "MLX_API_KEY_FILE"),
    ],
)
def test_what_is_no_server(flags, variables, named) -> None:
    with pytest.raises(SettingError, match=f"^{named}: "):
        connection(flags, variables)
