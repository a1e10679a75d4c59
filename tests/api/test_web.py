"""The web page as it is served. What it does is told by tests/e2e/test_web.py, in a browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

FOLDER = Path(__file__).parents[2] / "src/mlx_server_nano/web"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.files: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed((FOLDER / "index.html").read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.attributes += attrs
        self.ids += [given["id"] or ""] if "id" in given else []
        assert tag != "script" or "src" in given, "no inline scripts"
        assert tag != "style", "no inline styles"
        name = "href" if tag == "link" else "src"
        self.files += [given[name] or ""] if name in given else []


@pytest.fixture
def client(start):
    with httpx.Client(base_url=start(api_key=("secret",)).url) as client:
        yield client


def test_browsers_get_the_page_and_other_clients_the_endpoints(client):
    page = client.get("/", headers={"accept": BROWSER})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.content == (FOLDER / "index.html").read_bytes()
    for accept in ("*/*", "application/json", ""):
        other = client.get("/", headers={"accept": accept})
        assert other.json()["name"] == "mlx-server-nano"
        assert other.headers["vary"] == page.headers["vary"] == "accept"


def test_the_page_is_made_of_files_that_are_there(client):
    page = Page()
    modules = {
        f"web/{found}" for path in FOLDER.glob("*.js") for found in re.findall(r'from "\./(.+?)"', path.read_text())
    }
    served = {f"web/{path.name}" for path in FOLDER.iterdir()} - {"web/index.html"}
    assert {*page.files, *modules} == served
    for name in served:
        response = client.get(f"/{name}")
        assert response.content == (FOLDER / Path(name).name).read_bytes()
        assert re.fullmatch(r"text/(javascript|css); charset=utf-8|image/svg\+xml", response.headers["content-type"])
    for name in ("index.html", "none.js", "..%2Fapi%2Fweb.py", "..%2f..%2fpyproject.toml"):
        assert client.get(f"/web/{name}").status_code == 404


def test_its_policy(client):
    for path in ("/", "/web/app.js"):
        headers = client.get(path, headers={"accept": BROWSER}).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
        assert {policy[name] for name in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
        assert headers["x-content-type-options"] == "nosniff"
    assert not [name for name, _ in Page().attributes if name == "style" or name.startswith("on")]


def test_what_is_known_is_not_sent_again(client):
    first = client.get("/web/app.js")
    assert first.headers["cache-control"] == "no-cache"
    etag = first.headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}'):
        again = client.get("/web/app.js", headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert client.get("/web/app.js", headers={"if-none-match": '"other"'}).status_code == 200


def test_the_scripts_find_what_they_look_for():
    ids = Page().ids
    assert len(set(ids)) == len(ids)
    scripts = "".join(path.read_text() for path in FOLDER.glob("*.js"))
    wanted = set(re.findall(r'\$\("([\w-]+)"\)', scripts))
    assert wanted and wanted <= set(ids)
    icons = set(re.findall(r'(?:icon|iconButton)\("(\w+)"', scripts))
    assert {f"i-{name}" for name in icons} <= set(ids)
    assert "innerHTML" not in scripts
