"""A headless Chromium that is driven over its own protocol (DevTools), through a pair of pipes: no driver and no port."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, Self

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC: Final = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
FLAGS: Final = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # which containers don't allow; only the tests' own server is visited
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--use-mock-keychain",
)
# Chromium reads its commands from descriptor 3 and answers on 4.
LAUNCH: Final = """import fcntl, os, sys
commands, answers = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(commands, 3)
os.dup2(answers, 4)
os.execv(sys.argv[3], sys.argv[3:])"""
LOADED: Final = "document.readyState === 'complete' && !!document.getElementById('prompt')"
PATIENCE: Final = 80.0  # seconds, for machines that are busy with other tests


def find() -> str | None:
    found = [path for name in NAMES if (path := shutil.which(name))]
    return found[0] if found else str(MAC) if MAC.exists() else None


class Chromium:
    def __init__(self, executable: str, profile: Path) -> None:
        their_in, our_out = os.pipe()
        our_in, their_out = os.pipe()
        self._in, self._out = our_in, our_out
        self._rest = b""
        self._count = 0
        self.pages: dict[str, Page] = {}
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                LAUNCH,
                str(their_in),
                str(their_out),
                executable,
                *FLAGS,
                f"--user-data-dir={profile}",
            ],
            pass_fds=(their_in, their_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(profile)},
        )
        os.close(their_in)
        os.close(their_out)

    def close(self) -> None:
        os.close(self._out)  # it ends with the pipe
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        os.close(self._in)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        number = self._count
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while True:
            answer = self._next(end - time.monotonic())
            assert answer is not None, f"{method}: no answer"
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def drain(self, seconds: float) -> None:
        """Take in the events of this time."""
        end = time.monotonic() + seconds
        while self._next(end - time.monotonic()) is not None:
            pass

    def _next(self, seconds: float) -> dict[str, Any] | None:
        """The next message, None if the time passes without one. Events go to their pages."""
        end = time.monotonic() + seconds
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            data = os.read(self._in, 1 << 20) if ready else b""
            if not data:
                assert not ready, "Chromium ended"
                return None
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message and (page := self.pages.get(message.get("sessionId", ""))):
            page.take(message["method"], message["params"])
        return message

    def page(self, **size: Any) -> Page:
        return Page(self, **size)


class Page:
    """A tab with a profile of its own.

    errors: what went wrong in it. urls: all that it asked for; headers: what it sent to them last, names in small letters.
    """

    def __init__(
        self, browser: Chromium, *, width: int = 1280, height: int = 800, dark: bool = False, scale: float = 1
    ) -> None:
        self._browser = browser
        self.errors: list[str] = []
        self.urls: list[str] = []
        self.headers: dict[str, dict[str, str]] = {}
        self._context = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        browser.pages[self._session] = self
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)
        del self._browser.pages[self._session]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def take(self, method: str, event: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning", "assert"):
            self.errors.append(str([argument.get("value") for argument in event["args"]]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{event['entry']['text']} {event['entry'].get('url', '')}")
        elif method == "Audits.issueAdded" and event["issue"]["code"] == "ContentSecurityPolicyIssue":
            self.errors.append(json.dumps(event["issue"]["details"]))
        elif method == "Network.requestWillBeSent":
            self.urls.append(event["request"]["url"])
            self.headers[event["request"]["url"]] = {k.lower(): v for k, v in event["request"]["headers"].items()}

    def go(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until(LOADED)

    def reload(self) -> None:
        self.run("window.left = true")
        self.call("Page.reload")
        self.until(f"!window.left && {LOADED}")

    def run(self, script: str) -> Any:
        """The value of an expression, promises awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str) -> Any:
        """Wait for an expression to come true, and return it."""
        end = time.monotonic() + PATIENCE
        while not (value := self.run(script)):
            assert time.monotonic() < end, (script, self.errors, self.run("document.body?.innerText"))
            self._browser.drain(0.02)
        return value

    def text(self, selector: str) -> str:
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def click(self, selector: str) -> None:
        """With a real mouse, where the element is: once it has stayed in its place from one look to the next and nothing lies
        over it."""
        self.run("window.placeSeen = null")
        point = self.until(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e) return null;"
            " e.scrollIntoView({block: 'nearest'}); const r = e.getBoundingClientRect();"
            " const at = [r.x + r.width / 2, r.y + r.height / 2], seen = String(window.placeSeen);"
            " window.placeSeen = at; return r.width && seen === String(at)"
            " && e.contains(document.elementFromPoint(...at)) && at; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=point[0], y=point[1], button="left", clickCount=1)

    def type(self, text: str, selector: str | None = None) -> None:
        if selector is not None:
            self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, control: bool = False) -> None:
        codes = {"Enter": 13, "Escape": 27, "ArrowDown": 40, "ArrowUp": 38, "Tab": 9}
        given: dict[str, Any] = {
            "key": key,
            "code": key if len(key) > 1 else f"Key{key.upper()}",
            "modifiers": 2 if control else 0,
        }
        given["windowsVirtualKeyCode"] = codes.get(key, ord(key[0].upper()))
        text = {"text": "\r"} if key == "Enter" and not control else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **given, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **given)

    def screenshot(self) -> bytes:
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
