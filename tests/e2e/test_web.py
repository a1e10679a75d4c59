"""The web page in a real browser, with the built-in model behind it. No script error, no violation of its own
Content-Security-Policy and no request to elsewhere is forgiven."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from tests.e2e.chromium import Chromium, Page, find
from tests.e2e.conftest import ServerProcess, wait_until

Opening = Callable[..., AbstractContextManager[Page]]
# The model is too quick to be stopped by hand: the page gets an answer's beginning, and then waits.
HALTING = """(() => {
  const real = window.fetch;
  window.fetch = async (path, options) => {
    const response = await real(path, options);
    if (!path.endsWith("completions")) return response;
    const reader = response.body.getReader();
    const body = new ReadableStream({
      start: async (to) => to.enqueue((await reader.read()).value),
      pull: (to) => new Promise((_, fail) => options.signal.addEventListener("abort", () => fail(options.signal.reason))),
    });
    return new Response(body, response);
  };
})()"""
MARKDOWN = """import('/web/markdown.js').then((module) => {
  window.show = (text, steps = 1) => {
    const view = new module.Markdown(document.createElement('div'));
    for (let i = 1; i <= steps; i++) view.update(text.slice(0, text.length * i / steps));
    return view.element.innerHTML;
  };
})"""
DECODE = """import('/web/sse.js').then((module) => {
  const decoder = new module.EventDecoder(), events = [], stream = STREAM;
  for (let i = 0; i < stream.length; i += SIZE) events.push(...decoder.feed(stream.slice(i, i + SIZE)));
  return events;
})"""
ANSWER = "[...document.querySelectorAll('.answer')].at(-1)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    executable = find()
    if executable is None:
        pytest.skip("needs Chromium or Chrome")
    browser = Chromium(executable, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def opening(browser: Chromium) -> Opening:
    @contextmanager
    def opened(server: ServerProcess, expected: tuple[str, ...] = (), **size: Any) -> Iterator[Page]:
        """The page; `expected` are parts of errors that belong to the test."""
        with browser.page(**size) as page:
            page.go(f"{server.url}/")
            yield page
            assert [error for error in page.errors if not any(part in error for part in expected)] == []
            assert [url for url in page.urls if not url.startswith(f"{server.url}/")] == []

    return opened


def ask(page: Page, text: str) -> None:
    page.until("document.getElementById('model-name').textContent === 'demo'")
    page.type(text, "#prompt")
    page.press("Enter")


def answered(page: Page, count: int = 1) -> str:
    """The last answer's text, when it is complete."""
    page.until(f"document.querySelectorAll('.answer').length === {count} && document.getElementById('stop').hidden")
    return str(page.run(f"{ANSWER}.querySelector('.prose').innerText"))


def test_a_chat(demo, opening):
    with opening(demo) as page:
        assert page.run("document.title") == "MLX Server Nano"
        ask(page, "What is 456 + 789?")
        assert answered(page) == "456 + 789 = 1245"
        assert page.run(f"{ANSWER}.querySelector('details').open") is False, "thinking is folded"
        assert page.text(".thinking summary").startswith("Thought")
        assert page.run(f"{ANSWER}.querySelector('.thought').textContent").startswith("456 + 789")
        assert "tokens" in page.text(".figures")
        page.click(".thinking summary")
        assert page.run(f"{ANSWER}.querySelector('details').open") is True

        ask(page, "Count from 1 to 4.")
        assert answered(page, 2) == "1, 2, 3, 4"
        page.reload()
        page.until("document.querySelectorAll('#conversations li').length === 1")
        page.click("#conversations .open")
        assert page.run("document.querySelectorAll('.message').length") == 4, "conversations are kept"
        page.click("#conversations li .ghost")
        page.until("document.querySelectorAll('#conversations li').length === 0")
        page.click("#toast button")
        page.until("document.querySelectorAll('.message').length === 4")


def test_editing_and_asking_again(demo, opening):
    with opening(demo) as page:
        ask(page, "What is 3 + 4?")
        assert answered(page) == "3 + 4 = 7"
        page.press("ArrowUp")
        page.run("document.querySelector('.editor textarea').select()")
        page.type("Count from 1 to 4.")
        page.press("Enter")
        assert answered(page) == "1, 2, 3, 4"
        page.click(".answer [aria-label='Answer again']")
        page.until(f"{ANSWER}.querySelector('.prose').innerText === '1, 2, 3, 4'")
        assert page.run("document.querySelectorAll('.message').length") == 2
        page.press("k", control=True)
        assert page.run("document.querySelectorAll('.message').length") == 0
        assert page.run("document.querySelectorAll('#conversations li').length") == 1


