"""What a configuration file may hold, and how a wrong one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_server_nano.config.errors import SettingError
from mlx_server_nano.config.file import read
from mlx_server_nano.config.models import Loading, ModelOptions, RequestDefaults
from mlx_server_nano.config.settings import SETTINGS, Setting


def example(setting: Setting, folder: Path) -> tuple[str, str]:
    """A value in TOML, and as a flag's text."""
    special = {
        "log_level": "DEBUG",
        "log_format": "json",
        "model_cache_dir": str(folder),
        "api_key_file": str(folder / "keys"),
        "cors_origin": "https://a.example",
        "distributed": str(folder / "hosts"),
    }
    if setting.name in special or setting.kind.types == (str,):
        text = special.get(setting.name, "a=plain" if setting.metavar.count("=") else "a.example")
        return (f'["{text}"]' if setting.repeatable else f'"{text}"'), text
    if setting.kind.types == (bool,):
        return "true", "true"
    return ('"1G"', "1G") if str in setting.kind.types else ("2", "2") if float in setting.kind.types else ("16", "16")


def test_every_setting_under_its_flags_name(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("secret")
    (tmp_path / "hosts").write_text('[{"ssh": "a", "ips": ["10.0.0.1"]}, {"ssh": "b"}]')
    examples = {setting: example(setting, tmp_path) for setting in SETTINGS if setting.in_file}
    (tmp_path / "file").write_text("\n".join(f"{setting.key} = {toml}" for setting, (toml, _) in examples.items()))
    assert read(tmp_path / "file").settings == {
        setting.name: setting.parse(text) for setting, (_, text) in examples.items()
    }


def test_a_models_table(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(
        """
        [models."org/a"]
        alias = "one"
        temperature = 0
        tool-format = "hermes"
        chat_template_kwargs = { enable_thinking = false, levels = [1, "2"] }
        pinned = true
        [models.one]
        [models."/folder/b"]
        alias = ["two", "three"]
        """
    )
    file = read(tmp_path / "file")
    assert file.aliases == (("one", "org/a"), ("two", "/folder/b"), ("three", "/folder/b"))
    kwargs = {"enable_thinking": False, "levels": [1, "2"]}
    assert dict(file.models) == {
        "org/a": ModelOptions(
            requests=RequestDefaults(temperature=0.0, tool_format="hermes", chat_template_kwargs=kwargs),
            loading=Loading(pinned=True),
        ),
        "one": ModelOptions(),
        "/folder/b": ModelOptions(),
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot = 1", "unknown key 'prot'; did you mean 'port'?"),
        ("max_memory = '1G'", "unknown key 'max_memory'; did you mean 'max-memory'?"),
        ("nothing-like-it = 1", "unknown key 'nothing-like-it'"),
        ("config = 'x'", "unknown key 'config'"),
        ("port = '5'", 'port: "5" is not a whole number'),
        ("port = 1.5", "port: 1.5 is not a whole number"),
        ("port = true", "port: true is not a whole number"),
        ("port = 70000", "port: 70000 is not in 0..65535"),
        ("idle-timeout = nan", "idle-timeout: NaN is not a number of 0 or more"),
        ("max-memory = true", 'max-memory: true is not a size such as "24G" or "512M"'),
        ("spare-worker = 'yes'", 'spare-worker: "yes" is not a boolean (true or false)'),
        ("alias = 'a=b'", 'alias: "a=b" is not a list'),
        ("alias = [1]", "alias: [1] is not a string"),
        ("alias = ['a']", 'alias: ["a"] is not a pair such as fast=qwen3-4b'),
        ("port = 1\nport = 2", "Cannot overwrite a value"),
        ("a == 1", "Invalid value (at line 1"),
        ("models = 1", "models: not tables such as"),
        ("[models]\na = 1", 'models."a": not a table'),
        ("[models.x]\ntemprature = 1", "models.\"x\": unknown key 'temprature'; did you mean 'temperature'?"),
        ("[models.x]\nport = 1", "models.\"x\": unknown key 'port'"),
        ("[models.qwen3-0.6b]\npinned = true", "models.\"qwen3-0\": unknown key '6b'; a name with dots"),
        ("[models.x]\npinned = 1", 'models."x".pinned: 1 is not a boolean (true or false)'),
        ("[models.x]\ntop_p = 1.1", 'models."x".top_p: 1.1 is not in 0..1'),
        ("[models.x]\ncontext-length = 0", 'models."x".context-length: 0 is less than 1'),
        ("[models.x]\nalias = 1", 'models."x".alias: 1 is neither a name nor a list of names'),
        ("[models.x]\nalias = ''", 'models."x".alias: "" is neither'),
        ("[models.x]\nalias = 'a'\n[models.y]\nalias = 'a'", "models.\"y\".alias: 'a' stands for 'x' already"),
        ("alias = ['a=b']\n[models.c]\nalias = 'a'", "alias: 'a' is an alias in a model's table too"),
        ("[models.'o/M']\n[models.'o/m']", "models.\"o/m\": 'o/M' has a table already"),
        ("[models.x]\nchat_template_kwargs = 1", 'models."x".chat_template_kwargs: 1 is not a table'),
        ("[models.x]\nchat_template_kwargs = { a = 2026-01-01 }", "is not made of strings, numbers"),
        ("[models.x]\nchat_template_kwargs = { messages = 1 }", "the server sets 'messages' itself"),
    ],
)
def test_one_line_that_names_file_and_key(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "nano.toml"
    path.write_text(text)
    with pytest.raises(SettingError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert told in message and "\n" not in message


def test_a_secret_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "file").write_text('api-key = "hunter2"')
    with pytest.raises(SettingError, match="api-key: the value is not a list") as caught:
        read(tmp_path / "file")
    assert "hunter2" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="No such file"):
        read(tmp_path / "absent")
    with pytest.raises(SettingError, match="Is a directory"):
        read(tmp_path)
    (tmp_path / "latin").write_bytes(b"host = '\xff'")
    with pytest.raises(SettingError, match=r"latin: .*utf-8"):
        read(tmp_path / "latin")
