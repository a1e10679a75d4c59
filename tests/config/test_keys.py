"""API keys: where they come from, and where they never show."""

import pytest

from mlx_server_nano.config import SettingError, resolve, worker_environment


def test_keys_come_from_flags_the_environment_and_a_file(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# of the team\n\n  one  \ntwo,three\n")
    assert resolve({"api_key": "a,b"}, {"MLX_API_KEY": "c"}).keys == ("a", "b")
    assert resolve({}, {"MLX_API_KEY": "c, d", "MLX_API_KEY_FILE": str(file)}).keys == ("c", "d", "one", "two,three")
    assert resolve({}, {"MLX_API_KEY": "", "MLX_API_KEY_FILE": ""}).keys == ()


@pytest.mark.parametrize("content", [None, b"", b"# none\n", b"two words\n", b"\xff\xfe"])
def test_a_file_without_keys_is_refused(tmp_path, content):
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingError, match="--api-key-file: ") as caught:
        resolve({"api_key_file": str(file)}, {})
    assert "words" not in str(caught.value)


def test_keys_are_never_shown(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text("secret-in-file")
    settings = resolve({"api_key": "secret-1,secret-2", "api_key_file": str(file)}, {})
    assert len(settings.keys) == 3
    assert "secret" not in repr(settings)
    with pytest.raises(SettingError, match="MLX_API_KEY: the value is not a key") as caught:
        resolve({}, {"MLX_API_KEY": "secret words"})
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("MLX_API_KEY", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("PLAIN", "x")
    assert worker_environment()["PLAIN"] == "x"
    assert "secret" not in worker_environment().values(), "a worker may run a model's own code"