def test_settings_are_sent(demo, opening):
    with opening(demo) as page:
        page.press(".", control=True)
        page.type("Answer only in French.", "[name=system]")
        page.type("3", "[name=max_tokens]")
        page.run("document.querySelector('[name=thinking]').value = 'off'")
        page.type("7", "[name=seed]")
        ask(page, "Hello!")
        assert answered(page).startswith("Bon")
        assert page.run(f"{ANSWER}.querySelector('.thinking').hidden") is True
        assert "3 tokens" in page.text(".figures") and "cut off" in page.text(".figures")
        page.type("9", "[name=temperature]")
        ask(page, "Hello!")
        page.until("document.getElementById('toast').innerText.includes('temperature')")
        page.click("#settings-reset")
        assert page.run("document.querySelector('[name=seed]').value") == ""


def test_a_tool_loop(demo, opening):
    with opening(demo) as page:
        page.click("#panel-toggle")
        page.click("#tab-tools")
        page.type("{", "[name=tools]")
        assert "not JSON" in page.text("#tools-error")
        page.click("#tools-example")
        assert page.text("#tools-error") == ""
        ask(page, "Please check the weather in Oslo and set a timer for 5 minutes")
        page.until("document.querySelectorAll('.call .field:not([hidden])').length === 2")
        names = page.run("[...document.querySelectorAll('.call b')].map(e => e.textContent)")
        given = page.run("[...document.querySelectorAll('.call > pre')].map(e => JSON.parse(e.textContent))")
        assert list(zip(names, given, strict=True)) == [
            ("get_weather", {"city": "Oslo"}),
            ("set_timer", {"minutes": 5}),
        ]
        page.type('{"temperature": -7, "condition": "sunny"}', ".call textarea")
        page.press("Enter")
        page.type('{"status": "ok", "total": 300}')
        page.press("Enter")
        answer = answered(page, 2)
        assert "-7" in answer and "300" in answer
        assert page.run("document.querySelectorAll('.returned:not([hidden])').length") == 2


def test_stop(demo, opening):
    with opening(demo) as page:
        page.run(HALTING)
        ask(page, "Count from 1 to 30.")
        page.until(f"!!{ANSWER} && {ANSWER}.classList.contains('running') && !document.getElementById('stop').hidden")
        page.press("Escape")
        page.until(
            "document.getElementById('stop').hidden && document.querySelector('.figures').innerText.includes('stopped')"
        )
        wait_until(lambda: demo.running() == 0)
        assert page.run("document.activeElement.id") == "prompt"


def test_an_error_is_shown_and_can_be_tried_again(demo, opening):
    with opening(demo, expected=("404", "400", "503")) as page:
        page.press("j", control=True)
        page.type("nobody/nothing", "#model-search")
        page.press("Enter")
        page.until("document.getElementById('loading').innerText.includes('nobody/nothing')")
        page.type("Hello", "#prompt")
        page.press("Enter")
        page.until("!!document.querySelector('.failure:not([hidden])')")
        assert "nobody/nothing" in page.text(".failure")
        page.click("#model")
        page.type("demo", "#model-search")
        page.press("Enter")
        page.until("document.getElementById('model-dot').dataset.state === 'ready'")
        page.until("document.getElementById('loading').hidden")
        page.click(".failure button")
        assert answered(page) == "Hello! How can I help you?"


def test_the_key_is_asked_for_and_used(start, opening):
    server = start("--api-key", "sesame", HF_HUB_OFFLINE="1")
    with opening(server, expected=("401",)) as page:
        page.until("document.getElementById('key-dialog').open")
        page.type("wrong", "#key-input")
        page.press("Enter")
        page.until("document.getElementById('key-problem').innerText.includes('wrong')")
        page.run("document.getElementById('key-input').select()")
        page.type("sesame")
        page.press("Enter")
        ask(page, "Hello")
        assert answered(page) == "Hello! How can I help you?"
        assert page.headers[f"{server.url}/v1/chat/completions"]["authorization"] == "Bearer sesame"
        assert page.run("JSON.stringify(localStorage).includes('sesame')") is False, "only for this tab"
        page.run("document.getElementById('key-open').click()")
        page.click("#key-remember")
        page.run("document.getElementById('key-form').requestSubmit()")
        assert page.run("JSON.stringify(localStorage).includes('sesame')") is True
    assert not [line for line in server.log if "sesame" in line]


