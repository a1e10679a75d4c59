"""The tables in README.md are complete and true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from mlx_server_nano.api.app import build_app
from mlx_server_nano.api.gate import Gate
from mlx_server_nano.api.routing import Methods
from mlx_server_nano.cli.app import COMMANDS
from mlx_server_nano.cli.checks import check
from mlx_server_nano.config import SETTINGS, Setting, Settings, resolve
from mlx_server_nano.config.models import MODEL_KEYS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def row(setting: Setting) -> str:
    """The line that README.md must have for a setting."""
    flag = f"{setting.flag} {setting.metavar}".strip()
    variable = f"`{setting.env}`" if setting.env else ""
    return f"| `{flag}` | {variable} | {setting.default_text} | {setting.help} |"


def test_settings_table():
    table = README.split("| Flag | Variable | Default | Meaning |")[1].split("\n\n")[0]
    assert table.splitlines()[2:] == [row(setting) for setting in SETTINGS]


def test_the_configuration_page(tmp_path):
    page = (ROOT / "docs" / "configuration.md").read_text()
    table = page.split("| Key | Example | Meaning |")[1].split("\n\n")[0]
    alias, *rows = table.splitlines()[2:]
    assert alias.startswith("| `alias` |")
    assert rows == [f"| `{key.name}` | `{key.example}` | {key.help} |" for key in MODEL_KEYS]
    example = page.split("```toml\n")[1].split("```")[0]
    (tmp_path / "file.toml").write_text(example)
    check(resolve({"config": str(tmp_path / "file.toml")}, {}))
    used = {name for table in tomllib.loads(example)["models"].values() for name in table}
    assert used == {"alias", *(key.name for key in MODEL_KEYS)}
    for key in MODEL_KEYS:
        key.kind.read(tomllib.loads(f"example = {key.example}")["example"])


def test_settings_have_one_place():
    assert [setting.name for setting in SETTINGS] + ["models"] == list(Settings.__dataclass_fields__)


def test_the_commands_page() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    table = page.split("| Command | What it does |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `([a-z]+)", table, re.MULTILINE) == list(COMMANDS)
    told = re.findall(r"^\| .*`/([a-z]+)", page, re.MULTILINE)
    assert set(told) >= {"model", "system", "think", "set", "tools", "clear", "save"}


def routes() -> set[tuple[str, str]]:
    app: Any = build_app(Settings(), None, None, Gate())  # type: ignore[arg-type]
    while not hasattr(app, "routes"):
        app = app.__dict__.get("_app") or app.__dict__["app"]
    found = set()
    for route in app.routes:
        assert isinstance(route, Route) and isinstance(route.endpoint, Methods)
        path = re.sub(r"\{(\w+)(:path)?\}", "{id}", route.path)
        found |= {(method, path) for method in route.endpoint.methods - {"HEAD"}}
    return found


def test_endpoint_table():
    table = README.split("| Endpoint | What it does |")[1].split("\n\n")[0]
    told = {(method, path) for method, path in re.findall(r"`([A-Z]+) (/[^`]*)`", table)}
    assert told == routes()


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/ARCHITECTURE.md",
        "docs/cli.md",
        "docs/configuration.md",
        "docs/models.md",
        "benchmarks/README.md",
    ],
)
def test_links_lead_somewhere(page):
    source = ROOT / page
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", source.read_text()):
        assert (source.parent / target).exists(), target


def test_architecture_names_every_module():
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    for module in sorted((ROOT / "src" / "mlx_server_nano").rglob("*.py")):
        if module.name != "__init__.py":
            assert re.search(rf"\b{re.escape(module.name)}\b", text), module
