"""A headless Chromium, driven over its own DevTools protocol: a socket, no driver and no framework."""

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.sync.client import ClientConnection, connect

FLAGS: Final = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--disable-extensions", "--disable-default-apps", "--mute-audio",
    "--hide-scrollbars", "--force-color-profile=srgb", "--remote-debugging-port=0",
)  # fmt: skip
DESK: Final = (1360, 860)
PHONE: Final = (360, 740)
# A browser that starts on a busy machine; whoever waits this long has waited for nothing.
PATIENCE_S: Final = 90
_KEYS: Final = {"Enter": ("Enter", 13, "\r"), "Escape": ("Escape", 27, ""), "Tab": ("Tab", 9, "")}


def chromium_path() -> str:
    """Return where Chromium is; skips the test, and says why, where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium: the browser tests need Debian's package chromium (apt-get install chromium)")


class Browser:
    """A running Chromium, and the socket on which everything is said to it."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._pages: dict[str, Page] = {}
        self._contexts: list[str] = []

    def page(self, size: tuple[int, int] = DESK) -> "Page":
        """Open an empty page in a profile of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        made = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        session = self.call("Target.attachToTarget", targetId=made["targetId"], flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        self._contexts.append(context)
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility", "DOM"):
            page.call(f"{domain}.enable")
        page.resize(size)
        return page

    def close_pages(self) -> None:
        """Close all pages: one that is left open goes on asking its server, and drawing, for hours."""
        self._pages.clear()
        while self._contexts:
            self.call("Target.disposeBrowserContext", browserContextId=self._contexts.pop())

    def call(self, method: str, session: str | None = None, **params: Any) -> Any:
        """Say one thing to the browser and return its answer; what else it says goes to the pages."""
        number = next(self._ids)
        said = {"id": number, "method": method, "params": params}
        self._socket.send(json.dumps(said | ({"sessionId": session} if session else {})))
        while True:
            heard = json.loads(self._socket.recv(timeout=PATIENCE_S))
            if heard.get("id") == number:
                assert "error" not in heard, f"{method}: {heard['error']}"
                return heard["result"]
            if page := self._pages.get(heard.get("sessionId", "")):
                page.heard(heard["method"], heard["params"])


class Page:
    """One page: what it shows, what is done to it, and what went wrong in it."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.problems: list[str] = []

    def call(self, method: str, **params: Any) -> Any:
        return self._browser.call(method, self._session, **params)

    def heard(self, method: str, params: dict[str, Any]) -> None:
        """Keep what a person would see in red in the browser's log."""
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(f"console: {[one.get('value') for one in params['args']]}")
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            entry = params["entry"]
            self.problems.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")
        elif method == "Network.loadingFailed" and not params.get("canceled"):
            self.problems.append(f"network: {params['errorText']} {params['type']}")

    # --- looking ---------------------------------------------------------------------------------

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def wait(self, expression: str, timeout_s: float = 45.0) -> Any:
        """Wait until an expression is true and return its value; shows the page's text where it never is."""
        deadline = time.monotonic() + timeout_s
        while not (value := self.run(expression)):
            if time.monotonic() > deadline:
                text = self.run("document.body.innerText")
                raise AssertionError(f"never true: {expression}\n{text}\n{self.problems}")
            time.sleep(0.03)
        return value

    def wait_text(self, text: str, where: str = "#transcript", timeout_s: float = 45.0) -> None:
        """Wait until an element's text contains this."""
        self.wait(f"document.querySelector({_js(where)})?.innerText.includes({_js(text)})", timeout_s)

    def texts(self, selector: str) -> list[str]:
        """Return the text of all elements with this selector that are shown."""
        found: list[str] = self.run(
            f"[...document.querySelectorAll({_js(selector)})].filter((e) => e.checkVisibility())"
            ".map((e) => e.innerText.trim())"
        )
        return found

    # --- doing -----------------------------------------------------------------------------------

    def go(self, url: str) -> None:
        """Open an address and wait until the page and its scripts have been read."""
        self._renew("Page.navigate", url=url)

    def reload(self) -> None:
        self._renew("Page.reload")

    def _renew(self, method: str, **params: Any) -> None:
        """Wait for the new page: what was there may still answer for a moment."""
        self.run("window.isOld = true")
        self.call(method, **params)
        self.wait("!window.isOld && document.readyState === 'complete'", 60)

    def resize(self, size: tuple[int, int], *, is_dark: bool = False) -> None:
        """Give the window a size, and the system its colours."""
        width, height = size
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def click(self, selector: str, text: str | None = None) -> None:
        """Click the last element of this selector, with this text, where a person would.

        As a person does it again, where the page moved under the mouse.
        """
        is_meant = f"({_js(text)} === null || e.innerText.trim() === {_js(text)})"
        found = (
            f"[...document.querySelectorAll({_js(selector)})]"
            f".filter((e) => e.checkVisibility() && {is_meant}).at(-1)"
        )
        for _ in range(5):
            self.wait(f"Boolean({found})")
            x, y = self.run(
                "(() => { window.isHit = false; addEventListener('click', (event) => { "
                f"const e = event.target.closest({_js(selector)}); window.isHit = e !== null && {is_meant}; "
                f"}}, {{capture: true, once: true}}); const e = {found}; "
                "e.scrollIntoView({block: 'center'}); "
                "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
            )
            for kind in ("mousePressed", "mouseReleased"):
                self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
            if self.run("window.isHit ?? true"):
                return
        raise AssertionError(f"five clicks missed {selector} {text or ''}")

    def write(self, text: str) -> None:
        """Write into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        name, code, text = _KEYS[key]
        about = {"key": name, "code": name, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def picture(self, path: Path) -> None:
        """Keep what is shown as a PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


def _js(value: Any) -> str:
    return json.dumps(value)


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Run a browser for the length of the block, with a profile of its own in the folder."""
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [chromium_path(), *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        # No pings: their thread draws random bytes for the whole life of the browser, in the middle of other
        # tests' Hypothesis strategies, which then take them for their own.
        with connect(
            _address(folder, process), max_size=None, open_timeout=PATIENCE_S, ping_interval=None
        ) as socket:
            yield Browser(socket)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def _address(folder: Path, process: subprocess.Popen[bytes]) -> str:
    """Wait until the browser has written where it listens."""
    file = folder / "profile" / "DevToolsActivePort"
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        if file.exists() and len(lines := file.read_text().split()) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(0.05)
    raise AssertionError(f"Chromium did not start:\n{(folder / 'chromium.log').read_text()[-3000:]}")