def test_loading_and_the_status_view(start, opening, tmp_path):
    server = start(HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    with opening(server) as page:
        page.click("#panel-toggle")
        page.click("#tab-status")
        page.until("document.getElementById('status').innerText.includes('No model is loaded')")
        page.until("document.querySelectorAll('#model-list li').length === 1")
        page.click("#model")
        page.press("Enter")
        page.until("document.querySelector('#status .card h3')?.innerText === 'demo'")
        page.until("document.querySelector('#status .card .label').innerText === 'Loaded'")
        page.until("document.getElementById('loading').hidden")
        page.until("document.getElementById('status').innerText.includes('Unloads in')")  # the load no longer holds it
        status = page.text("#status")
        assert "0 running, 0 waiting" in status and "4,096 tokens" in status
        page.click("#status .card button")
        page.until("document.getElementById('status').innerText.includes('No model is loaded')")
        assert server.health()["models"] == []


@pytest.mark.parametrize(("width", "dark"), [(360, True), (390, False), (1280, True)])
def test_nothing_is_wider_than_the_screen(demo, opening, width, dark):
    wide = "document.documentElement.scrollWidth > innerWidth || document.getElementById('scroll').scrollWidth > innerWidth"
    with opening(demo, width=width, height=700, dark=dark) as page:
        assert page.run(wide) is False
        page.run("settings.elements.max_tokens.value = 8; settings.dispatchEvent(new Event('input'))")
        ask(page, "Repeat: " + "x" * 300)
        answered(page)
        assert page.run(wide) is False
        page.run("document.getElementById('panel-toggle').click()")
        for tab in ("settings", "tools", "status"):
            page.run(f"document.getElementById('tab-{tab}').click()")
            assert page.run(wide) is False, tab
            assert page.run("document.getElementById('panel').getBoundingClientRect().right <= innerWidth") is True


SAFE = [
    ("plain <b>text</b>", "<p>plain &lt;b&gt;text&lt;/b&gt;</p>"),
    ("[a](javascript:alert(1))", "<p>[a](javascript:alert(1))</p>"),
    ("[a](https://b.c/d_e_f)", '<p><a href="https://b.c/d_e_f" target="_blank" rel="noopener noreferrer">a</a></p>'),
    ("**a *b* `c*d*`**", "<p><strong>a <em>b</em> <code>c*d*</code></strong></p>"),
    ("2 * 3 * 4 and a_b_c", "<p>2 * 3 * 4 and a_b_c</p>"),
    ("# A\nb", "<h3>A</h3><p>b</p>"),
    ("- a\n  1. b\n- c", "<ul><li>a<ol><li>b</li></ol></li><li>c</li></ul>"),
    ("3. a\n4. b\n\nc", '<ol start="3"><li>a</li><li>b</li></ol><p>c</p>'),
    ("> a\n> b", "<blockquote><p>a\nb</p></blockquote>"),
    ("**open", "<p>**open</p>"),
]  # fmt: skip


def test_markdown_is_safe_and_grows_with_the_text(demo, opening):
    with opening(demo) as page:
        page.run(MARKDOWN)
        for text, html in SAFE:
            assert page.run(f"show({json.dumps(text)})") == html
            assert page.run(f"show({json.dumps(text)}, {len(text)})") == html
        code = "```python\na < b\n\n# c\n```\nafter"
        assert page.run(f"show({json.dumps(code)}, {len(code)})") == page.run(f"show({json.dumps(code)})")
        assert "<code>a &lt; b\n\n# c</code>" in page.run(f"show({json.dumps(code)})")
        table = "|a|b|\n|-|-|\n|1|2|"
        assert "<td>2</td>" in page.run(f"show({json.dumps(table)})")


def test_events_are_decoded_however_they_are_cut(demo, opening):
    stream = 'data: {"a": 1}\r\n\r\n: keep-alive\n\ndata:one\ndata: two\n\nevent: x\ndata: [DONE]\n\ndata: cut off'
    with opening(demo) as page:
        for size in (1, 2, 5, len(stream)):
            script = DECODE.replace("STREAM", json.dumps(stream)).replace("SIZE", str(size))
            assert page.run(script) == [
                {"data": '{"a": 1}'},
                {"comment": "keep-alive"},
                {"data": "one\ntwo"},
                {"data": "[DONE]"},
            ]
