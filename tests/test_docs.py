"""The tables in README.md are complete and true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from mlx_server_nano.api.app import build_app
from mlx_server_nano.api.gate import Gate
from mlx_server_nano.api.routing import Methods
from mlx_server_nano.config import SETTINGS, Setting, Settings

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


def test_settings_have_one_place():
    assert [setting.name for setting in SETTINGS] == list(Settings.__dataclass_fields__)


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


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/ARCHITECTURE.md", "benchmarks/README.md"])
def test_links_lead_somewhere(page):
    source = ROOT / page
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", source.read_text()):
        assert (source.parent / target).exists(), target


def test_architecture_names_every_module():
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    for module in sorted((ROOT / "src" / "mlx_server_nano").rglob("*.py")):
        if module.name != "__init__.py":
            assert re.search(rf"\b{re.escape(module.name)}\b", text), module
